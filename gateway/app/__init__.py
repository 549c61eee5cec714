"""The composition root: from a configuration to running units, and their life from start to stop."""
