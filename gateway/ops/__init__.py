"""Implements the HTTP server, the admin socket and its client, metrics, logs, the status page and sd_notify."""
