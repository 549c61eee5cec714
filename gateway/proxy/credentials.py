"""Reads and checks the user name and password for a proxy."""

from dataclasses import dataclass, field

from gateway.errors import FailureReason, TunnelError
from gateway.proxy.options import ProxyOptions

_SOCKS_MAX_LENGTH = 255


@dataclass(frozen=True)
class ProxyCredentials:
    """User name and password for a proxy, in ASCII.

    Args:
        user: The user name.
        password: The password.
    """

    user: str
    password: str = field(repr=False)


def read_credentials(options: ProxyOptions) -> ProxyCredentials | None:
    """Return the user name and password; None if neither is configured. Read the password file, if one is configured.

    Args:
        options: The options of the tunnel.

    Raises:
        TunnelError: The password file cannot be read, or there is a password but no user name, or the protocol cannot
            encode the user name or the password. The error is fatal.
    """
    try:
        password = options.password.reveal() if options.password else ""
    except OSError as error:
        detail = f"password_file: {error.filename}: {error.strerror}"
        raise TunnelError(FailureReason.AUTH, detail, fatal=True) from error
    if not options.login and options.password is None:
        return None
    user = options.login
    if user is None:
        user, colon, password = password.partition(":")
        if not colon:
            detail = "password_file contains no user name: set user, or write user:password into the file"
            raise TunnelError(FailureReason.AUTH, detail, fatal=True)
    _check_encodable(user, password, socks=options.is_socks)
    return ProxyCredentials(user, password)


def _check_encodable(user: str, password: str, *, socks: bool) -> None:
    """Check that the protocol can encode the user name and the password.

    RFC 1929 (SOCKS5) requires 1 to 255 bytes for each. RFC 7617 (HTTP) permits no colon in the user name.
    """
    if socks:
        encodable = all(each.isascii() and 0 < len(each) <= _SOCKS_MAX_LENGTH for each in (user, password))
        rule = f"each have 1 to {_SOCKS_MAX_LENGTH} ASCII characters"
    else:
        encodable = user.isascii() and password.isascii() and ":" not in user
        rule = "be ASCII, without a colon in the user name"
    if not encodable:
        raise TunnelError(FailureReason.AUTH, f"user and password must {rule}: change them", fatal=True)
