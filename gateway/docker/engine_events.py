"""Reads the events of an engine, and waits for changes that need a reconciliation."""

import asyncio
import time
from collections.abc import Collection

from gateway.docker.consumer_registry import ConsumerRegistry
from gateway.docker.container_signal_recorder import record_event
from gateway.docker.engine_client import EngineClient
from gateway.docker.inspection_cache import InspectionCache
from gateway.docker.start_attempts import StartAttempts

_DEBOUNCE, _MAX_DEBOUNCE = 0.2, 2.0
_TYPES = ("container", "network", "service", "volume")
_END_EVENTS = ("die", "destroy", "stop", "kill", "remove")
_IGNORED_EVENTS = ("exec_", "health_status", "top", "attach", "resize", "export", "archive-path", "extract-to-dir")
"""Prefixes of the container events that need no new snapshot. Some of these events occur many times a minute."""


class EngineEventHandler:
    """Reads the events of one engine. Immediately removes data that an event makes outdated, and requests a snapshot.

    Args:
        inspections: The cached inspections. When a container starts, its `ContainerLastStart` is removed.
        registry: Maps addresses to containers. When a container exits or leaves a network, its addresses are removed.
        start_attempts: Records the signals that other clients of the engine send to containers.
        requested: IDs of the containers that the gateway is starting. Signals to these containers are not recorded.
    """

    def __init__(
        self,
        inspections: InspectionCache,
        registry: ConsumerRegistry,
        start_attempts: StartAttempts,
        requested: Collection[str],
    ) -> None:
        self._inspections = inspections
        self._registry = registry
        self._start_attempts = start_attempts
        self._requested = requested
        self.changed = asyncio.Event()
        """An `asyncio.Event`, which is set when a reconciliation is needed."""

    async def watch(self, engine: EngineClient, since: float) -> None:
        """Read events until the connection ends.

        Args:
            engine: The engine.
            since: The time from which to read events, in seconds since the epoch, on the engine's clock.

        Raises:
            EngineError: The connection failed, or the engine does not respond to a ping.
        """
        async for event in engine.events(since, _TYPES):
            action = str(event.get("Action", ""))
            if event.get("Type") == "container":
                if action.startswith(_IGNORED_EVENTS):
                    continue
                container = str(event.get("Actor", {}).get("ID", ""))
                if action == "start":
                    self._inspections.forget_start(container)
                record_event(event, self._start_attempts, self._requested)
                if action in _END_EVENTS:
                    self._registry.forget(container)
            else:
                # A failed start causes no event of the container, only events of its networks and volumes.
                self._inspections.expire_start(str(event.get("Actor", {}).get("Attributes", {}).get("container", "")))
                if action == "disconnect":
                    self._registry.forget(engine.flavor.disconnected_container(event))
            self.changed.set()

    async def wait(self, at_most: float, watching: "asyncio.Task[None]") -> None:
        """Wait until an event requires a reconciliation.

        After the first such event, wait until 0.2 s pass without another one, but for at most 2 s.

        Args:
            at_most: The maximum time to wait for the first event, in seconds.
            watching: The task that runs `watch`. If this task ends, return immediately.
        """
        change = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait({change, watching}, timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        latest = time.monotonic() + _MAX_DEBOUNCE
        while self.changed.is_set() and time.monotonic() < latest:
            self.changed.clear()
            await asyncio.sleep(_DEBOUNCE)
