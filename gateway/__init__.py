"""A remote storage connectivity gateway: tunnels, forwards, checks and metrics for a fleet of containers."""

__version__ = "0.1.0"
