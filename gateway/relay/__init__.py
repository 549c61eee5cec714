"""Moving bytes between plain sockets: readiness, socket options, and the straight relay."""
