"""Relays bytes between sockets: relays, their poller, socket options, dials and name resolution."""
