"""Finds hazards to the data and secrets of containers. `snapshot.py` queries the engine; most modules do no I/O."""
