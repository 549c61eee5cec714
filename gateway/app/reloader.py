"""Loads the configuration, and applies it to the running service at startup and on reloads."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.app.config_diff import NO_CHANGE, ConfigDiff, diff_configs
from gateway.app.docker_reconciler_manager import DockerReconcilerManager
from gateway.app.listeners import bind_listeners, open_sockets, restrict_sockets
from gateway.app.process_setup import set_io_flusher
from gateway.app.running_components import RunningComponents
from gateway.app.service_audit_log import ServiceAuditLog
from gateway.app.socket_activation import PassedSockets
from gateway.app.stale_bind_mounts import find_stale_files
from gateway.app.state_change_reporter import is_configured
from gateway.config import Config
from gateway.config.referenced_file_checks import named_files
from gateway.config.setting_warnings import setting_warnings
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import ConfigTrigger
from gateway.errors import ConfigError, GatewayError
from gateway.fleet.blocking_call_runner import BlockingCallRunner
from gateway.forwarding.listener import Listener
from gateway.ops import logging_setup
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.sd_notify import SdNotifier
from gateway.ops.server import OpsServer

log = logging.getLogger(__name__)

_LOAD_TIMEOUT = 30.0
"""Timeout, in seconds, for reading the configuration. Without a timeout, a file system that hangs would block the
read forever."""

_RECENT = 30.0
"""For this number of seconds after an automatic reload, a reload without changes reports the automatic reload's
changes. Operators often request a reload after the gateway has already reloaded the changed file."""

Loader = Callable[[], Config]


class Reloader:
    """Applies the first configuration at startup, and later configurations on reloads.

    Args:
        config: The first configuration.
        loader: Reads the configuration; called in a thread.
        file: The configuration file; None if there is none.
        auditing: The audit log, which records the changes. Each reload also reopens the log file.
        notifier: Reports reloads to systemd.
        stop: The event that is set when the service stops.
        passed: The sockets that systemd bound.
        events: Records each reload as an event.
    """

    def __init__(
        self,
        config: Config,
        loader: Loader,
        file: Path | None,
        auditing: ServiceAuditLog,
        notifier: SdNotifier,
        stop: asyncio.Event,
        passed: PassedSockets,
        events: EventLog,
    ) -> None:
        self.config = config
        """The configuration that was applied last."""
        self.runtime: RunningComponents | None = None
        """The running tunnels, forwards and checks; None before `start`."""
        self.docker: DockerReconcilerManager | None = None
        """Applies the section `docker` of each configuration to the Docker engine; None before `start`."""
        self.advice = setting_warnings(config)
        """Warnings about the configuration."""
        self.successful = True
        """Whether the last reload was successful."""
        self.applied_at = time.time()
        """The time of the last successful reload, in epoch seconds; initially, the start time of the service."""
        self.error = ""
        """The error of the last reload; empty if it was successful."""
        self.failed_at: float | None = None
        """The time of the last reload, in epoch seconds, if this reload failed; None if it was successful."""
        self.stale_files: list[str] = []
        """Warnings of the last reload about bind-mounted files that were replaced on the host."""
        self.io_flusher = False
        """Whether this process is marked as an I/O flusher; see `gateway.app.process_setup.set_io_flusher`."""
        self._loader = loader
        self._file = file
        self._auditing = auditing
        self._notifier = notifier
        self._stop = stop
        self._passed = passed
        self._events = events
        self._ops: OpsServer | None = None
        self._last_digest = config.origin.sha256
        """SHA-256 of the configuration file when it was last read, even if the configuration was not valid."""
        self._lock = asyncio.Lock()
        self._last_change = (ConfigTrigger.START, NO_CHANGE, 0.0)
        """The trigger, the changes and the monotonic time of the last reload that changed something."""
        self._loading: asyncio.Future[Config] | None = None
        self._stale_check: BlockingCallRunner[list[str]] = BlockingCallRunner()

    def start(
        self,
        runtime: RunningComponents,
        docker: DockerReconcilerManager,
        ops: OpsServer,
        listeners: dict[HostPort, Listener],
    ) -> None:
        """Apply the first configuration.

        Args:
            runtime: The running gateway, to which no configuration has been applied yet.
            docker: Applies the section `docker` of each configuration to the Docker engine.
            ops: The ops server. At each reload, it reads its token and certificate files again.
            listeners: The bound listeners of the configuration. The running gateway takes ownership of them.
        """
        self.runtime, self.docker, self._ops = runtime, docker, ops
        self._apply_to(runtime, docker, self.config, listeners)
        open_sockets(self.config, listeners)
        self._auditing.configured(Config(), self.config, ConfigTrigger.START)

    def _apply_to(
        self,
        runtime: RunningComponents,
        docker: DockerReconcilerManager,
        config: Config,
        listeners: dict[HostPort, Listener],
    ) -> ConfigDiff:
        diff = runtime.apply(config, listeners)
        docker.apply(config, runtime)
        if not self.io_flusher and any(spec.kind.kernel_mounts for spec in config.backends.values()):
            self.io_flusher = set_io_flusher()
        return diff

    def check_running(self) -> None:
        """Raise an error if the service is stopping.

        Raises:
            GatewayError: The service is stopping.
        """
        if self._stop.is_set():
            raise GatewayError("the service is stopping")

    async def reload(self, trigger: ConfigTrigger) -> str:
        """Load the configuration and apply it.

        Args:
            trigger: Why the configuration is loaded, for the audit log.

        Returns:
            A description of the changes, and warnings. If this reload changes nothing, but an automatic reload made
            the last changes less than `_RECENT` seconds ago, the description repeats these changes.

        Raises:
            GatewayError: The configuration was not applied. The ops server may already use new tokens and
                certificates, because it reads their files first.
        """
        async with self._lock:
            if self.runtime is None or self.docker is None or self._ops is None:
                raise GatewayError("the service has not started yet: try again later")
            self.check_running()
            self._notifier.reloading()
            self._auditing.reopen()
            origin, last_digest = None, self._last_digest
            try:
                await self._ops.renew()
                config = await self._load()
                origin = config.origin
                # Skip the reload if the content of the file is in effect. After a refused reload, try again, because
                # the cause can be outside the file, such as the mode of another file.
                if trigger is ConfigTrigger.FILE and self.successful and origin.sha256 == last_digest:
                    return NO_CHANGE
                diff = await self._apply(self.runtime, self.docker, config, trigger)
                return "; ".join((self._describe(diff, trigger), *await self._check_stale_files(config)))
            except Exception as error:
                origin = error.origin if isinstance(error, ConfigError) else origin
                if (
                    trigger is ConfigTrigger.FILE
                    and origin
                    and origin.sha256 == last_digest
                    and self.error == str(error)  # empty after a successful reload
                ):
                    raise
                self._auditing.refused(error, trigger, origin)
                self.successful, self.error, self.failed_at = False, str(error), time.time()
                self._events.record(EventSubject(SubjectType.RELOAD), "failed", detail=self.error)
                # A bind mount still shows the old file after the file was replaced on the host. Warn if this is a
                # possible cause of the error.
                await self._check_stale_files(self.config)
                if not isinstance(error, GatewayError):
                    log.exception("reload failed")
                    raise GatewayError(f"{type(error).__name__}: {error}") from error
                log.error("reload failed: the previous configuration is in effect", extra={"detail": str(error)})
                raise
            finally:
                self._last_digest = origin.sha256 if origin else None
                self._notifier.ready()

    def _describe(self, diff: str, trigger: ConfigTrigger) -> str:
        """Return a description of the changes of a reload.

        Store the changes, because the description of a later reload can repeat them.
        """
        if diff != NO_CHANGE:
            self._last_change = (trigger, diff, time.monotonic())
            return diff
        last_trigger, changes, changed_at = self._last_change
        age = time.monotonic() - changed_at
        if last_trigger is ConfigTrigger.FILE and age < _RECENT:
            return f"already applied {age:.0f} s ago, when the file changed: {changes}"
        return diff

    async def reload_quietly(self, trigger: ConfigTrigger) -> None:
        """Load the configuration and apply it. Log errors instead of raising them."""
        try:
            await self.reload(trigger)
        except GatewayError:
            return  # `reload` has already logged the error

    async def _apply(
        self, runtime: RunningComponents, docker: DockerReconcilerManager, config: Config, trigger: ConfigTrigger
    ) -> str:
        self.check_running()
        # If a change requires a restart, raise the error before `prepare` opens a new audit log.
        diff_configs(runtime.config, config)
        writer = await self._auditing.prepare(config.audit)
        try:
            self.check_running()
            listeners = bind_listeners(config, runtime.listeners, self._passed, free_bind=False)
            restrict_sockets(config, listeners)
            diff = self._apply_to(runtime, docker, config, listeners)
            open_sockets(config, listeners)
            self._passed.warn_unused(listeners)
            if config.log != self.config.log:
                logging_setup.configure(config.log.level, config.log.format)
            previous_advice, self.advice = self.advice, setting_warnings(config)
            for warning in self.advice:
                if warning not in previous_advice:
                    log.warning(warning)
            previous, self.config = self.config, config
            self._events.forget(partial(is_configured, config))
            self.successful, self.error, self.failed_at, self.applied_at = True, "", None, time.time()
            self._events.record(EventSubject(SubjectType.RELOAD), "successful", detail=str(diff))
            self._auditing.configured(previous, config, trigger)
            if config.audit != previous.audit:
                await self._auditing.switch(config.audit, writer)
                runtime.review_forwards()
                # Record the change in the new audit log too: the call above used the previous audit log.
                self._auditing.configured(previous, config, trigger)
        except BaseException:
            self._auditing.discard(writer)
            raise
        log.info("reloaded", extra={"changes": str(diff)})
        return str(diff)

    async def _check_stale_files(self, config: Config) -> list[str]:
        files = {*named_files(config), *([self._file] if self._file else [])}
        try:
            self.stale_files = await self._stale_check.run(partial(find_stale_files, files), _LOAD_TIMEOUT)
        except TimeoutError:
            self.stale_files = ["the configuration files cannot be read: check whether their file system hangs"]
        for warning in self.stale_files:
            log.warning(warning)
        return self.stale_files

    async def _load(self) -> Config:
        """Read the configuration in a thread.

        If an earlier read still hangs, raise an error, so that at most one thread hangs.
        """
        if self._loading is not None and not self._loading.done():
            raise GatewayError(
                "a previous reload is still reading the configuration files: check whether their file system hangs"
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
