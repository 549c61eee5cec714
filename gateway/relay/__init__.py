"""Moves bytes between sockets: the event loop's poller, socket options, and the socket relay."""
