"""Relays bytes between sockets. Also contains the poller, TCP dials, socket options and name resolution."""
