"""Runs the service from start to stop, handles signals, and sends keep-alive messages to systemd's watchdog."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway import __version__
from gateway import _dataplane as data_plane
from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.app.check_manager import CheckManager, wait_first_results
from gateway.app.component_manager import ComponentManager
from gateway.app.docker_consumer_resolver import DockerConsumerResolver
from gateway.app.docker_reconciler_manager import DockerReconcilerManager
from gateway.app.file_change_handler import FileChangeHandler
from gateway.app.file_watcher import FileStamps, FileWatcher
from gateway.app.listeners import bind_listeners
from gateway.app.ops_settings import ops_settings
from gateway.app.process_setup import prepare_loop, prepare_process
from gateway.app.reloader import Loader, Reloader
from gateway.app.running_components import RunningComponents
from gateway.app.service_audit_log import ServiceAuditLog
from gateway.app.service_control import ServiceControl
from gateway.app.shutdown import shut_down
from gateway.app.socket_activation import passed_sockets
from gateway.app.state_change_reporter import StateChangeReporter, is_configured
from gateway.app.trace_exporter import exporting
from gateway.app.uplink_manager import UplinkManager
from gateway.config import Config
from gateway.config.setting_warnings import setting_warnings
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import ConfigTrigger
from gateway.contracts.tracing import TraceExporter
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.events_file import EventsFile
from gateway.ops.sd_notify import SdNotifier
from gateway.ops.server import OpsServer
from gateway.relay.event_loop import RelayEventLoop
from gateway.supervision.supervisor import Supervisor, supervise

log = logging.getLogger(__name__)

_LAG_INTERVAL = 0.25
"""Seconds between two measurements of the event loop's lag."""
_DOCKER_TIMEOUT = 10.0
"""Maximum number of seconds that the startup waits until the gateway's own container is attached to its networks.
The gateway already serves clients during this wait."""


