"""Defines the error for a refusal or an invalid reply of a proxy."""

from gateway.errors import TargetAccessError


class ProxyReplyError(TargetAccessError):
    """The proxy refused the login or the connection, or sent an invalid reply."""
