"""Composition root: creates the components from a configuration, and runs the service from start to stop."""
