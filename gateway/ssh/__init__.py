"""Connects to SSH servers with asyncssh: verifies host keys, logs in, and opens channels on pooled connections."""
