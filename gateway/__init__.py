"""Connects containers to remote storage and databases: tunnels, forwarding, health checks and metrics."""

__version__ = "0.1.0"
