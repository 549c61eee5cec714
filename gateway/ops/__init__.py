"""HTTP server, admin socket and its client, metrics, logs, status page and sd_notify."""
