"""Connects to SSH servers with asyncssh: host keys, credentials, connections and channels."""
