"""Sends requests to a Docker engine, with deadlines. Raises `EngineError` if a request fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiodocker
import aiohttp

from gateway.docker.engine_flavor import DOCKER, flavor
from gateway.docker.errors import REQUEST_ERRORS, EngineError, EngineErrorKind, as_engine_error

NEWEST = (1, 48)
"""The newest Docker API version that the gateway supports. `EngineFlavor.oldest` is the oldest supported version."""
_CONNECT_TIMEOUT = 5.0
PING_EVERY = 10.0
"""Seconds between two pings of the engine while the gateway waits for an event or for the start of a container."""
_START_TIMEOUT = 3600.0
"""The maximum duration of a container's start, in seconds. The engine mounts the container's volumes one after
another, and the kernel can wait up to 600 s for each mount. After `_START_TIMEOUT`, the gateway closes the
connection, so the engine cancels the start."""


class EngineClient:
    """A client of one Docker engine.

    Args:
        docker: The aiodocker client; the caller closes it.
        timeout: The timeout of one request, in seconds.
        connect_again: Returns a context manager for another connection to the same engine.
    """

    def __init__(
        self,
        docker: aiodocker.Docker,
        timeout: float,
        connect_again: Callable[[], AbstractAsyncContextManager["EngineClient"]],
    ) -> None:
        self._docker = docker
        self._timeout = timeout
        self._connect_again = connect_again
        self.api_version = ""
        self.flavor = DOCKER

    async def negotiate(self) -> None:
        """Negotiate the API version.

        Raises:
            EngineError: The engine cannot be reached, or is too old or too new.
        """
        answer = await self._request("version", versioned=False)
        try:
            newest, oldest = _version(answer["ApiVersion"]), _version(answer.get("MinAPIVersion", "1.12"))
            self.flavor = flavor(answer)
            name = f"{self.flavor.name} {answer.get('Version', '')}".rstrip()
        except REQUEST_ERRORS as error:
            raise EngineError(
                EngineErrorKind.API, f"not the response of a Docker engine ({str(answer)[:80]!r}): check docker.host"
            ) from error
        if newest < self.flavor.oldest:
            required = f"{self.flavor.release} or later is required"
            raise EngineError(
                EngineErrorKind.API, f"{name} has API {answer['ApiVersion']}, but {required}: update it"
            )
        if oldest > NEWEST:
            supported = f"but this gateway supports only API {NEWEST[0]}.{NEWEST[1]}: update the gateway"
            raise EngineError(
                EngineErrorKind.API, f"{name} requires API {answer['MinAPIVersion']} or newer, {supported}"
            )
        chosen = min(newest, NEWEST)
        self.api_version = f"{chosen[0]}.{chosen[1]}"
        self._docker.api_version = f"v{self.api_version}"

    async def ping(self) -> None:
        """Ping the engine.

        Raises:
            EngineError: The engine does not respond.
        """
        await self._request("_ping", versioned=False)

    async def get(self, path: str, *, versioned: bool = True, **params: Any) -> Any:
        """Send a GET request, and return the response.

        Args:
            path: The path without the API version.
            versioned: Whether to prefix the path with the negotiated API version.
            params: The query parameters.

        Raises:
            EngineError: The request failed. The error contains the engine's message.
        """
        return await self._request(path, params=params, versioned=versioned)

    async def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """Send a POST request, and return the response.

        Raises:
            EngineError: The request failed. The error contains the engine's message.
        """
        return await self._request(path, "POST", body=body, params=params)

    async def post_start(self, path: str) -> None:
        """Send a POST request that starts a container. Wait for the response as long as the engine responds to pings.

        Raises:
            EngineError: The request failed, the engine did not respond to a ping, or the start took over an hour.
        """
        request = asyncio.ensure_future(self._request(path, "POST", total=_START_TIMEOUT))
        try:
            while not (await asyncio.wait({request}, timeout=PING_EVERY))[0]:
                await self.ping()
            await request
        finally:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    def separate(self) -> AbstractAsyncContextManager["EngineClient"]:
        """Return a context manager that opens another connection to this engine."""
        return self._connect_again()

    async def delete(self, path: str, **params: Any) -> Any:
        """Send a DELETE request, and return the response.

        Raises:
            EngineError: The request failed. The error contains the engine's message.
        """
        return await self._request(path, "DELETE", params=params)

    async def events(
        self, since: float, kinds: tuple[str, ...], until: float | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield events until the engine closes the stream.

        Args:
            since: Start time, in seconds since the epoch. The engine first sends the past events since this time.
            kinds: Types of the objects whose events to yield: `container`, `network`, `service`, `volume`. Empty to
                yield all events.
            until: End time, in seconds since the epoch; None for no end.

        Raises:
            EngineError: The connection failed, or the engine did not respond to a ping.
        """
        params = {"since": f"{since:.9f}", "filters": json.dumps({"type": list(kinds)})}
        if until is not None:
            params["until"] = f"{until:.9f}"
        try:
            query = self._docker._query("events", params=params, timeout=_timeout(None))  # noqa: SLF001
            async with query as response, response:
                async for line in self._lines(response.content):
                    yield json.loads(line)
        except REQUEST_ERRORS as error:
            raise as_engine_error(error) from error

    async def _lines(self, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """Yield each line of a stream. A line can have any length, because an event contains a container's labels."""
        pending = bytearray()
        while True:
            try:
                async with asyncio.timeout(PING_EVERY):
                    chunk = await content.readany()
            except TimeoutError:
                await self.ping()
                continue
            if not chunk:
                return
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(pending).split(b"\n")
                pending = bytearray(rest)
                for line in filter(bytes.strip, lines):
                    yield line

    async def _request(
        self,
        path: str,
        method: str = "GET",
        *,
        body: Any = None,
        params: Any = None,
        versioned: bool = True,
        total: float | None = None,
    ) -> Any:
        """Send a request, and return the response.

        `total` is the timeout in seconds. If `total` is None, the configured timeout applies.
        """
        try:
            query = self._docker._query(  # noqa: SLF001 - aiodocker's classes omit parts of the responses
                path,
                method,
                params=params or None,
                data=json.dumps(body) if body is not None else None,
                versioned_api=versioned,
                timeout=_timeout(total or self._timeout),
            )
            async with query as response, response:  # aiodocker does not release the response after an error
                # Read the body inside this try block: the read raises an error if a proxy or a stopping engine
                # truncated the body.
                text = await response.text()
                is_json = "json" in response.headers.get("Content-Type", "")
                return json.loads(text) if is_json and text else text
        except REQUEST_ERRORS as error:
            raise as_engine_error(error) from error


async def get_required(engine: EngineClient, path: str, *, versioned: bool = True) -> Any:
    """Send a GET request whose response the gateway requires, and return the response.

    If a proxy in front of the engine refuses the request, the error names the path that the proxy must allow.

    Args:
        engine: The engine.
        path: See `EngineClient.get`.
        versioned: See `EngineClient.get`.

    Raises:
        EngineError: The request failed, or a proxy refused it.
    """
    try:
        return await engine.get(path, versioned=versioned)
    except EngineError as error:
        if error.kind is EngineErrorKind.FORBIDDEN:
            message = f"{path} is refused ({error}): allow it in the proxy in front of the engine"
            raise EngineError(error.kind, message) from error
        raise


def _timeout(total: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=_CONNECT_TIMEOUT)


def has_gateway_priority(api_version: str) -> bool:
    """Return whether the engine supports `GwPriority`, which selects the default route (API 1.48, Docker 28)."""
    return _version(api_version) >= (1, 48)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
