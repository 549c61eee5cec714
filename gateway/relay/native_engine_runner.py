"""Runs the native engine, the data plane in C, and passes its event records to Python objects.

The native engine relays bytes between a client and an SSH channel, or between two sockets.
"""

import asyncio
import logging
from typing import Protocol

from gateway._dataplane import settings
from gateway._dataplane.engine import RECORD_HISTOGRAM, Engine
from gateway.metric_types import LATENCY_BUCKETS
from gateway.relay.dead_peer_detector import DEAD_AFTER
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.fd_poller import READ, poller
from gateway.relay.native_engine_histograms import NativeEngineHistograms
from gateway.relay.per_loop_instances import per_loop

log = logging.getLogger(__name__)

Arguments = tuple[int, int, int, int]
"""The four integers in a record of the native engine. `engine.h` documents them for each kind of record."""


class NativeEventHandler(Protocol):
    """Handles the records of one object in the native engine.

    The object is an SSH connection, a channel, a listener, or a relay between two sockets.
    """

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """Handle a record. If the record is the last one for this handler, call `NativeEngineRunner.forget`.

        Args:
            kind: The kind of record: one of the `RECORD_` constants in `gateway._dataplane.engine`.
            arguments: Four integers, whose meaning depends on the kind.
            payload: Additional data, whose meaning depends on the kind.
        """

    def on_native_engine_failed(self) -> None:
        """Handle the failure of the native engine. The token of this handler is no longer valid."""


class NativeEngineRunner:
    """Runs one native engine for an event loop, and replaces it if it fails.

    Args:
        loop: The event loop.
        growth_bytes: Maximum number of bytes by which all receive windows together may exceed their minimum sizes.
        thread: Whether the native engine runs in its own thread. Tests set it to False: the native engine then runs
            inside the event loop, which makes the tests deterministic.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, growth_bytes: int, *, thread: bool = True) -> None:
        self._growth_bytes = growth_bytes
        self._thread = thread
        self._objects: dict[int, NativeEventHandler] = {}
        self._groups: dict[int, object] = {}
        """Maps the token of each event handler to the handler's group. Handlers without a group have no entry."""
        self._poller = poller()
        self._start()
        if isinstance(loop, RelayEventLoop):
            loop.on_close.append(self.close)

    def _start(self) -> None:
        self.engine = Engine(LATENCY_BUCKETS, self._growth_bytes, int(DEAD_AFTER * 1000))
        self.histograms = NativeEngineHistograms(self.engine)
        if self._thread:
            self.engine.start()
        self._fd = self.engine.fileno()
        self._poller.add(self._fd, lambda _: self.handle_records(), READ)

    @property
    def load(self) -> int:
        """Number of registered event handlers."""
        return len(self._objects)

    @property
    def grown_bytes(self) -> int:
        """Number of bytes by which all receive windows together exceed their minimum sizes."""
        return self._growth_bytes - self.engine.growth()

    def group_size(self, group: object) -> int:
        """Return the number of registered event handlers that belong to `group`."""
        return sum(each is group for each in self._groups.values())

    def add(self, thing: NativeEventHandler, token: int | None = None, group: object = None) -> int:
        """Register an event handler. The handler receives the records for its token until `forget` is called.

        Args:
            thing: The event handler.
            token: The token of a channel or socket relay that the native engine has created. None for a new token.
            group: See `NativeEnginePool.runner`.

        Returns:
            The token.
        """
        if token is None:
            token = self.engine.token()
        self._objects[token] = thing
        if group is not None:
            self._groups[token] = group
        return token

    def forget(self, token: int) -> None:
        """Remove the event handler of `token`, and release the token.

        Call this method after the last record for the token. Also call it if the native engine could not create the
        object with this token.
        """
        del self._objects[token]
        self._groups.pop(token, None)
        self.engine.release(token)

    def command(self, command: int, token: int, argument: int = 0) -> None:
        """Queue a command for the native engine.

        Args:
            command: One of the `COMMAND_` constants in `gateway._dataplane.engine`.
            token: The token of the SSH connection, channel, listener or socket relay.
            argument: A number, whose meaning depends on the command.
        """
        self.engine.command(command, token, argument)

    def close(self) -> None:
        """Stop the native engine, reset its clients' connections, and close its SSH connections.

        A second call has no effect.
        """
        self._poller.remove(self._fd)
        self.engine.close()
        self._objects.clear()
        self._groups.clear()

    def handle_records(self) -> None:
        """Pass each record to the event handler that is registered for the record's token.

        If the native engine has failed, replace the native engine.
        """
        try:
            if not self._thread:
                self.engine.turn()
            records = self.engine.take()
        except (OSError, MemoryError):  # records are lost, so the event handlers cannot continue
            log.exception("the native engine has failed; its connections are closed")
            self._restart()
            return
        for kind, token, arguments, payload in records:
            try:
                self._dispatch(kind, token, arguments, payload)
            except Exception:
                # Many connections share the native engine: an error in one of them must not stop the others.
                log.exception("could not handle a record from the native engine")

    def _restart(self) -> None:
        """Replace the failed native engine, and notify all event handlers."""
        lost = list(self._objects.values())
        self.close()
        try:
            self._start()
        finally:  # notify the event handlers even if the new native engine cannot start
            for thing in lost:
                try:
                    thing.on_native_engine_failed()
                except Exception:
                    log.exception("could not handle the failure of the native engine")

    def _dispatch(self, kind: int, token: int, arguments: Arguments, payload: bytes) -> None:
        if kind == RECORD_HISTOGRAM:
            number, closed, total, _ = arguments
            self.histograms.add(number, closed, total, payload)
        else:
            self._objects[token].on_record(kind, arguments, payload)


class NativeEnginePool:
    """The native engines of one event loop. Each runs in its own thread, and starts when it is first needed.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads = settings.threads
        self.runners: list[NativeEngineRunner] = []
        """One runner for each native engine that has started."""
        self._loop = loop

    def runner(self, group: object = None) -> NativeEngineRunner:
        """Return the runner to use for a new SSH connection, or for a new relay between two sockets.

        While there are fewer than `settings.threads` runners, create a new runner. Otherwise, or if no more threads
        can be started, select the runner with the smallest `group_size`. If several runners have the same
        `group_size`, select the one with the lowest load.

        Args:
            group: Connections of the same group, such as those of a tunnel, are distributed evenly over the runners.
                None for no group.
        """
        if len(self.runners) < self._threads:
            try:
                self.runners.append(NativeEngineRunner(self._loop, settings.growth_bytes // settings.threads))
            except OSError as error:
                if not self.runners:
                    raise
                self._threads = len(self.runners)
                log.warning(
                    "cannot start another data plane thread (%s): the number of threads stays %d",
                    error.strerror,
                    self._threads,
                )
            else:
                return self.runners[-1]
        return min(self.runners, key=lambda runner: (runner.group_size(group), runner.load))

    def all_runners(self) -> list[NativeEngineRunner]:
        """Start native engines until `settings.threads` native engines run. Return all runners."""
        while len(self.runners) < self._threads:
            self.runner()
        return self.runners

    def handle_records(self) -> None:
        """Call `NativeEngineRunner.handle_records` for each native engine."""
        for runner in self.runners:
            runner.handle_records()

    @property
    def grown_bytes(self) -> int:
        """Number of bytes by which all receive windows together exceed their minimum sizes."""
        return sum(runner.grown_bytes for runner in self.runners)


@per_loop
def native_engines(loop: asyncio.AbstractEventLoop) -> NativeEnginePool:
    """Return the native engines of the running event loop."""
    return NativeEnginePool(loop)
