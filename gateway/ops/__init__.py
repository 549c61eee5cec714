"""Implements the ops server: health, metrics and status over HTTP, and an admin socket for commands.

Also implements the ops server's client, the event log, and structured logs.
"""
