"""Defines the error for a refusal or an invalid reply of a proxy."""

from gateway.errors import ReachError


class ProxyReplyError(ReachError):
    """The proxy refuses the login or the connection, or its reply is invalid."""
