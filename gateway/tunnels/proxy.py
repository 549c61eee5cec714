"""Defines `kind: proxy` for SOCKS5 proxies (RFC 1928, RFC 1929) and HTTP proxies with CONNECT (RFC 9110, 9.3.6)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote

from gateway.certificate_validity import ca_credentials
from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.proxy.credentials import read_credentials
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import DEFAULT_PORTS, ProxyOptions
from gateway.relay.resolver import is_loopback
from gateway.tls_client_context import TlsClientFiles
from gateway.tunnels import TunnelKind


class ProxyTunnel:
    """A tunnel through a SOCKS5 or HTTP proxy; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The options of the tunnel.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The URL of the proxy."""
        return self._options.url

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """Probe the proxy, and repeat the probe periodically while the tunnel is open.

        See `gateway.contracts.tunnel.Tunnel`.
        """
        progress(TunnelState.CONNECTING)
        link = ProxyLink(self._options, via)
        await link.probe()
        monitor = asyncio.create_task(link.monitor())
        try:
            # There is no `renew` callback, because each connection reads the password file again.
            yield TunnelOpenResult(link, link.status)
        finally:
            monitor.cancel()
            await asyncio.wait({monitor})


def _verify(options: ProxyOptions) -> None:
    TlsClientFiles(options.ca_file).context()
    read_credentials(options)


def _read_url(scheme: str, authority: str) -> dict[str, str]:
    """Return the keys that a URL sets: `url` without the user name, and `user` if the URL contains a user name."""
    user, at, host = authority.rpartition("@")
    return {"url": f"{scheme}://{host}"} | ({"user": unquote(user)} if at else {})


def _insecure_settings(options: ProxyOptions, plain: bool) -> Iterator[InsecureSetting]:
    if options.tls or not plain or is_loopback(options.endpoint.host):
        return
    login = options.password is not None
    what = "its login and everything that it carries" if login else "everything that it carries"
    message = (
        f"is a proxy without encryption, so an attacker can read {what}: use https://, or set via to an SSH tunnel"
    )
    yield InsecureSetting("url", message, login)


def _credentials(options: ProxyOptions) -> list[MonitoredCertificate]:
    return ca_credentials(options.ca_file)


KIND = TunnelKind(
    "proxy",
    ProxyOptions,
    ProxyTunnel,
    schemes=tuple(DEFAULT_PORTS),
    servers=lambda options: (options.endpoint,),
    server_dials_targets=True,
    aliases=("socks5",),
    insecure_settings=_insecure_settings,
    verify=_verify,
    credentials=_credentials,
    read_url=_read_url,
    init_keys=("user", "password"),
)
