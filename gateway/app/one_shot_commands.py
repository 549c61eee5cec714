"""Implements the commands that run once without a running service: `gateway check`, `plan`, `apply` and `audit`."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from gateway.app.docker_desired_state import desired
from gateway.app.service_audit_log import recording
from gateway.audit.docker_context import default_host
from gateway.audit.docker_host_variable import with_environment
from gateway.audit.hazards import build_report
from gateway.audit.report import AuditReport
from gateway.audit.snapshot_collector import AuditScope, take_snapshot
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.config import BackendSpec, Config
from gateway.config.suggestions import backend_hint
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.states import HealthState, TunnelState
from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_connection import connected
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.options import DockerOptions
from gateway.docker.plan import Plan
from gateway.docker.reconciler import Reconciler
from gateway.errors import FailureReason, LinkLostError, UsageError
from gateway.health.check_results import CheckResult
from gateway.health.probe import probe_once
from gateway.relay.direct_link import DirectLinkFactory
from gateway.relay.event_loop import RelayEventLoop
from gateway.supervision.supervisor import Supervisor, supervise
from gateway.supervision.uplink import Uplink
from gateway.text_sanitizer import error_text

_CLOSE_TIMEOUT = 5.0
"""Maximum number of seconds that `_wait_until_not_up` waits."""


@dataclass(frozen=True)
class TargetCheckResult:
    """The result of one check of a target, and the tunnel that the check used (None: no tunnel)."""

    backend: str
    target: HostPort
    tunnel: str | None
    result: CheckResult


def check(config: Config, names: tuple[str, ...]) -> list[TargetCheckResult]:
    """Check each target of some backends once. If several tunnels lead to a target, check it through each of them.

    Args:
        config: The configuration.
        names: The names of the backends; empty for all backends.

    Raises:
        UsageError: A name is not configured.
    """
    unknown = [name for name in names if name not in config.backends]
    if unknown:
        raise UsageError(f"there is no backend {unknown[0]!r}{backend_hint(config.backends)}")
    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        return runner.run(_check_backends([config.backends[name] for name in names or config.backends], config))


async def _check_backends(specs: list[BackendSpec], config: Config) -> list[TargetCheckResult]:
    async with supervise() as supervisor:
        uplinks = _direct_uplink(supervisor)
        for tunnel in {tunnel for spec in specs for tunnel in spec.tunnels}:
            _open_tunnel(tunnel, config, uplinks, supervisor)
        checks = [
            _check_target(spec, target, tunnel, uplinks[tunnel])
            for spec in specs
            for target in spec.targets
            for tunnel in spec.paths(target) or (None,)
        ]
        return list(await asyncio.gather(*checks))


def plan(config: Config) -> Plan:
    """Return the changes that `apply` would make in Docker.

    Raises:
        EngineError: The Docker engine cannot be reached, or its response is not valid.
        UsageError: The configuration has no `docker` section.
    """
    return _with_engine(config, Reconciler.dry_run)


def apply(config: Config) -> tuple[Plan, list[str]]:
    """Reconcile Docker once, and record the changes in the audit log if the audit log is a file.

    Returns:
        The executed actions, and the errors of the actions that failed.

    Raises:
        EngineError: The Docker engine cannot be reached, or its response is not valid.
        GatewayError: The audit log cannot be opened; nothing was changed.
        UsageError: The configuration has no `docker` section.
    """
    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        return runner.run(_apply_and_record(config))


async def _apply_and_record(config: Config) -> tuple[Plan, list[str]]:
    async with recording(config) as recorder:
        return await _with_reconciler(config, Reconciler.apply_once, recorder)


def audit(config: Config, mount_table: Path | None = None) -> tuple[AuditReport, list[str]]:
    """Return the hazards to data and secrets, and one message for each container that can bypass the access rules.

    For example, a container that can spoof addresses can use the backends of another container.

    Args:
        config: The configuration, with a `docker` section.
        mount_table: A file with a copy of `/proc/self/mountinfo` from the engine's host. None: use the mount table of
            this process, or no mount table if the engine runs on another host or this process runs in a container.

    Raises:
        EngineError: The Docker engine cannot be reached, or its response is not valid.
        UsageError: `mount_table` cannot be read, or the configuration has no `docker` section.
    """
    options = config.docker
    if options is None:
        raise UsageError("the configuration has no `docker` section: add one")
    try:
        mounts = mount_table.read_text(errors="surrogateescape") if mount_table is not None else None
    except OSError as error:
        raise UsageError(
            f"--mount-table {mount_table}: {error_text(error)}: check the path and its permissions"
        ) from error
    scope = AuditScope(
        forwards={
            address.port: name
            for name, spec in config.backends.items()
            for address in spec.listen
            if not address.is_unix
        },
        socket=options.host.removeprefix("unix://") if options.host.startswith("unix://") else "",
        is_local=options.is_local,
        mounts=mounts,
    )

    async def inspect(reconciler: Reconciler, engine: EngineClient) -> tuple[AuditReport, list[str]]:
        lines, own = await reconciler.exposures(engine)
        report = build_report(await take_snapshot(engine, replace(scope, own=own)))
        return with_environment(report, options, default_host(os.environ), engine.flavor.command), lines

    return _with_engine(config, inspect)


_T = TypeVar("_T")


def _with_engine(config: Config, job: Callable[[Reconciler, EngineClient], Awaitable[_T]]) -> _T:
    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        return runner.run(_with_reconciler(config, job))


async def _with_reconciler(
    config: Config, job: Callable[[Reconciler, EngineClient], Awaitable[_T]], recorder: AuditLogRecorder | None = None
) -> _T:
    options = config.docker
    if options is None:
        raise UsageError("the configuration has no `docker` section: add one")
    async with supervise() as supervisor:
        uplinks = _direct_uplink(supervisor)
        tunnel = options.tunnel
        if tunnel is not None:
            _open_tunnel(tunnel, config, uplinks, supervisor)
            await uplinks[tunnel].settled.wait()

        def link(name: str) -> Link | None:
            return uplinks[name].link

        reconciler = Reconciler(options, lambda: desired(config), link, config.gateway.state_dir, recorder)
        try:
            async with connected(options, link) as engine:
                return await job(reconciler, engine)
        except EngineError as error:
            # Raise the error after the task group has ended, because the task group would wrap the error in an
            # ExceptionGroup.
            failure = error
    raise _with_client_host(failure, options)


def _with_client_host(error: EngineError, options: DockerOptions) -> EngineError:
    """Return `error`. If the engine is unreachable and `DOCKER_HOST` differs from `docker.host`, add a note.

    Omit the note if the gateway connects to the engine through a tunnel.
    """
    host = os.environ.get("DOCKER_HOST", "")
    if error.kind is not EngineErrorKind.UNREACHABLE or options.tunnel is not None or host in ("", options.host):
        return error
    note = f"DOCKER_HOST is {host}, but the gateway uses docker.host"
    return EngineError(error.kind, f"{error.message} ({note})")


def _direct_uplink(supervisor: Supervisor) -> dict[str | None, Uplink]:
    uplinks: dict[str | None, Uplink] = {None: Uplink("direct", DirectLinkFactory(), quiet=True)}
    supervisor.start("direct", uplinks[None])
    return uplinks


def _open_tunnel(name: str, config: Config, uplinks: dict[str | None, Uplink], supervisor: Supervisor) -> None:
    if name in uplinks:
        return
    spec = config.tunnels[name]
    for via in spec.via:
        _open_tunnel(via, config, uplinks, supervisor)
    outer = [uplinks[via] for via in spec.via or (None,)]
    uplinks[name] = Uplink(name, spec.kind.create(spec.options), outer, quiet=True)
    supervisor.start(name, uplinks[name])


async def _check_target(spec: BackendSpec, target: HostPort, tunnel: str | None, uplink: Uplink) -> TargetCheckResult:
    # Wait until the first attempt to open the tunnel succeeds or fails. The tunnel itself limits the duration of an
    # attempt.
    await uplink.settled.wait()
    lost = "the link was lost"
    if uplink.link is not None:
        backend = spec.kind.create(spec.options, spec.check_options)
        try:
            result = await probe_once(backend, uplink.link, target, spec.check.timeout)
            return TargetCheckResult(spec.name, target, tunnel, result)
        except LinkLostError as error:
            lost = error.detail
    await _wait_until_not_up(uplink)
    detail = f"tunnel {uplink.name} is down: {lost}" if uplink.state is TunnelState.UP else uplink.describe()
    blocked = CheckResult(at=0, duration=0, state=HealthState.BLOCKED, reason=FailureReason.TUNNEL, detail=detail)
    return TargetCheckResult(spec.name, target, tunnel, blocked)


async def _wait_until_not_up(uplink: Uplink) -> None:
    """Wait until the uplink is not up. Until then, the uplink cannot describe why its link was lost.

    Return after `_CLOSE_TIMEOUT` seconds even if the uplink is still up.
    """
    changed = asyncio.Event()
    uplink.watchers.append(changed.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            while uplink.state is TunnelState.UP:
                await changed.wait()
                changed.clear()
    uplink.watchers.remove(changed.set)
