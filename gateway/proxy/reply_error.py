"""The failure that a proxy reports."""

from gateway.errors import ReachError


class ProxyReplyError(ReachError):
    """The proxy refuses the login or the connection, or its reply is invalid."""
