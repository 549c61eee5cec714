"""Provides the status and the commands of a running gateway to the HTTP server and the admin socket."""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from gateway.app import status_view_builder
from gateway.app.certificate_expiry import CertificateExpiryMonitor, NamedCredential, expiry_warnings
from gateway.app.docker_view_builder import docker_view
from gateway.app.redacted_config import config_text
from gateway.app.reloader import Reloader
from gateway.app.running_backend import RunningBackend
from gateway.app.service_audit_log import ServiceAuditLog
from gateway.app.tunnel_view_builder import tunnel_views
from gateway.config import Config
from gateway.contracts.states import ConfigTrigger, ServicePhase
from gateway.fleet.fleet_state import FleetState
from gateway.fleet.poller import FleetPoller
from gateway.metric_types import Histogram
from gateway.ops.check_history_json import ChecksByTarget
from gateway.ops.container_access_json import ContainerAccessView
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.events_file import EventsFile
from gateway.ops.status_views import BackendStateSummary, BackendView, ConfigText, ServiceView, phase
from gateway.relay.unix_sockets import PeerCredentials

log = logging.getLogger(__name__)

_VIEWS_PER_TURN = 5
"""Number of backends to process before yielding to the event loop."""


class ServiceControl:
    """The status and the commands of a running gateway; implements `gateway.ops.service_interface.ServiceInterface`.

    Args:
        reloader: Holds the current configuration and the running gateway.
        auditing: Records commands.
        stop: Set by the first call of `shutdown`.
        events: The event log.
        events_file: Saves `events`.
    """

    def __init__(
        self,
        reloader: Reloader,
        auditing: ServiceAuditLog,
        stop: asyncio.Event,
        events: EventLog,
        events_file: EventsFile,
    ) -> None:
        self.started_at = time.time()
        """The time at which the service started, in epoch seconds."""
        self.startup_done = False
        self.draining = False
        self.stop_immediately = asyncio.Event()
        """Set by the second call of `shutdown`."""
        self.lag = Histogram()
        """Lag of the event loop: the delay of a scheduled callback, in seconds."""
        self.expiry = CertificateExpiryMonitor(lambda: reloader.config, lambda: list(self._running()))
        self.fleet_poller = FleetPoller(lambda: reloader.config.fleet, strict=reloader.config.gateway.strict)
        self.events = events
        self._events_file = events_file
        self._reloader = reloader
        self._auditing = auditing
        self._stop = stop
        self._described: tuple[Config, ConfigText] | None = None
        """The configuration and its text, cached until the configuration changes."""

    def _running(self) -> Iterable[RunningBackend]:
        runtime = self._reloader.runtime
        return runtime.backends.values() if runtime else ()

    def _find(self, backend: str) -> RunningBackend | None:
        runtime = self._reloader.runtime
        return runtime.backends.get(backend) if runtime else None

    def phase(self) -> ServicePhase:
        """Return `starting`, `ready` or `draining`. See `gateway.ops.service_interface.ServiceInterface`."""
        return phase(started=self.startup_done, draining=self.draining)

    def backend_statuses(self) -> list[BackendStateSummary]:
        """Return the status of each backend. See `gateway.ops.service_interface.ServiceInterface`."""
        return [status_view_builder.backend_status(each, self.events) for each in self._running()]

    async def view(self) -> ServiceView:
        """Return a view of the service's state. Do no I/O, and yield to the event loop regularly."""
        views = await self._backends(self._running())
        certificates = self.expiry.found
        await asyncio.sleep(0)
        return self._view(views, certificates)

    async def updated_view(self, view: ServiceView, changed: Collection[str]) -> ServiceView:
        """Return a copy of `view` with the current state of the backends in `changed`."""
        found = await self._backends(each for each in self._running() if each.spec.name in changed)
        by_name = {each.name: each for each in found}
        return replace(view, backends=[by_name.get(each.name, each) for each in view.backends])

    async def _backends(self, backends: Iterable[RunningBackend]) -> list[BackendView]:
        views = []
        for number, each in enumerate(list(backends), 1):
            views.append(self._backend(each))
            if number % _VIEWS_PER_TURN == 0:
                await asyncio.sleep(0)
        return views

    def _backend(self, running: RunningBackend) -> BackendView:
        knows_containers = self._reloader.config.docker is not None
        return status_view_builder.backend_view(running, self.events, knows_containers=knows_containers)

    def _view(self, backends: list[BackendView], certificates: list[NamedCredential]) -> ServiceView:
        reloader = self._reloader
        runtime, docker = reloader.runtime, reloader.docker
        return ServiceView(
            version=status_view_builder.VERSION,
            python_version=status_view_builder.PYTHON_VERSION,
            instance=reloader.config.gateway.instance,
            started_at=self.started_at,
            startup_done=self.startup_done,
            draining=self.draining,
            accepting=runtime is not None and runtime.accepting,
            reload_successful=reloader.successful,
            reload_success_at=reloader.applied_at,
            reload_error=reloader.error,
            reload_failed_at=reloader.failed_at,
            tunnels=tunnel_views(runtime, self.events) if runtime else [],
            backends=backends,
            loop_lag=self.lag.copy(),
            tasks=len(asyncio.all_tasks()),
            io_flusher=reloader.io_flusher,
            docker=docker_view(docker) if docker else None,
            warnings=[
                *reloader.advice,
                *expiry_warnings(certificates, time.time()),
                *self._auditing.warnings,
                *self._events_file.warnings,
                *reloader.stale_files,
            ],
            credentials=status_view_builder.credential_views(certificates),
            audit_dropped=self._auditing.dropped,
        )

    def configuration(self, backend: str | None = None) -> ConfigText:
        """Return the configuration as text, without secrets. See `ServiceInterface.configuration`."""
        config = self._reloader.config
        if backend is not None:
            return config_text(config, backend)
        if self._described is None or self._described[0] is not config:
            self._described = config, config_text(config)
        return self._described[1]

    def history(self, backend: str) -> ChecksByTarget | None:
        """Return the latest check results of each target, oldest first; None if the backend does not exist."""
        running = self._find(backend)
        return status_view_builder.history(running) if running else None

    def containers(self, name: str) -> list[ContainerAccessView] | None:
        """Explain which backends each matching container can reach. See `ServiceInterface.containers`."""
        docker = self._reloader.docker
        return docker.explain(name) if docker else None

    def fleet(self) -> FleetState:
        """Return the gateways of the fleet, each with its last known state. Do no I/O."""
        return self.fleet_poller.snapshot()

    def record_command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """Write an admin command to the audit log. See `gateway.ops.service_interface.ServiceInterface`."""
        self._auditing.command(command, peer, result)

    async def reload(self) -> str:
        """Read the configuration again, apply it, and return a description of the changes."""
        return await self._reloader.reload(ConfigTrigger.ADMIN)

    def drain(self) -> None:
        """Report the service as not ready. See `gateway.ops.service_interface.ServiceInterface`."""
        if not self.draining:
            log.info("draining: the service reports that it is not ready, but still serves clients")
        self.set_draining(draining=True)

    def undrain(self) -> None:
        """Report the service as ready again. See `gateway.ops.service_interface.ServiceInterface`."""
        self._reloader.check_running()
        if self.draining:
            log.info("draining was cancelled: the readiness check succeeds again")
        self.set_draining(draining=False)

    def set_draining(self, *, draining: bool) -> None:
        """Set whether the service drains. If the value changes, record an event."""
        if draining is not self.draining:
            self.draining = draining
            self.events.record(EventSubject(SubjectType.DRAIN), self.phase())

    def shutdown(self) -> None:
        """Start the drain of the service, and return. The service stops after the drain.

        A second call ends the drain immediately.
        """
        if self._stop.is_set():
            log.warning("stopping immediately")
            self.stop_immediately.set()
        self._stop.set()

    def pause(self, backend: str, *, paused: bool) -> bool:
        """Pause or resume the checks of a backend. See `gateway.ops.service_interface.ServiceInterface`."""
        runtime, running = self._reloader.runtime, self._find(backend)
        if runtime is None or running is None:
            return False
        if not paused and not any(check.paused for check in running.checks):
            self._reloader.check_running()
            runtime.restart_checks(running)
        for check in running.checks:
            if paused:
                check.pause()
            else:
                check.resume()
        return True

    def fail(self, backend: str, *, failing: bool) -> bool:
        """Set whether the gateway resets connections to an unreachable backend, instead of letting clients wait."""
        running = self._find(backend)
        if running is not None:
            running.forward.set_fail_fast(enabled=failing)
        return running is not None

    def reconnect(self, tunnel: str) -> bool:
        """Close and reopen a tunnel, or retry it immediately if it is down."""
        runtime = self._reloader.runtime
        if runtime is None or tunnel not in runtime.config.tunnels:
            return False
        runtime.reconnect(tunnel)
        return True
