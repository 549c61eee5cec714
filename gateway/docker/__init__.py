"""Keeps Docker networks and attachments as configured, and identifies clients."""
