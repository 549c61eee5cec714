"""How people and machines look at the service: HTTP, metrics, logs, the status page, notifications."""
