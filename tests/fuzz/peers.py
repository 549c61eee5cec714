"""Runs the probes of backends with a simulated server, which responds with the fuzzer's input."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from gateway.contracts.backend import Backend, ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import UnusableTargetError
from gateway.relay.event_loop import RelayEventLoop

_TARGET = HostPort("server", 1)
_PATIENCE = 30
Answer = Callable[[bytes], tuple[bytes, bool]]
"""The type of functions that simulate a server. The argument is the received data. The result is the response, and
whether the server closes the connection after the response."""


class _Near:
    """A link that always returns the same socket.

    Args:
        sock: The connected socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> socket.socket:
        return self._sock


def probe(backend: Backend, answer: Answer, times: int = 1) -> list[ProbeResult | UnusableTargetError]:
    """Run `times` probes of a server that `answer` simulates. Return the result or the error of each probe.

    Raises:
        Exception: A probe raised an error other than `UnusableTargetError`.
    """

    async def run() -> list[ProbeResult | UnusableTargetError]:
        return [await _once(backend, answer) for _ in range(times)]

    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        return runner.run(run())


async def _once(backend: Backend, answer: Answer) -> ProbeResult | UnusableTargetError:
    near, far = socket.socketpair()
    with near, far:
        for sock in (near, far):
            sock.setblocking(False)
        server = asyncio.ensure_future(_serve(far, answer))
        try:
            async with asyncio.timeout(_PATIENCE):
                return await backend.probe(cast("Link", _Near(near)), _TARGET, PhaseTimer())
        except UnusableTargetError as error:
            assert error.detail, "an error without a detail"
            return error
        finally:
            server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await server


async def _serve(sock: socket.socket, answer: Answer) -> None:
    loop = asyncio.get_running_loop()
    while received := await loop.sock_recv(sock, 65536):
        data, closes = answer(received)
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(sock, data)
        if closes:
            sock.shutdown(socket.SHUT_WR)
            return
