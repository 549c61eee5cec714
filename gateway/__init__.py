"""Connects containers to remote storage and databases through tunnels. Provides health checks and metrics."""

__version__ = "0.1.0"
