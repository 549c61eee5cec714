"""Child processes: how they start, what they inherit, how they stop, and their standard streams."""
