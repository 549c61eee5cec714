"""Implements the HTTP server for health, metrics and status, the admin socket and its client, events and logs."""
