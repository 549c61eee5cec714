"""Composition root: creates the units from a configuration, and runs the service from start to stop."""
