"""Provides the status and the commands of a running gateway to the HTTP server and the admin socket."""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from gateway.app import status_view
from gateway.app.auditing import AuditLog
from gateway.app.config_view import config_text
from gateway.app.credential_expiry import ExpiryMonitor, expiry_warnings
from gateway.app.reload import Reloader
from gateway.app.running_backend import RunningBackend
from gateway.config import Config
from gateway.config.advice import advice
from gateway.fleet.poller import FleetPoller
from gateway.fleet.view import FleetView
from gateway.measure import Histogram
from gateway.ops.events import EventLog, EventSubject, EventType
from gateway.ops.status_views import BackendStatus, BackendView, ConfigText, ServiceView, phase
from gateway.relay.sockets import PeerCredentials

log = logging.getLogger(__name__)

_VIEWS_PER_TURN = 5
"""Number of backends whose views are built without a pause. In a pause, other tasks of the event loop run."""


class ServiceControl:
    """The status and the commands of a running gateway; implements `gateway.ops.service_interface.ControlledService`.

    Args:
        reloader: Holds the current configuration and the site.
        auditing: Records commands.
        stop: Set by the first call of `shutdown`.
        events: The log of transitions.
    """

    def __init__(self, reloader: Reloader, auditing: AuditLog, stop: asyncio.Event, events: EventLog) -> None:
        self.started_at = time.time()
        """Epoch seconds."""
        self.startup_done = False
        self.draining = False
        self.stop_immediately = asyncio.Event()
        """Set by the second call of `shutdown`."""
        self.lag = Histogram()
        """Lag of the event loop, in seconds."""
        self.expiry = ExpiryMonitor(lambda: reloader.config, lambda: list(self._running()))
        self.fleet_poller = FleetPoller(lambda: reloader.config.fleet, strict=reloader.config.gateway.strict)
        self.events = events
        self._reloader = reloader
        self._auditing = auditing
        self._stop = stop
        self._described: tuple[Config, ConfigText] | None = None
        """The configuration and its text, which is computed once."""

    def _running(self) -> Iterable[RunningBackend]:
        site = self._reloader.site
        return site.backends.values() if site else ()

    def _find(self, backend: str) -> RunningBackend | None:
        site = self._reloader.site
        return site.backends.get(backend) if site else None

    def phase(self) -> str:
        """See `gateway.ops.service_interface.ControlledService`."""
        return phase(started=self.startup_done, draining=self.draining)

    def backend_statuses(self) -> list[BackendStatus]:
        """See `gateway.ops.service_interface.ControlledService`."""
        return [status_view.backend_status(each) for each in self._running()]

    async def view(self) -> ServiceView:
        """See `gateway.ops.service_interface.ControlledService`."""
        views = []
        for number, each in enumerate(list(self._running())):
            views.append(self._backend(each))
            if number % _VIEWS_PER_TURN == _VIEWS_PER_TURN - 1:
                await asyncio.sleep(0)
        return self._view(views)

    def _backend(self, running: RunningBackend) -> BackendView:
        return status_view.backend_view(running, knows_containers=self._reloader.config.docker is not None)

    def _view(self, backends: list[BackendView]) -> ServiceView:
        reloader, certificates = self._reloader, self.expiry.found
        site, docker = reloader.site, reloader.docker
        return ServiceView(
            version=status_view.VERSION,
            python_version=status_view.PYTHON_VERSION,
            instance=reloader.config.gateway.instance,
            started_at=self.started_at,
            startup_done=self.startup_done,
            draining=self.draining,
            accepting=site is not None and site.accepting,
            reload_successful=reloader.successful,
            reload_success_at=reloader.applied_at,
            reload_error=reloader.error,
            tunnels=status_view.tunnel_views(site) if site else [],
            backends=backends,
            loop_lag=self.lag.copy(),
            tasks=len(asyncio.all_tasks()),
            io_flusher=reloader.io_flusher,
            docker=status_view.docker_view(docker) if docker else None,
            warnings=[
                *advice(reloader.config),
                *expiry_warnings(certificates, time.time()),
                *self._auditing.trouble,
                *reloader.stale_files,
            ],
            credentials=status_view.credential_views(certificates),
            audit_dropped=self._auditing.dropped,
            workers={unit.number: unit.pid if unit.running else None for unit in site.workers.units} if site else {},
        )

    def configuration(self) -> ConfigText:
        """See `gateway.ops.service_interface.ControlledService`."""
        config = self._reloader.config
        if self._described is None or self._described[0] is not config:
            self._described = config, config_text(config)
        return self._described[1]

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """See `gateway.ops.service_interface.ControlledService`."""
        running = self._find(backend)
        return status_view.history(running) if running else None

    def containers(self, name: str) -> list[dict[str, Any]] | None:
        """See `gateway.ops.service_interface.ControlledService`."""
        docker = self._reloader.docker
        return docker.explain(name) if docker else None

    def fleet(self) -> FleetView:
        """See `gateway.ops.service_interface.ControlledService`."""
        return self.fleet_poller.view()

    def record_command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """See `gateway.ops.service_interface.ControlledService`."""
        self._auditing.command(command, peer, result)

    async def reload(self) -> str:
        """See `gateway.ops.service_interface.ControlledService`."""
        return await self._reloader.reload("admin")

    def drain(self) -> None:
        """See `gateway.ops.service_interface.ControlledService`."""
        if not self.draining:
            log.info("draining: not ready, still serving")
        self.set_draining(draining=True)

    def undrain(self) -> None:
        """See `gateway.ops.service_interface.ControlledService`."""
        self._reloader.check_running()
        if self.draining:
            log.info("ready again")
        self.set_draining(draining=False)

    def set_draining(self, *, draining: bool) -> None:
        """Set whether the service drains, and record a change."""
        if draining is not self.draining:
            self.draining = draining
            self.events.record(EventSubject(EventType.DRAIN), self.phase())

    def shutdown(self) -> None:
        """See `gateway.ops.service_interface.ControlledService`. The second call ends the drain immediately."""
        if self._stop.is_set():
            log.warning("stopping immediately")
            self.stop_immediately.set()
        self._stop.set()

    def pause(self, backend: str, *, paused: bool) -> bool:
        """See `gateway.ops.service_interface.ControlledService`."""
        site, running = self._reloader.site, self._find(backend)
        if site is None or running is None:
            return False
        if not paused and not any(check.paused for check in running.checks):
            self._reloader.check_running()
            site.restart_checks(running)
        for check in running.checks:
            if paused:
                check.pause()
            else:
                check.resume()
        return True

    def fail(self, backend: str, *, failing: bool) -> bool:
        """See `gateway.ops.service_interface.ControlledService`."""
        running = self._find(backend)
        if running is not None:
            running.forward.set_fail_fast(enabled=failing)
        return running is not None

    def reconnect(self, tunnel: str) -> bool:
        """See `gateway.ops.service_interface.ControlledService`."""
        site = self._reloader.site
        if site is None or tunnel not in site.config.tunnels:
            return False
        site.reconnect(tunnel)
        return True
