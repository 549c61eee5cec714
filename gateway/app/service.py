"""The service from start to stop: signals, reload, drain, and the watchdog."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.app import stale_mounts, status_view
from gateway.app.auditing import Auditing
from gateway.app.config_diff import diff_configs
from gateway.app.credential_expiry import ExpiryMonitor, expiry_warnings
from gateway.app.docker_sync import DockerSync
from gateway.app.filewatch import FileStamps, FileWatch
from gateway.app.listeners import bind_listeners, open_sockets, restrict_sockets
from gateway.app.local_checks import HandshakeBudgets, LocalChecks, wait_first_results
from gateway.app.ops_settings import ops_settings
from gateway.app.process_setup import prepare_loop, prepare_process, set_io_flusher
from gateway.app.running_backend import RunningBackend
from gateway.app.shutdown import shut_down
from gateway.app.site import Site
from gateway.app.units import Units
from gateway.app.uplinks import Uplinks
from gateway.app.worker.owner import Workers
from gateway.audit_log.recorder import Recorder
from gateway.config import Config, TunnelSpec
from gateway.config.advice import advice
from gateway.config.files import files_of, named_files
from gateway.contracts import Endpoint
from gateway.errors import ConfigError, GatewayError
from gateway.measure import Histogram
from gateway.ops import logs
from gateway.ops.http import OpsServer
from gateway.ops.notify import Notifier
from gateway.ops.view import BackendView, ServiceView, Standing, phase
from gateway.relay.poller import RelayLoop
from gateway.relay.sockets import Peer
from gateway.supervision.supervisor import Supervisor, supervise

log = logging.getLogger(__name__)

_LAG_INTERVAL = 0.25
"""Seconds between two measurements of the loop's lag."""
_VIEWS_PER_TURN = 5
"""Backends whose views are built before the event loop gets a turn."""
_DOCKER_TIMEOUT = 10.0
"""Seconds that the startup waits for the gateway's own attachments. Clients are served meanwhile."""
_LOAD_TIMEOUT = 30.0
"""Seconds to read the configuration, because a file system may hang."""

Loader = Callable[[], Config]