class GatewayService:
    """Runs the service from start to stop.

    Args:
        config: The configuration to run.
        loader: Reads the configuration for a reload; called in a thread.
        file: The configuration file, which is watched for changes; None if there is none.
        stamps: The modification time, size and inode that the file had before it was read.
    """

    def __init__(
        self, config: Config, loader: Loader, file: Path | None = None, stamps: FileStamps | None = None
    ) -> None:
        self._file = file
        self._stamps = stamps
        self._stop = asyncio.Event()
        self._notifier = SdNotifier()
        self._passed = passed_sockets()
        self._auditing = ServiceAuditLog(config.gateway.instance)
        self._events = EventLog()
        self._reloader = Reloader(
            config, loader, file, self._auditing, self._notifier, self._stop, self._passed, self._events
        )
        self._events_file = EventsFile(config.gateway.state_dir, self._events)
        self._control = ServiceControl(self._reloader, self._auditing, self._stop, self._events, self._events_file)
        self._ops = OpsServer(self._control, ops_settings(config))

    async def run(self, announce: Callable[[HostPort], None] | None = None) -> None:
        """Run until a signal or an admin command stops the service.

        Args:
            announce: Called once with the address of the status and metrics server, after all listeners are bound.

        Raises:
            GatewayError: An address cannot be bound, or the audit log cannot be opened.
        """
        prepare_loop()
        await self._auditing.open(self._reloader.config.audit)
        try:
            self._auditing.started()
            await self._serve(announce)
        finally:
            self._auditing.stopped(time.time() - self._control.started_at)
            await self._auditing.close()
        log.info("stopped")

    async def _serve(self, announce: Callable[[HostPort], None] | None) -> None:
        config = self._reloader.config
        listeners = bind_listeners(config, {}, self._passed, free_bind=True)
        self._passed.warn_unused(listeners)
        await self._events_file.load()
        self._events.forget(partial(is_configured, config))
        self._events.record(EventSubject(SubjectType.START), "started", detail=f"version {__version__}")
        async with (
            exporting(config) as exporter,
            self._ops.serving() as address,
            asyncio.TaskGroup() as group,
            supervise() as supervisor,
        ):
            docker = DockerReconcilerManager(supervisor, group, self._auditing.recorder)
            runtime = self._create_runtime(supervisor, group, docker, exporter)
            reporter = StateChangeReporter(runtime, self._events)
            self._reloader.start(runtime, docker, self._ops, listeners)
            supervisor.start("certificates", self._control.expiry)
            supervisor.start("fleet", self._control.fleet_poller)
            supervisor.start("events file", self._events_file)
            changes = FileChangeHandler(self._file, self._reloader, self._ops, runtime)
            supervisor.start("file watch", FileWatcher(changes.watched, changes.on_change, self._stamps))
            startup = group.create_task(self._await_startup(runtime, docker))
            background = {group.create_task(self._measure_lag()), startup}
            self._handle_signals(group, background)
            self._notifier.ready()
            log.info("listening", extra={"ops": str(address), "backends": len(config.backends)})
            if announce:
                announce(address)
            await self._stop.wait()
            self._control.set_draining(draining=True)
            self._notifier.stopping()
            await shut_down(runtime, self._reloader.config.shutdown, self._control.stop_immediately)
            startup.cancel()  # otherwise, the task would report a finished startup when the reconciler stops
            await docker.stop()
            reporter.close()
            await self._events_file.write()
            for task in background:
                task.cancel()
        self._events_file.close()
        await asyncio.sleep(0)  # let pending callbacks record that clients have disconnected

    def _create_runtime(
        self,
        supervisor: Supervisor,
        group: asyncio.TaskGroup,
        docker: DockerReconcilerManager,
        exporter: TraceExporter | None,
    ) -> RunningComponents:
        config, recorder = self._reloader.config, self._auditing.recorder
        components, budgets = ComponentManager(supervisor, group), AbortedHandshakeBudgets()
        data_plane.settings.threads = data_plane.thread_count(config.gateway.threads)
        return RunningComponents(
            components,
            UplinkManager(components),
            config,
            DockerConsumerResolver(docker),
            CheckManager(components, budgets),
            budgets,
            recorder,
            exporter,
        )

    def _handle_signals(self, group: asyncio.TaskGroup, background: set[asyncio.Task[None]]) -> None:
        def reload() -> None:
            self._auditing.command("SIGHUP", None, "done")
            task = group.create_task(self._reloader.reload_quietly(ConfigTrigger.SIGNAL))
            background.add(task)
            task.add_done_callback(background.discard)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shutdown_by, number)
        loop.add_signal_handler(signal.SIGHUP, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # handle a SIGHUP that arrived during startup

    def _shutdown_by(self, number: signal.Signals) -> None:
        self._auditing.command(number.name, None, "done")
        self._control.shutdown()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self._control.lag.observe(max(0.0, loop.time() - due))
            self._notifier.watchdog()

    async def _await_startup(self, runtime: RunningComponents, docker: DockerReconcilerManager) -> None:
        await wait_first_results(runtime.backends.values)
        try:
            async with asyncio.timeout(_DOCKER_TIMEOUT):
                await docker.settled()
        except TimeoutError:
            log.warning("Docker is slow: containers might not be able to resolve the names of backends yet")
        self._control.startup_done = True
        log.info("started: the first round of checks is finished")


def run(
    config: Config,
    loader: Loader,
    announce: Callable[[HostPort], None] | None = None,
    file: Path | None = None,
    stamps: FileStamps | None = None,
) -> None:
    """Run the service in a new event loop until it has stopped.

    Args:
        config: The configuration to run.
        loader: Reads the configuration for a reload; called in a thread.
        announce: Called once with the address of the status and metrics server, after all listeners are bound.
        file: The configuration file, which is watched for changes; None if there is none.
        stamps: The modification time, size and inode that the file had before it was read.

    Raises:
        GatewayError: The service cannot start.
    """
    prepare_process()
    for warning in setting_warnings(config):
        log.warning(warning)
    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        runner.run(GatewayService(config, loader, file, stamps).run(announce))
