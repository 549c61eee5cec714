"""Keeps components running: the supervisor restarts components after a crash, and uplinks keep tunnels open."""
