"""Finds hazards to the data and secrets of containers: the command `gateway audit`."""
