"""Docker's part of the service: the reconciler of the configured engine, and what it wants now."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.app.site import Site
from gateway.audit_log.recorder import Recorder
from gateway.config import Config
from gateway.contracts import Link, State, Unit
from gateway.docker.consumers import Consumer
from gateway.docker.options import DockerOptions, PeerOptions
from gateway.forwarding.forward import Forward
from gateway.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from gateway.docker.peers.unit import Peers
    from gateway.docker.plan import Desired
    from gateway.docker.reconciler import Reconciler


class Fleet:
    """Runs a reconciler while Docker is configured; a `gateway.forwarding.admission.Identity`.

    Args:
        supervisor: Runs the unit.
        group: Owns the task that ends it.
        recorder: Where writes to Docker are recorded.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup, recorder: Recorder) -> None:
        self._recorder = recorder
        self.reconciler: Reconciler | None = None
        self.peers: Peers | None = None
        self._supervisor = supervisor
        self._group = group
        self._site: Site | None = None
        self._config: Config | None = None
        self._units: list[str] = []
        self._numbers = itertools.count(1)

    def apply(self, config: Config, site: Site) -> None:
        """Keep what this configuration wants from now on."""
        site.state_changed = self._hurry
        same = self._config is not None and self._config.docker == config.docker
        self._config, self._site = config, site
        for unit in site.workers.units:
            unit.unfamiliar = self._hurry
        if same:
            self._hurry()  # the backends may be others
            return
        for name in self._units:
            self._group.create_task(self._supervisor.stop(name))
        self._units, self.reconciler, self.peers = [], None, None
        if config.docker is not None:
            from gateway.docker.reconciler import Reconciler  # noqa: PLC0415 - its libraries only where it is used

            self.reconciler = Reconciler(
                config.docker, self.desired, self._link, config.gateway.state_dir, self._recorder
            )
            self.reconciler.directory.watchers.append(self._introduce)
            self._start(f"docker #{next(self._numbers)}", self.reconciler)
            if config.docker.peers is not None:
                self._follow_peers(config.docker, config.docker.peers, config.gateway.instance, self.reconciler)

    def _follow_peers(
        self, docker: DockerOptions, options: PeerOptions, instance: str, reconciler: "Reconciler"
    ) -> None:
        from gateway.docker.peers.unit import Peers  # noqa: PLC0415 - as above

        self.peers = Peers(
            options,
            instance,
            docker.grants,
            lambda: self._config is not None and self._config.gateway.strict,
            lambda: reconciler.observed,
            reconciler.directory,
        )
        self._start(f"docker peers #{next(self._numbers)}", self.peers)

    def _start(self, name: str, unit: Unit) -> None:
        self._units.append(name)
        self._supervisor.start(name, unit)

    async def settled(self) -> None:
        """Wait until the gateway's own container is on its networks, or cannot be for now."""
        if self.reconciler is not None:
            await self.reconciler.settled.wait()

    def lookup(self, address: str) -> Consumer | None:
        """See `gateway.forwarding.admission.Identity`."""
        return self.reconciler.directory.lookup(address) if self.reconciler else None

    def recently_unknown(self, address: str) -> bool:
        """See `gateway.forwarding.admission.Identity`."""
        return self.reconciler is None or self.reconciler.directory.recently_unknown(address)

    async def wait_for(self, address: str, within: float) -> Consumer | None:
        """See `gateway.forwarding.admission.Identity`."""
        return await self.reconciler.directory.wait_for(address, within) if self.reconciler else None

    def explain(self, name: str) -> list[dict[str, Any]] | None:
        """Why each container that `name` means reaches backends or not; None: Docker is not configured."""
        if self.reconciler is None or self._site is None:
            return None
        from gateway.app.containers import explained  # noqa: PLC0415 - as above

        return explained(self.reconciler, self._site.backends.values(), name)

    def desired(self) -> "Desired":
        """What the configuration wants now."""
        from gateway.app.wanted import desired  # noqa: PLC0415 - as above

        assert self._config is not None  # noqa: S101 - it is what the reconciler was made from
        serving = any(running.forward.active for running in self._site.backends.values()) if self._site else False
        wanted = desired(self._config, frozenset(self._busy()))
        return replace(wanted, serving=serving, usable=frozenset(self._usable()))

    def _usable(self) -> Iterator[str]:
        """Yield the backends that serve clients; one that is paused may."""
        for name, running in self._site.backends.items() if self._site else ():
            if running.judge()[0] in (State.UP, State.DEGRADED, State.PAUSED):
                yield name

    def _busy(self) -> Iterator[str]:
        for running in self._site.backends.values() if self._site else ():
            forward = running.forward
            usages = forward.consumers.values() if isinstance(forward, Forward) else forward.used().values()
            yield from (usage.id for usage in usages if usage.active and usage.id)

    def _hurry(self) -> None:
        if self.reconciler is not None:
            self.reconciler.hurry()

    def _introduce(self, consumers: dict[str, Consumer]) -> None:
        for unit in self._site.workers.units if self._site else ():
            unit.introduce(consumers)

    def _link(self, tunnel: str) -> Link | None:
        uplinks = self._site.uplinks_of(tunnel) if self._site else []
        return next((uplink.link for uplink in uplinks if uplink.link is not None), None)
