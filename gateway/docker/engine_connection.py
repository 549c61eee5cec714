"""Connects to a Docker engine: over a unix socket, over TCP with or without TLS, or through a tunnel."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp
from aiohttp.client_reqrep import ClientRequest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.docker.engine_client import EngineClient
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.options import DockerOptions
from gateway.errors import GatewayError, TargetPathError


class TunnelHttpConnector(aiohttp.BaseConnector):
    """An aiohttp connector that connects to an engine through a tunnel.

    Args:
        dial: Connects to the engine through the tunnel, and returns the socket.
        ssl_context: The TLS context; None for a connection without TLS.
        host: The host name that the certificate must be valid for.
    """

    def __init__(self, dial: Callable[[], Any], ssl_context: ssl.SSLContext | None, host: str) -> None:
        super().__init__()
        self._dial = dial
        self._context = ssl_context
        self._host = host

    async def _create_connection(self, req: ClientRequest, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        del req, traces, timeout
        sock = await self._dial()
        server_hostname = self._host if self._context else None
        _, protocol = await self._loop.create_connection(
            self._factory, sock=sock, ssl=self._context, server_hostname=server_hostname
        )
        return protocol


@asynccontextmanager
async def connected(options: DockerOptions, link_of: Callable[[str], Link | None]) -> AsyncIterator[EngineClient]:
    """Connect to an engine, negotiate the API version, and close the connection at the end of the `async with` block.

    Args:
        options: The engine's address and TLS files.
        link_of: Takes the name of a tunnel, and returns the tunnel's link; None while the tunnel is down.

    Raises:
        EngineError: The engine cannot be reached, or its version is not supported.
    """
    connector, url = _connector(options, link_of)
    docker = aiodocker.Docker(url=url, connector=connector, api_version="v1.44")
    try:
        engine = EngineClient(docker, options.timeout, lambda: connected(options, link_of))
        try:
            await engine.negotiate()
        except EngineError as error:
            if error.kind is EngineErrorKind.UNREACHABLE:
                raise EngineError(error.kind, f"{options.host}: {error}") from error
            raise
        yield engine
    finally:
        await docker.close()
        await connector.close()


def _connector(options: DockerOptions, link_of: Callable[[str], Link | None]) -> tuple[aiohttp.BaseConnector, str]:
    host, tunnel = options.host, options.tunnel
    context = _tls(options)
    scheme = "https" if context else "http"
    if host.startswith("unix://"):
        return aiohttp.UnixConnector(host.removeprefix("unix://")), "unix://localhost"
    if tunnel is None:
        address = host.removeprefix("tcp://")
        return aiohttp.TCPConnector(ssl=context or True), f"{scheme}://{address}"
    if host.startswith("ssh://"):
        path = "/" + (host.removeprefix("ssh://").partition("/")[2] or "var/run/docker.sock")
        to, name = HostPort(path, 0), "localhost"
    else:
        name, _, port = host.removeprefix("tcp://").rpartition(":")
        to = HostPort(name, int(port))

    async def dial() -> Any:
        link = link_of(tunnel)
        if link is None:
            raise OSError(f"tunnel {tunnel} is down")
        try:
            return await link.socket(to)
        except TargetPathError as error:
            raise OSError(f"through tunnel {tunnel}: {error}") from error

    return TunnelHttpConnector(dial, context, name), "http://localhost"


def _tls(options: DockerOptions) -> ssl.SSLContext | None:
    try:
        return options.tls.context() if options.tls.is_set else None
    except GatewayError as error:
        raise EngineError(EngineErrorKind.FAILED, f"docker.tls.{error}") from error
