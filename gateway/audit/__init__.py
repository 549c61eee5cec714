"""Finds hazards to the data and secrets of containers: `snapshot.py` reads, the rest decides and is pure."""
