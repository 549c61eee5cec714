"""SSH: host keys, credentials, connections and channels. Only this package uses asyncssh."""