class GatewayService:
    """A running gateway; a `gateway.ops.control.Service`.

    Args:
        config: The configuration to run.
        loader: Reads the configuration for a reload; called in a thread.
        file: The configuration file, which is watched for changes; None: there is none.
        stamps: The stamp of that file before it was read.
    """

    def __init__(
        self, config: Config, loader: Loader, file: Path | None = None, stamps: FileStamps | None = None
    ) -> None:
        self._file = file
        self._stamps = stamps
        self._config = config
        self._loader = loader
        self._started_at = time.time()
        self._draining = False
        self._stop = asyncio.Event()
        self._stop_immediately = asyncio.Event()
        self._lag = Histogram()
        self._reload_successful = True
        self._last_digest = config.origin.sha256
        """SHA-256 of the file that was read last, whether it was applied or refused."""
        self._reload_at = time.time()
        self._reload_error = ""
        self._stale_files: list[str] = []
        """Warnings about files that were replaced on the host, from the last reload."""
        self._startup_done = False
        self._io_flusher = False
        self._notifier = Notifier()
        self._auditing = Auditing(config.gateway.instance)
        self._site: Site | None = None
        self._docker: DockerSync | None = None
        self._expiry = ExpiryMonitor(
            lambda: self._config, lambda: list(self._site.backends.values()) if self._site else []
        )
        self._ops = OpsServer(self, ops_settings(config))
        self._reloading = asyncio.Lock()
        self._workers_behind = asyncio.Event()
        """Set while a worker may still use the rules of the previous configuration."""
        self._loading: asyncio.Future[Config] | None = None

    async def run(self, announce: Callable[[Endpoint], None] | None = None) -> None:
        """Run until `shutdown` is called.

        Args:
            announce: Called once with the address of the ops server, after all listeners are bound.

        Raises:
            GatewayError: An address cannot be bound, or the audit log cannot be opened.
        """
        prepare_loop()
        await self._auditing.open(self._config.audit)
        try:
            self._auditing.started()
            await self._serve(announce)
        finally:
            self._auditing.stopped(time.time() - self._started_at)
            await self._auditing.close()
        log.info("stopped")

    async def _serve(self, announce: Callable[[Endpoint], None] | None) -> None:
        listeners = bind_listeners(self._config, {})
        async with (
            self._ops.serving() as address,
            asyncio.TaskGroup() as group,
            supervise() as supervisor,
        ):
            self._become_io_flusher(self._config)
            recorder = self._auditing.recorder
            self._docker = DockerSync(supervisor, group, recorder)
            self._site = self._create_site(supervisor, group, self._docker, recorder)
            self._site.apply(self._config, listeners)
            open_sockets(self._config, listeners)
            self._docker.apply(self._config, self._site)
            supervisor.start("certificates", self._expiry)
            self._auditing.configured(Config(), self._config, "start")
            supervisor.start("file watch", FileWatch(self._watched, self._files_changed, self._stamps))
            background = {
                group.create_task(self._measure_lag()),
                group.create_task(self._await_startup()),
                group.create_task(self._open_sockets_later(self._site)),
            }
            self._handle_signals(group, background)
            self._notifier.ready()
            log.info("listening", extra={"ops": str(address), "backends": len(self._config.backends)})
            if announce:
                announce(address)
            await self._stop.wait()
            self._draining = True
            self._notifier.stopping()
            await shut_down(self._site, self._config.shutdown, self._stop_immediately)
            for task in background:
                task.cancel()
        await asyncio.sleep(0)  # the ends of the last clients are recorded in this turn of the event loop

    def _create_site(
        self, supervisor: Supervisor, group: asyncio.TaskGroup, docker: DockerSync, recorder: Recorder
    ) -> Site:
        units, budgets = Units(supervisor, group), HandshakeBudgets()
        workers = Workers(self._config.gateway.workers, self._on_worker_failure, recorder)
        workers.start(supervisor)
        uplinks = Uplinks(units, separate_bulk=True)
        return Site(units, uplinks, self._config, docker, LocalChecks(units, budgets), budgets, workers, recorder)

    def _on_worker_failure(self, backend: str, target: Endpoint, stalled: bool) -> None:
        running = self._site.backends.get(backend) if self._site else None
        if running is not None:
            (running.on_stall if stalled else running.on_failure)(target)

    # Methods of gateway.ops.control.Service.

    def phase(self) -> str:
        """See `gateway.ops.control.Service`."""
        return phase(started=self._startup_done, draining=self._draining)

    def standings(self) -> list[Standing]:
        """See `gateway.ops.control.Service`."""
        return [status_view.standing(each) for each in (self._site.backends.values() if self._site else ())]

    async def view(self) -> ServiceView:
        """See `gateway.ops.control.Service`."""
        views = []
        for number, each in enumerate(list(self._site.backends.values()) if self._site else ()):
            views.append(self._backend(each))
            if number % _VIEWS_PER_TURN == _VIEWS_PER_TURN - 1:
                await asyncio.sleep(0)
        return self._view(views)

    def _backend(self, running: RunningBackend) -> BackendView:
        return status_view.backend_view(running, knows_containers=self._config.docker is not None)

    def _view(self, backends: list[BackendView]) -> ServiceView:
        site, certificates = self._site, self._expiry.found
        return ServiceView(
            version=status_view.VERSION,
            python_version=status_view.PYTHON_VERSION,
            instance=self._config.gateway.instance,
            started_at=self._started_at,
            startup_done=self._startup_done,
            draining=self._draining,
            reload_successful=self._reload_successful,
            reload_success_at=self._reload_at,
            reload_error=self._reload_error,
            tunnels=status_view.tunnel_views(site) if site else [],
            backends=backends,
            loop_lag=self._lag.copy(),
            tasks=len(asyncio.all_tasks()),
            io_flusher=self._io_flusher,
            docker=status_view.docker_view(self._docker) if self._docker else None,
            warnings=[
                *advice(self._config),
                *expiry_warnings(certificates, time.time()),
                *self._auditing.trouble,
                *self._stale_files,
            ],
            credentials=status_view.credential_views(certificates),
            audit_dropped=self._auditing.dropped,
            workers={unit.number: unit.pid if unit.running else None for unit in site.workers.units} if site else {},
        )

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """See `gateway.ops.control.Service`."""
        running = self._site.backends.get(backend) if self._site else None
        return status_view.history(running) if running else None

    def containers(self, name: str) -> list[dict[str, Any]] | None:
        """See `gateway.ops.control.Service`."""
        return self._docker.explain(name) if self._docker else None

    def commanded(self, command: str, peer: Peer | None, result: str) -> None:
        """See `gateway.ops.control.Service`."""
        self._auditing.command(command, peer, result)

    async def reload(self) -> str:
        """See `gateway.ops.control.Service`."""
        return await self._reload_for("admin")

    async def _reload_for(self, trigger: str) -> str:
        async with self._reloading:
            if self._site is None:
                raise GatewayError("the service is not running")
            self._refuse_while_stopping()
            self._notifier.reloading()
            self._auditing.reopen()
            origin, last_digest = None, self._last_digest
            try:
                await self._ops.renew()
                config = await self._load()
                origin = config.origin
                if trigger == "file" and origin.sha256 == last_digest:  # another reload has read it already
                    return "no change"
                changes = await self._reload(self._site, config, trigger)
                return "; ".join((changes, *await self._check_stale_files(config)))
            except Exception as error:
                origin = error.origin if isinstance(error, ConfigError) else origin
                if trigger == "file" and origin and origin.sha256 == last_digest:
                    raise
                await self._check_stale_files(
                    self._config
                )  # the corrected file may not be the file that this container reads
                self._auditing.refused(error, trigger, origin)
                self._reload_successful, self._reload_error = False, str(error)
                if not isinstance(error, GatewayError):
                    log.exception("reload failed")
                    raise GatewayError(f"{type(error).__name__}: {error}") from error
                log.error("reload refused: nothing has changed", extra={"detail": str(error)})
                raise
            finally:
                self._last_digest = origin.sha256 if origin else None
                self._notifier.ready()

    async def _reload(self, site: Site, config: Config, trigger: str) -> str:
        self._refuse_while_stopping()
        diff_configs(site.config, config)
        writer = await self._auditing.prepare(config.audit)
        try:
            self._refuse_while_stopping()
            listeners = bind_listeners(config, site.listeners)
            restrict_sockets(config, listeners)
            changes = site.apply(config, listeners)
            self._workers_behind.set()
            if self._docker is not None:
                self._docker.apply(config, site)
            self._become_io_flusher(config)
            if config.log != self._config.log:
                logs.configure(config.log.level, config.log.format)
            previous_advice = advice(self._config)
            for warning in advice(config):
                if warning not in previous_advice:
                    log.warning(warning)
            previous, self._config = self._config, config
            self._reload_successful, self._reload_error, self._reload_at = True, "", time.time()
            self._auditing.configured(previous, config, trigger)
            if config.audit != previous.audit:
                await self._auditing.switch(config.audit, writer)
                self._auditing.configured(previous, config, trigger)  # in the new log, as in the old one
        except BaseException:
            self._auditing.discard(writer)
            raise
        if await site.workers.settled():
            self._workers_behind.clear()
            open_sockets(config, listeners)
        else:
            log.warning("a worker has not applied the configuration in time")
        log.info("reloaded", extra={"changes": str(changes)})
        return str(changes)

    async def _check_stale_files(self, config: Config) -> list[str]:
        """Log and return warnings about files that were replaced on the host."""
        files = {*named_files(config), *([self._file] if self._file else [])}
        self._stale_files = await asyncio.to_thread(stale_mounts.find_stale_files, files)
        for warning in self._stale_files:
            log.warning(warning)
        return self._stale_files

    async def _open_sockets_later(self, site: Site) -> None:
        """Open the sockets after a slow worker has applied the configuration."""
        while True:
            await self._workers_behind.wait()
            config, listeners = site.config, site.listeners
            if await site.workers.settled() and site.config is config:
                self._workers_behind.clear()
                open_sockets(config, listeners)

    async def _load(self) -> Config:
        """Read the configuration in a thread, at most one at a time, because a file system may hang."""
        if self._loading is not None and not self._loading.done():
            raise GatewayError(
                "a previous reload still reads the configuration files: check whether their file system hangs"
            )
        self._loading = asyncio.get_running_loop().run_in_executor(None, self._loader)
        self._loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT):
                return await asyncio.shield(self._loading)
        except TimeoutError as error:
            raise GatewayError(
                f"reading the configuration took longer than {_LOAD_TIMEOUT:g} s: check whether a file system hangs"
            ) from error

    def _become_io_flusher(self, config: Config) -> None:
        if not self._io_flusher and any(spec.kind.kernel_mounts for spec in config.backends.values()):
            self._io_flusher = set_io_flusher()

    def _refuse_while_stopping(self) -> None:
        if self._stop.is_set():
            raise GatewayError("the service is stopping")

    def drain(self) -> None:
        """See `gateway.ops.control.Service`."""
        if not self._draining:
            log.info("draining: not ready, still serving")
        self._draining = True

    def undrain(self) -> None:
        """See `gateway.ops.control.Service`."""
        self._refuse_while_stopping()
        if self._draining:
            log.info("ready again")
        self._draining = False

    def shutdown(self) -> None:
        """See `gateway.ops.control.Service`. The second call stops immediately."""
        if self._stop.is_set():
            log.warning("stopping immediately")
            self._stop_immediately.set()
        self._stop.set()

    def pause(self, backend: str, *, paused: bool) -> bool:
        """See `gateway.ops.control.Service`."""
        running = self._site.backends.get(backend) if self._site else None
        if self._site is None or running is None:
            return False
        if not paused and not any(check.paused for check in running.checks):
            self._refuse_while_stopping()
            self._site.restart_checks(running)
        for check in running.checks:
            if paused:
                check.pause()
            else:
                check.resume()
        return True

    def fail(self, backend: str, *, failing: bool) -> bool:
        """See `gateway.ops.control.Service`."""
        running = self._site.backends.get(backend) if self._site else None
        if running is not None:
            running.forward.set_fail_fast(enabled=failing)
        return running is not None

    def reconnect(self, tunnel: str) -> bool:
        """See `gateway.ops.control.Service`."""
        if self._site is None or tunnel not in self._site.config.tunnels:
            return False
        self._site.reconnect(tunnel)
        return True

    def _handle_signals(self, group: asyncio.TaskGroup, background: set[asyncio.Task[None]]) -> None:
        def reload() -> None:
            self._auditing.command("SIGHUP", None, "done")
            task = group.create_task(self._reload_quietly("signal"))
            background.add(task)
            task.add_done_callback(background.discard)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shutdown_by, number)
        loop.add_signal_handler(signal.SIGHUP, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one may be pending since the start

    def _shutdown_by(self, number: signal.Signals) -> None:
        self._auditing.command(number.name, None, "done")
        self.shutdown()

    async def _reload_quietly(self, trigger: str) -> None:
        try:
            await self._reload_for(trigger)
        except GatewayError:
            return  # `_reload_for` has logged it

    def _watched(self) -> set[Path]:
        found = set(self._ops.files)
        if self._config.gateway.reload_on_change:
            specs = self._config.tunnels.values()
            found |= {self._file} if self._file else set()
            found = found.union(*map(_files_of, specs), *(spec.kind.renewed(spec.options) for spec in specs))
        return found

    async def _files_changed(self, changed: set[Path]) -> None:
        if self._ops.files & changed:
            try:
                await self._ops.renew()
            except GatewayError as error:
                log.error(
                    "a file of the section ops cannot be used: keeping its previous content",
                    extra={"detail": str(error)},
                )
        if self._file in changed:
            await self._reload_quietly("file")
        for name, spec in self._config.tunnels.items():
            renewed = spec.kind.renewed(spec.options)
            files = await asyncio.to_thread(_files_of, spec)
            if self._site is not None and (files - renewed) & changed:
                self._site.renew(name)
            elif self._site is not None and renewed & changed:
                self._site.retry(name)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self._lag.observe(max(0.0, loop.time() - due))
            self._notifier.watchdog()

    async def _await_startup(self) -> None:
        if self._site is not None:
            await wait_first_results(self._site.backends.values)
        if self._docker is not None:
            try:
                async with asyncio.timeout(_DOCKER_TIMEOUT):
                    await self._docker.settled()
            except TimeoutError:
                log.warning("docker is slow: names of backends may not resolve yet")
        self._startup_done = True
        log.info("started: the first round of checks is finished")


def _files_of(spec: TunnelSpec) -> set[Path]:
    """Return the files of a tunnel, including those that its files name. It may block."""
    return files_of(spec.options).union(spec.kind.files(spec.options))


def run(
    config: Config,
    loader: Loader,
    announce: Callable[[Endpoint], None] | None = None,
    file: Path | None = None,
    stamps: FileStamps | None = None,
) -> None:
    """Run the service in a new event loop until it has stopped.

    Args:
        config: The configuration to run.
        loader: Reads the configuration for a reload; called in a thread.
        announce: Called once with the address of the ops server, after all listeners are bound.
        file: The configuration file, which is watched for changes; None: there is none.
        stamps: The stamp of that file before it was read.

    Raises:
        GatewayError: The service cannot start.
    """
    prepare_process()
    for warning in advice(config):
        log.warning(warning)
    with asyncio.Runner(loop_factory=RelayLoop) as runner:
        runner.run(GatewayService(config, loader, file, stamps).run(announce))


__all__ = ["ConfigError", "GatewayService", "run"]
