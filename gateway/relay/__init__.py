"""Relays bytes between sockets. Also polls descriptors, dials over TCP, sets socket options and resolves names."""
