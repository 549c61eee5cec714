"""The service from start to stop: signals, reload, drain, and the loop's own pulse."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.app import replaced, views
from gateway.app.activation import passed_sockets
from gateway.app.auditing import Auditing
from gateway.app.binding import bind_all, narrow, widen
from gateway.app.changes import compare
from gateway.app.expiry import Expiry, warnings
from gateway.app.filewatch import FileWatch, Marks
from gateway.app.fleet import Fleet
from gateway.app.ops import settings_of
from gateway.app.running import Running
from gateway.app.runtime import become_io_flusher, prepare_loop, prepare_process
from gateway.app.site import Site
from gateway.app.stopping import wind_down
from gateway.app.worker.messages import Command
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
from gateway.supervision.supervisor import supervise

log = logging.getLogger(__name__)

_PULSE = 0.25
"""Seconds between two measurements of the loop's lag."""
_VIEWS_PER_TURN = 5
_DOCKER = 10.0
"""Seconds that the start waits for the gateway's own attachments: without Docker, it serves all the same."""
_LOAD = 30.0
"""Seconds for reading the configuration: a file system may hang."""

Loader = Callable[[], Config]


class GatewayService:
    """One running gateway; a `gateway.ops.control.Service`.

    Args:
        config: What to run.
        loader: Reads the configuration again, for a reload.
        file: Where it stands, to be looked at for changes; None: there is no file.
        marks: What was seen of it before it was read.
    """

    def __init__(self, config: Config, loader: Loader, file: Path | None = None, marks: Marks | None = None) -> None:
        self._file = file
        self._marks = marks
        self._config = config
        self._loader = loader
        self._started_at = time.time()
        self._draining = False
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._lag = Histogram()
        self._reload_good = True
        self._tried = config.origin.sha256
        """The hash of the file that was read last, whether it was taken or refused."""
        self._reload_at = time.time()
        self._reload_error = ""
        self._replaced: list[str] = []
        """Files that this container no longer shares with the host, as of the last reload."""
        self._startup_done = False
        self._flushes = False
        self._notifier = Notifier()
        self._passed = passed_sockets()
        self._auditing = Auditing(config.gateway.instance)
        self._site: Site | None = None
        self._fleet: Fleet | None = None
        self._expiry = Expiry(lambda: self._config, lambda: list(self._site.backends.values()) if self._site else [])
        self._ops = OpsServer(self, settings_of(config))
        self._reloading = asyncio.Lock()
        self._unsettled = asyncio.Event()
        """Set while a worker may still have the rules of the configuration before."""
        self._loading: asyncio.Future[Config] | None = None

    async def run(self, announce: Callable[[Endpoint], None] | None = None) -> None:
        """Run until told to stop.

        Args:
            announce: Called once with the ops server's real address, when everything listens.

        Raises:
            GatewayError: An address cannot be listened on, or the audit log cannot be opened.
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
        listeners = bind_all(self._config, {}, self._passed)
        self._passed.warn_of_unused(listeners)
        async with (
            self._ops.serving() as address,
            asyncio.TaskGroup() as group,
            supervise() as supervisor,
        ):
            self._flush_if_mounted(self._config)
            recorder = self._auditing.recorder
            self._fleet = Fleet(supervisor, group, recorder)
            self._site = Site(supervisor, group, self._config, self._fleet, recorder=recorder)
            self._site.apply(self._config, listeners)
            widen(self._config, listeners)
            self._fleet.apply(self._config, self._site)
            supervisor.start("certificates", self._expiry)
            self._auditing.configured(Config(), self._config, "start")
            supervisor.start("file watch", FileWatch(self._watched, self._files_changed, self._marks))
            helpers = {
                group.create_task(self._pulse()),
                group.create_task(self._await_startup()),
                group.create_task(self._widen_late(self._site)),
            }
            self._catch_signals(group, helpers)
            self._notifier.ready()
            log.info("listening", extra={"ops": str(address), "backends": len(self._config.backends)})
            if announce:
                announce(address)
            await self._stop.wait()
            self._draining = True
            self._notifier.stopping()
            await wind_down(self._site, self._config.shutdown, self._at_once)
            for helper in helpers:
                helper.cancel()
        await asyncio.sleep(0)  # the ends of the last clients are noticed in this turn of the loop

    # What ops asks and tells.

    def phase(self) -> str:
        """See `gateway.ops.control.Service`."""
        return phase(started=self._startup_done, draining=self._draining)

    def standings(self) -> list[Standing]:
        """See `gateway.ops.control.Service`."""
        return [views.standing(each) for each in (self._site.backends.values() if self._site else ())]

    async def view(self) -> ServiceView:
        """See `gateway.ops.control.Service`."""
        seen = []
        for number, each in enumerate(list(self._site.backends.values()) if self._site else ()):
            seen.append(self._backend(each))
            if number % _VIEWS_PER_TURN == _VIEWS_PER_TURN - 1:
                await asyncio.sleep(0)
        return self._view(seen)

    def _backend(self, running: Running) -> BackendView:
        return views.backend_view(running, knows_containers=self._config.docker is not None)

    def _view(self, backends: list[BackendView]) -> ServiceView:
        site, certificates = self._site, self._expiry.found
        return ServiceView(
            version=views.VERSION,
            python_version=views.PYTHON_VERSION,
            instance=self._config.gateway.instance,
            started_at=self._started_at,
            startup_done=self._startup_done,
            draining=self._draining,
            reload_successful=self._reload_good,
            reload_success_at=self._reload_at,
            reload_error=self._reload_error,
            tunnels=views.tunnel_views(site) if site else [],
            backends=backends,
            loop_lag=self._lag.copy(),
            tasks=len(asyncio.all_tasks()),
            io_flusher=self._flushes,
            docker=views.docker_view(self._fleet) if self._fleet else None,
            warnings=[
                *advice(self._config),
                *warnings(certificates, time.time()),
                *self._auditing.trouble,
                *self._replaced,
            ],
            credentials=views.credential_views(certificates),
            audit_dropped=self._auditing.dropped,
            workers={unit.number: unit.pid if unit.running else None for unit in site.workers.units} if site else {},
        )

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """See `gateway.ops.control.Service`."""
        running = self._site.backends.get(backend) if self._site else None
        return views.history(running) if running else None

    def containers(self, name: str) -> list[dict[str, Any]] | None:
        """See `gateway.ops.control.Service`."""
        return self._fleet.explain(name) if self._fleet else None

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
            origin, tried = None, self._tried
            try:
                await self._ops.renew()
                config = await self._load()
                origin = config.origin
                if trigger == "file" and origin.sha256 == tried:  # a command or signal came first
                    return "no change"
                changes = await self._reload(self._site, config, trigger)
                return "; ".join((changes, *await self._find_replaced(config)))
            except Exception as error:
                origin = error.origin if isinstance(error, ConfigError) else origin
                if trigger == "file" and origin and origin.sha256 == tried:
                    raise
                await self._find_replaced(self._config)  # the file that was corrected may not be the one that is read
                self._auditing.refused(error, trigger, origin)
                self._reload_good, self._reload_error = False, str(error)
                if not isinstance(error, GatewayError):
                    log.exception("reload failed")
                    raise GatewayError(f"{type(error).__name__}: {error}") from error
                log.error("reload refused: nothing was changed", extra={"detail": str(error)})
                raise
            finally:
                self._tried = origin.sha256 if origin else None
                self._notifier.ready()

    async def _reload(self, site: Site, config: Config, trigger: str) -> str:
        self._refuse_while_stopping()
        compare(site.config, config)
        writer = await self._auditing.prepare(config.audit)
        try:
            self._refuse_while_stopping()
            listeners = bind_all(config, site.listeners, self._passed)
            narrow(config, listeners)
            changes = site.apply(config, listeners)
            self._unsettled.set()
            if self._fleet is not None:
                self._fleet.apply(config, site)
            self._flush_if_mounted(config)
            if config.log != self._config.log:
                logs.configure(config.log.level, config.log.format)
            known = advice(self._config)
            for sentence in advice(config):
                if sentence not in known:
                    log.warning(sentence)
            before, self._config = self._config, config
            self._reload_good, self._reload_error, self._reload_at = True, "", time.time()
            self._auditing.configured(before, config, trigger)
            if config.audit != before.audit:
                await self._auditing.switch(config.audit, writer)
                self._auditing.configured(before, config, trigger)  # where the log begins, as where it ends
        except BaseException:
            self._auditing.discard(writer)
            raise
        if await site.workers.settled():
            self._unsettled.clear()
            widen(config, listeners)
        else:
            log.warning("a worker is slow to apply the configuration")
        log.info("reloaded", extra={"changes": str(changes)})
        return str(changes)

    async def _find_replaced(self, config: Config) -> list[str]:
        """Log and return which files this container no longer shares with the host."""
        files = {*named_files(config), *([self._file] if self._file else [])}
        self._replaced = await asyncio.to_thread(replaced.look, files)
        for sentence in self._replaced:
            log.warning(sentence)
        return self._replaced

    async def _widen_late(self, site: Site) -> None:
        """Set the modes of sockets that had to wait for a slow worker."""
        while True:
            await self._unsettled.wait()
            config, listeners = site.config, site.listeners
            if await site.workers.settled() and site.config is config:
                self._unsettled.clear()
                widen(config, listeners)

    async def _load(self) -> Config:
        """Read the files, which may block: nothing else waits for it, and no second thread does."""
        if self._loading is not None and not self._loading.done():
            raise GatewayError("the files of the configuration are still being read: does their file system hang?")
        self._loading = asyncio.get_running_loop().run_in_executor(None, self._loader)
        self._loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(_LOAD):
                return await asyncio.shield(self._loading)
        except TimeoutError as error:
            raise GatewayError(f"the configuration could not be read within {_LOAD:g} s") from error

    def _flush_if_mounted(self, config: Config) -> None:
        if not self._flushes and any(spec.kind.kernel_mounts for spec in config.backends.values()):
            self._flushes = become_io_flusher()

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
        """See `gateway.ops.control.Service`; the second call ends at once."""
        if self._stop.is_set():
            log.warning("stopping at once")
            self._at_once.set()
        self._stop.set()

    def pause(self, backend: str, *, paused: bool) -> bool:
        """See `gateway.ops.control.Service`."""
        running = self._site.backends.get(backend) if self._site else None
        if self._site is None or running is None:
            return False
        if not paused and not any(check.paused for check in running.checks):
            self._refuse_while_stopping()
            self._site.check_anew(running)
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
        for uplink in self._site.uplinks_of(tunnel):
            uplink.reconnect()
        for unit in self._site.workers.units:
            unit.send(Command("reconnect", tunnel))
        return True

    # The life.

    def _catch_signals(self, group: asyncio.TaskGroup, helpers: set[asyncio.Task[None]]) -> None:
        def reload() -> None:
            self._auditing.command("SIGHUP", None, "done")
            task = group.create_task(self._reload_quietly("signal"))
            helpers.add(task)
            task.add_done_callback(helpers.discard)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shutdown_by, number)
        loop.add_signal_handler(signal.SIGHUP, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one may have come while we started

    def _shutdown_by(self, number: signal.Signals) -> None:
        self._auditing.command(number.name, None, "done")
        self.shutdown()

    async def _reload_quietly(self, trigger: str) -> None:
        try:
            await self._reload_for(trigger)
        except GatewayError:
            return  # told in the log, the status and the metric

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
                log.error("a file of ops cannot be used: what was read before stays", extra={"detail": str(error)})
        if self._file in changed:
            await self._reload_quietly("file")
        for name, spec in self._config.tunnels.items():
            renewed = spec.kind.renewed(spec.options)
            files = await asyncio.to_thread(_files_of, spec)
            if self._site is not None and (files - renewed) & changed:
                self._site.renew(name)
            elif self._site is not None and renewed & changed:
                self._site.retry(name)

    async def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PULSE
            await asyncio.sleep(_PULSE)
            self._lag.observe(max(0.0, loop.time() - due))
            self._notifier.watchdog()

    async def _await_startup(self) -> None:
        if self._site is not None:
            await self._site.wait_started()
        if self._fleet is not None:
            try:
                async with asyncio.timeout(_DOCKER):
                    await self._fleet.settled()
            except TimeoutError:
                log.warning("docker is slow: backends may not have their names yet")
        self._startup_done = True
        log.info("started: the first round of checks is finished")


def _files_of(spec: TunnelSpec) -> set[Path]:
    """The files of a tunnel, with those that they name; may block."""
    return files_of(spec.options).union(spec.kind.files(spec.options))


def run(
    config: Config,
    loader: Loader,
    announce: Callable[[Endpoint], None] | None = None,
    file: Path | None = None,
    marks: Marks | None = None,
) -> None:
    """Run the service in an event loop of its own until it is told to stop.

    Raises:
        GatewayError: It cannot start.
    """
    prepare_process()
    for warning in advice(config):
        log.warning(warning)
    with asyncio.Runner(loop_factory=RelayLoop) as runner:
        runner.run(GatewayService(config, loader, file, marks).run(announce))


__all__ = ["ConfigError", "GatewayService", "run"]
