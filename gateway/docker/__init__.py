"""Manages Docker networks, attaches containers to them, and determines which container opened a connection."""
