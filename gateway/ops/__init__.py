"""Implements the ops server, which provides health, metrics and status over HTTP, and commands on the admin socket.

Also implements a client of the ops server, the event log, and structured logs.
"""
