"""Keeps components running: backoff, the supervisor of components, and the uplink that keeps one tunnel open."""
