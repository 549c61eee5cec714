"""Defines the error for a refusal or an invalid reply of a proxy."""

from gateway.errors import TargetUnreachableError


class ProxyReplyError(TargetUnreachableError):
    """The proxy refused the login or the connection, or sent an invalid reply."""
