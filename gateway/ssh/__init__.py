"""SSH: host keys, credentials, connections, and the channels that carry clients. The only room with asyncssh."""
