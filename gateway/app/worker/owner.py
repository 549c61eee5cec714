"""The owner of the workers: which backends go to which of them."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import replace

from gateway.app.lanes import has_single, tunnels_of
from gateway.app.worker.messages import UplinkReport
from gateway.app.worker.unit import WorkerUnit
from gateway.audit_log.recorder import Recorder
from gateway.config import BackendSpec, Config
from gateway.contracts import Endpoint, TrafficClass
from gateway.forwarding.listener import ListenAddress, Listener

_APPLY = 2.0
"""Seconds that a worker may take to apply a configuration before nobody waits for it any more."""


class Workers:
    """All workers, and which backends they serve.

    Args:
        count: How many.
        failed: Told about each backend and target where traffic failed.
        recorder: Where the ends of their clients are recorded.
    """

    def __init__(self, count: int, failed: Callable[[str, Endpoint, bool], None], recorder: Recorder) -> None:
        self.units = [WorkerUnit(number + 1, failed, recorder) for number in range(count)]

    def assign(self, config: Config) -> dict[str, WorkerUnit]:
        """Who serves which backend; those not named are this process's own."""
        if not self.units:
            return {}
        chosen = [
            name for name, spec in config.backends.items() if _uses_worker(spec) and not has_single(config, name)
        ]
        # By name, so that a backend stays where it is when others come and go.
        return {name: self.units[zlib.crc32(name.encode()) % len(self.units)] for name in chosen}

    def apply(self, config: Config, listeners: dict[ListenAddress, Listener]) -> dict[str, WorkerUnit]:
        """Tell each worker its part of `config`."""
        assigned = self.assign(config)
        for unit in self.units:
            names = {name for name, worker in assigned.items() if worker is unit}
            unit.apply(part(config, names), listeners)
        return assigned

    async def settled(self) -> bool:
        """Wait until each worker runs what `apply` told it; False where one took too long."""
        waiting = [asyncio.ensure_future(unit.settled()) for unit in self.units]
        if not waiting:
            return True
        _, late = await asyncio.wait(waiting, timeout=_APPLY)
        for each in late:
            each.cancel()
        return not late

    def reports(self, tunnel: str) -> list[UplinkReport]:
        """What the workers say about a tunnel that they use."""
        return [unit.counted(tunnel) for unit in self.units if tunnel in unit.report.uplinks]


def _uses_worker(spec: BackendSpec) -> bool:
    """Return whether a backend belongs in a worker, by its key `worker` or else by its traffic class."""
    return spec.kind.traffic_class is TrafficClass.BULK if spec.worker is None else spec.worker


def part(config: Config, backends: set[str]) -> Config:
    """`config` with these backends only, and the tunnels that they go through."""
    kept = {name: spec for name, spec in config.backends.items() if name in backends}
    return replace(
        config, backends=kept, tunnels={name: config.tunnels[name] for name in tunnels_of(config, backends)}
    )
