"""SSH: host keys, credentials, connections, and the channels that carry clients. Only this package uses asyncssh."""
