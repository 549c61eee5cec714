"""Accepts the clients of backends, decides which of them to admit, and connects them to targets."""
