"""Creates connections through the standard input and output of socat, for the tests of relays."""

import asyncio
import contextlib
from math import inf
from pathlib import Path
from typing import NoReturn

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, RemoteNetworkId, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.demo.server_process import find
from gateway.metric_types import Histogram
from gateway.processes.child_environment import environment_of_user
from gateway.processes.stdio_stream import StdioStream
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.relay.stream_bridge import StreamBridge
from tests.support.far_sides import Straight
from tests.support.plans import Setup
from tests.support.requirements import need


class Stdio(Straight):
    """Connects each client to the far side through a socat process.

    If one end is reset, socat closes the connection to the other end, sometimes with a reset.
    """

    name = "stdio"
    shows_loss = False
    reports_breaks = False
    keeps_response = False
    pace = 0.002

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        self._stack = contextlib.AsyncExitStack()
        self._children = TunnelProcesses()

    async def open(self) -> None:
        need(find("socat") is not None, "socat (package socat)")
        await self._stack.enter_async_context(self._children)

    async def close(self) -> None:
        await self._stack.aclose()
        await super().close()

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        return _ProgramLink(self._children), self._far.address(setup)


class _ProgramLink:
    """A link that starts a socat process for each client. See `gateway.contracts.link.Link`."""

    network = RemoteNetworkId()

    def __init__(self, children: TunnelProcesses) -> None:
        self._children = children

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        program = find("socat") or "socat"
        # A pipe that is ready accepts at least 4096 bytes (PIPE_BUF). With larger blocks, socat can wait for its
        # output, and meanwhile does not read its input.
        command = [program, "-b", "4096", "-t", "3600", "STDIN!!STDOUT,shut-close", f"TCP:{to}"]
        stream = await StdioStream.start(self._children, command, program, environment_of_user(()), lambda _: None)
        return StreamBridge(stream, short=False).join(client, latency, tap)

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        raise NotImplementedError

    async def lost(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError
