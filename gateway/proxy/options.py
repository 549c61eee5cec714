"""What a configuration may say about a proxy."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gateway.contracts import POSITIVE, Duration, Endpoint, Secret

DEFAULT_PORTS = {"socks5": 1080, "socks5h": 1080, "http": 8080, "https": 443}
"""By the scheme of a proxy's URL; `https` means TLS to the proxy."""


@dataclass(frozen=True)
class ProxyOptions:
    """A proxy that opens TCP connections for us; names are looked up at its side.

    Args:
        url: `socks5://host:port`, `http://host:port` (CONNECT), or `https://host:port` (CONNECT, and TLS to the
            proxy).
        user: Login; absent: none is tried, unless there is a password.
        password: For `user`; where none is named, `user:password`.
        ca_file: Authorities that may have signed an `https` proxy's certificate; absent: the system's.
        connect_timeout: For reaching the proxy.
        dial_timeout: For a connection to a target through it.
        interval: Between two looks at whether the proxy still takes connections.
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
            raise ValueError(f"url: {self.url!r}: {error}: only an IPv6 address goes in brackets") from error
        if parts.password is not None:
            raise ValueError("url: holds a password, which would show in the status: use password_file")
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError(
                f"url: {self.url!r} must begin with one of {', '.join(f'{name}://' for name in DEFAULT_PORTS)}"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"url: {self.url!r}: {error}") from error
        if not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
            raise ValueError(f"url: {self.url!r} must be {parts.scheme}://host:port")
        if parts.username is not None and self.user is not None:
            raise ValueError("url: names a user, and so does user: remove one")

    @property
    def endpoint(self) -> Endpoint:
        """Where the proxy listens."""
        parts = urlsplit(self.url)
        return Endpoint(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])

    @property
    def speaks_socks(self) -> bool:
        """Whether it is SOCKS5, or else HTTP."""
        return urlsplit(self.url).scheme.startswith("socks5")

    @property
    def tls(self) -> bool:
        """Whether the way to the proxy is encrypted."""
        return urlsplit(self.url).scheme == "https"

    @property
    def login(self) -> str | None:
        """The user, wherever it stands."""
        return self.user or urlsplit(self.url).username
