"""Relays bytes between sockets: the event loop's poller, socket options, name resolution, and the socket relay."""
