"""Keeps components running: backoff, the supervisor of units, and the uplink that keeps one tunnel open."""
