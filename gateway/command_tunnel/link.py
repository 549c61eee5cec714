"""Implements the link of an open tunnel of kind `command`: it connects to targets through an external program."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from math import inf

from gateway.command_tunnel.connector_context import ConnectorContext
from gateway.command_tunnel.local_port_connector import LocalPortConnector
from gateway.command_tunnel.local_port_state import LocalPortState, read_local_ports
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.command_tunnel.owned_tasks import OwnedTasks
from gateway.command_tunnel.stdio_connector import StdioConnector
from gateway.command_tunnel.target_connector import TargetConnector
from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import LinkStatus, RemoteNetworkId, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason, TunnelState
from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import DialError, FailureReason, LinkLostError, TunnelError
from gateway.metric_types import Histogram
from gateway.processes.command_template import fill_placeholders
from gateway.processes.output_log import OutputLog
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.relay.dial_retry import retry_dial
from gateway.relay.stream_bridge import StreamBridge
from gateway.task_cancellation import is_being_cancelled

log = logging.getLogger(__name__)

_MAX_TICK = 1.0
_RECENT = 600.0
"""Seconds without a dial after which the link stops the processes of a target, unless they have clients.
`recent_targets` uses the same limit."""


@dataclass(frozen=True, kw_only=True)
class CommandTunnelStatus(LinkStatus):
    """The status of a tunnel through an external program.

    Args:
        processes: Number of running processes of the program.
        clients: Number of connections through these processes.
    """

    processes: int
    clients: int


class CommandLink:
    """A link through an external program; implements `gateway.contracts.link.Link`.

    The link is lost when no target has a working process.

    Args:
        options: The options of the tunnel.
        network: The ID of this host's network, in which the program runs. The ID of the link's network is
            this ID plus one hop: the program.
        children: Owns the child processes.
        progress: Called when all processes stop responding, and when one of them responds again.
    """

    def __init__(
        self,
        options: CommandTunnelOptions,
        network: RemoteNetworkId,
        children: TunnelProcesses,
        progress: TunnelStateCallback,
    ) -> None:
        self._options = options
        self._children = children
        self._progress = progress
        self._lost: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        name = options.command[0].rpartition("/")[2]
        self._context = ConnectorContext(options, children, OutputLog(name), self._on_change)
        self._connectors: dict[tuple[str, ...], TargetConnector] = {}
        """The connector for each command line. Targets with the same command line share a connector."""
        self._dialed: dict[HostPort, float] = {}
        """Monotonic time of the last dial of each target, in seconds."""
        self._bridges: set[StreamBridge] = set()
        self._relays: set[Relay] = set()
        self._tasks = OwnedTasks()
        self._is_suspect = False
        self._can_read_ports = True
        # The status contains a hash instead of the arguments, because an argument can contain a secret.
        digest = hashlib.sha256("\0".join(options.command).encode()).hexdigest()[:8]
        self.network = network.behind(f"{name} {digest}")

    @contextlib.asynccontextmanager
    async def running(self, targets: Collection[HostPort]) -> AsyncIterator["CommandLink"]:
        """Start a process for each given target, and monitor all processes until the `async with` block exits.

        Args:
            targets: The targets. If the collection is not empty, at least one target must work.

        Raises (on entry):
            TunnelError: None of the targets works.
        """
        monitor = self._tasks.start(self._monitor())
        monitor.add_done_callback(self._on_monitor_done)
        try:
            await self._start(targets)
            yield self
        finally:
            for relay in list(self._relays):
                relay.abort(CloseReason.LINK_LOST)
            ended = [bridge.ended for bridge in self._bridges]
            for bridge in self._bridges:
                bridge.abort()
            if ended:
                await asyncio.wait(ended)
            await self._tasks.close()
            await asyncio.gather(*(each.close() for each in self._connectors.values()))

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Return a non-blocking socket that is connected to `to`.

        Record the duration of the dial in `phases`, as the phase `channel`.

        See `gateway.contracts.link.Link`.
        """
        timed = phases or PhaseTimer()
        with timed("channel"):
            bridge = await retry_dial(
                lambda within: self._dial(to, within, short=True), timed.on_abandoned, self._options.start_timeout
            )
        return bridge.sock

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between the target and `client`. See `gateway.contracts.link.Link`."""
        bridge = await self._dial(to, min(self._options.start_timeout, within), short=False)
        relay = bridge.join(client, latency, tap)
        self._relays.add(relay)
        relay.ended.add_done_callback(lambda _: self._relays.discard(relay))
        return relay

    async def lost(self) -> TunnelError:
        """Wait until the link is lost, and return the cause as an error that is not fatal."""
        return await asyncio.shield(self._lost)

    def status(self) -> CommandTunnelStatus:
        """Return the current status of the link. `rtt` is None, because the link measures no round-trip time."""
        return CommandTunnelStatus(processes=len(self._children), clients=len(self._bridges))

    def recent_targets(self) -> list[HostPort]:
        """Return the most recently dialed target, and the targets dialed in the ten minutes before that dial."""
        last = max(self._dialed.values(), default=0.0)
        return [target for target, at in self._dialed.items() if last - at < _RECENT]

    async def _start(self, targets: Collection[HostPort]) -> None:
        starts = [self._tasks.start(self._connector(each).start()) for each in targets]
        failures: list[TunnelError] = []
        for start in asyncio.as_completed(starts):
            try:
                await start
            except TunnelError as error:
                failures.append(error)
            else:
                return
        if failures:
            raise min(failures, key=lambda error: error.fatal)

    async def _dial(self, to: HostPort, timeout: float, *, short: bool) -> StreamBridge:  # noqa: ASYNC109
        self._dialed[to] = time.monotonic()
        if self._lost.done():
            raise LinkLostError(self._lost.result().detail)
        try:
            async with asyncio.timeout(timeout):
                stream = await self._connector(to).connect()
        except TimeoutError as error:
            detail = f"{to}: {self._context.name} did not connect within {timeout:.3g} s"
            raise DialError(FailureReason.TIMEOUT, detail) from error
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            # This task was not cancelled, only the task that starts the process, because the link was closed.
            raise LinkLostError("the tunnel was closed during the dial") from None
        except TunnelError as error:
            if self._lost.done():
                raise LinkLostError(error.detail) from error
            raise DialError(error.reason, f"{to}: {error.detail}") from error
        bridge = StreamBridge(stream, short=short)
        self._bridges.add(bridge)
        bridge.ended.add_done_callback(lambda _: self._bridges.discard(bridge))
        return bridge

    def _connector(self, to: HostPort) -> TargetConnector:
        key = self._key(to)
        if key not in self._connectors:
            create = LocalPortConnector if self._options.mode == "port" else StdioConnector
            self._connectors[key] = create(to, self._context)
        return self._connectors[key]

    def _key(self, to: HostPort) -> tuple[str, ...]:
        return fill_placeholders(self._options.command, {"host": to.host, "port": str(to.port)})

    def _on_change(self) -> None:
        connectors = self._connectors.values()
        failures = [each.failure for each in connectors if each.failure is not None]
        if len(failures) == len(connectors) and failures and not self._lost.done():
            self._lost.set_result(TunnelError(failures[-1].reason, failures[-1].detail))

    async def _monitor(self) -> None:
        """Periodically replace or kill processes that make no progress, and close unused connectors."""
        tick = min(_MAX_TICK, self._options.suspect / 3)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            connectors = list(self._connectors.values())
            ports = {port: host for each in connectors for port, host in each.local_ports(now).items()}
            if (sockets := await self._read_local_ports(ports)) is not None:
                for connector in connectors:
                    connector.check(now, sockets)
                self._report_suspect(suspect=bool(connectors) and all(each.is_suspect for each in connectors))
            await self._close_unused(now)

    async def _read_local_ports(self, ports: dict[int, str]) -> dict[int, LocalPortState] | None:
        """Return the state of local ports; None if it cannot be read, for example because no descriptor is free."""
        try:
            sockets = await asyncio.to_thread(read_local_ports, ports) if ports else {}
        except OSError as error:
            if self._can_read_ports:
                self._can_read_ports = False
                log.warning(
                    "cannot read /proc/net/tcp, so programs that do not respond are not detected: %s: raise the limit"
                    " on open files, or permit reading this file",
                    error,
                    extra={"program": self._context.name},
                )
            return None
        self._can_read_ports = True
        return sockets

    async def _close_unused(self, now: float) -> None:
        """Close the connectors of targets that clients and checks no longer use, for example after a reload."""
        recent = {self._key(to) for to, at in self._dialed.items() if now - at < _RECENT}
        for key in self._connectors.keys() - recent:
            if not self._connectors[key].has_clients:
                await self._connectors.pop(key).close()
                self._on_change()

    def _report_suspect(self, *, suspect: bool) -> None:
        if suspect and not self._is_suspect:
            detail = f"{self._context.name} has not read data for {self._options.suspect:g} s"
            self._progress(TunnelState.SUSPECT, FailureReason.TIMEOUT, detail)
        elif self._is_suspect and not suspect:
            self._progress(TunnelState.UP)
        self._is_suspect = suspect

    def _on_monitor_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._lost.done():
            log.error(
                "an internal error stopped the monitoring of a program: closing the tunnel",
                extra={"program": self._context.name},
                exc_info=error,
            )
            self._lost.set_result(TunnelError(FailureReason.RESET, f"{type(error).__name__}: {error}"))
