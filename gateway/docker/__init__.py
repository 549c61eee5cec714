"""Manages Docker networks and the attachments of containers to them, and identifies clients by container."""
