"""`kind: proxy`: a SOCKS5 proxy (RFC 1928, 1929), or an HTTP proxy by CONNECT (RFC 9110, 9.3.6)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import unquote

from gateway.certificates import ca_credentials
from gateway.contracts import Credential, Link, Progress, TunnelState
from gateway.errors import GatewayError
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import DEFAULT_PORTS, ProxyOptions
from gateway.tls_client import client_context
from gateway.tunnels import TunnelKind


class ProxyTunnel:
    """See `gateway.contracts.Tunnel`.

    Args:
        options: What the configuration says.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The proxy's URL."""
        return self._options.url

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: Progress) -> AsyncIterator[Link]:
        """Reach the proxy through `via`, and look at it from time to time."""
        progress(TunnelState.CONNECTING)
        link = ProxyLink(self._options, via)
        await link.look()
        watch = asyncio.create_task(link.watch())
        try:
            yield link
        finally:
            watch.cancel()
            await asyncio.wait({watch})


def _verify(options: ProxyOptions) -> None:
    try:
        client_context(options.ca_file)
    except OSError as error:
        raise GatewayError(f"ca_file: {options.ca_file}: {error.strerror or error}") from error


def _read_url(scheme: str, authority: str) -> dict[str, str]:
    user, at, host = authority.rpartition("@")
    return {"url": f"{scheme}://{host}"} | ({"user": unquote(user)} if at else {})


def _credentials(options: ProxyOptions) -> list[Credential]:
    return ca_credentials(options.ca_file)


KIND = TunnelKind(
    "proxy",
    ProxyOptions,
    ProxyTunnel,
    schemes=tuple(DEFAULT_PORTS),
    verify=_verify,
    credentials=_credentials,
    read_url=_read_url,
)
