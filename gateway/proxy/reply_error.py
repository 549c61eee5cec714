"""Defines the error for a refusal or an invalid reply of a proxy."""

from gateway.errors import TargetPathError


class ProxyReplyError(TargetPathError):
    """The proxy refused the login or the connection, or sent an invalid reply."""
