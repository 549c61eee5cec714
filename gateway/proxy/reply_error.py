"""Defines the error for a proxy that refuses a connection or sends an invalid reply."""

from gateway.errors import TargetPathError


class ProxyReplyError(TargetPathError):
    """The proxy refused the login or the connection, or sent an invalid reply."""
