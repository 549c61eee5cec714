"""Starts the worker processes, and assigns backends to them. Runs in the main process."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.app.tunnel_lanes import required_tunnels, uses_single_tunnel
from gateway.app.worker.messages import UplinkReport
from gateway.app.worker.worker_supervisor import WorkerSupervisor
from gateway.audit_log.recorder import AuditRecorder
from gateway.config import BackendSpec, Config
from gateway.contracts.states import TrafficClass
from gateway.contracts.values import Endpoint
from gateway.forwarding.listener import Listener
from gateway.ssh.handshake_limiter import PER_SERVER, handshake_limiter
from gateway.supervision.supervisor import Supervisor

_APPLY_TIMEOUT = 2.0
"""Maximum number of seconds that a reload waits until the workers have applied the configuration."""


class WorkerPool:
    """Starts all workers, and assigns backends to them.

    Args:
        count: The number of workers.
        on_failure: Called with the backend, the target, and whether traffic stalled (True) or failed (False).
        recorder: Records when connections of the workers' clients end.
    """

    def __init__(
        self, count: int, on_failure: Callable[[str, Endpoint, bool], None], recorder: AuditRecorder
    ) -> None:
        self.supervisors = [WorkerSupervisor(number + 1, on_failure, recorder) for number in range(count)]
        if count:
            handshake_limiter().per_server = max(1, PER_SERVER - count)

    def start(self, supervisor: Supervisor) -> None:
        """Start the processes of all workers."""
        for worker in self.supervisors:
            supervisor.start(f"worker {worker.number}", worker)

    def send(self, message: Any) -> None:
        """Send a message to all workers."""
        for worker in self.supervisors:
            worker.send(message)

    def assign(self, config: Config) -> dict[str, WorkerSupervisor]:
        """Return the worker of each backend that a worker serves instead of this process."""
        if not self.supervisors:
            return {}
        chosen = [
            name
            for name, spec in config.backends.items()
            if _uses_worker(spec) and not spec.has_several_ways and not uses_single_tunnel(config, name)
        ]
        # A hash of the name selects the worker, so that a backend keeps its worker when others are added or removed.
        return {name: self.supervisors[zlib.crc32(name.encode()) % len(self.supervisors)] for name in chosen}

    def apply(self, config: Config, listeners: dict[Endpoint, Listener]) -> dict[str, WorkerSupervisor]:
        """Send each worker its part of `config`. Return the worker of each backend that a worker serves."""
        assigned = self.assign(config)
        for worker in self.supervisors:
            names = {name for name, assignee in assigned.items() if assignee is worker}
            worker.apply(restrict(config, names), listeners)
        return assigned

    async def settled(self) -> bool:
        """Wait until each worker has applied its configuration. Return False if a worker takes too long."""
        waiting = [asyncio.ensure_future(worker.settled()) for worker in self.supervisors]
        if not waiting:
            return True
        _, late = await asyncio.wait(waiting, timeout=_APPLY_TIMEOUT)
        for each in late:
            each.cancel()
        return not late

    def reports(self, tunnel: str) -> list[UplinkReport]:
        """Return the workers' reports about a tunnel."""
        return [worker.uplink_total(tunnel) for worker in self.supervisors if tunnel in worker.report.uplinks]


def _uses_worker(spec: BackendSpec) -> bool:
    """Return whether a worker serves a backend. The key `worker` decides; without it, the traffic class decides."""
    return spec.kind.traffic_class is TrafficClass.BULK if spec.worker is None else spec.worker


def restrict(config: Config, backends: set[str]) -> Config:
    """Return `config` with only these backends and the tunnels that they use."""
    kept = {name: spec for name, spec in config.backends.items() if name in backends}
    return replace(
        config, backends=kept, tunnels={name: config.tunnels[name] for name in required_tunnels(config, backends)}
    )
