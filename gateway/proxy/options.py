"""Defines the configuration keys of proxy tunnels."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gateway.contracts.config_types import POSITIVE, Duration, HostPort
from gateway.contracts.secret import Secret

DEFAULT_PORTS = {"socks5": 1080, "socks5h": 1080, "http": 8080, "https": 443}
"""The default port for each URL scheme. `https` means TLS to the proxy."""


@dataclass(frozen=True)
class ProxyOptions:
    """The options of a tunnel through a SOCKS5 or HTTP proxy. The proxy resolves the host names of targets.

    Args:
        url: `socks5://host:port`, `http://host:port` (CONNECT), or `https://host:port` (CONNECT, with TLS to the
            proxy).
        user: User name; can also be part of `url`. Without user name and password, the gateway does not log in.
        password: Password. If neither `user` nor `url` sets a user name, this value is `user:password`.
        ca_file: Certificate authorities for an `https` proxy, in PEM. Default: those of the system.
        connect_timeout: Time limit for a connection to the proxy.
        dial_timeout: Time limit for a connection to a target through the proxy.
        interval: Time between two probes of the proxy.
    """

    url: str
    user: str | None = None
    password: Secret | None = None
    ca_file: Path | None = None
    connect_timeout: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    dial_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    interval: Duration = field(default=Duration(5.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError as error:
            raise ValueError(f"url: {self.url!r}: {error}: use brackets only for an IPv6 address") from error
        if parts.password is not None:
            raise ValueError("url: contains a password, which the status would show: use password_file")
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError(
                f"url: {self.url!r} must begin with one of {', '.join(f'{name}://' for name in DEFAULT_PORTS)}"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"url: the port in {self.url!r} is not valid: use a port from 1 to 65535") from error
        if not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
            raise ValueError(f"url: {self.url!r} must be {parts.scheme}://host:port")
        if parts.username is not None and self.user is not None:
            raise ValueError("url: contains a user name, but user is set too: remove one of them")

    @property
    def endpoint(self) -> HostPort:
        """The host and port of the proxy."""
        parts = urlsplit(self.url)
        return HostPort(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])

    @property
    def is_socks(self) -> bool:
        """Whether the proxy is a SOCKS5 proxy. Otherwise it is an HTTP proxy."""
        return urlsplit(self.url).scheme.startswith("socks5")

    @property
    def tls(self) -> bool:
        """Whether the connection to the proxy uses TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def login(self) -> str | None:
        """The user name, from `user` or the URL."""
        return self.user or urlsplit(self.url).username
