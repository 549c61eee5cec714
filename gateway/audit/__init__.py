"""Implements the command `gateway audit`, which finds hazards to the data and the secrets of containers."""
