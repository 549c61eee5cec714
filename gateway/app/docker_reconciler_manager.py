"""Starts the Docker reconciler, and replaces it when the section `docker` of the configuration changes."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.app.running_components import RunningComponents
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.config import Config
from gateway.contracts.link import Link
from gateway.contracts.states import HealthState
from gateway.contracts.supervised_component import SupervisedComponent
from gateway.docker.options import DockerOptions, SwarmPeerOptions
from gateway.ops.container_access_json import ContainerAccessView
from gateway.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from gateway.docker.desired_state import DesiredState
    from gateway.docker.peers.peer_address_exchange import PeerAddressExchange
    from gateway.docker.reconciler import Reconciler


class DockerReconcilerManager:
    """Starts the Docker reconciler, and replaces it when the section `docker` of the configuration changes.

    Without this section, no reconciler runs. With `docker.peers`, a `PeerAddressExchange` runs with the reconciler.

    Args:
        supervisor: Runs the reconciler.
        group: Owns the tasks that stop the reconciler.
        recorder: Records in the audit log what the gateway changes in Docker.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup, recorder: AuditLogRecorder) -> None:
        self._recorder = recorder
        self.reconciler: Reconciler | None = None
        self.peers: PeerAddressExchange | None = None
        self._supervisor = supervisor
        self._group = group
        self._runtime: RunningComponents | None = None
        self._config: Config | None = None
        self._components: list[str] = []
        self._stopping: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def apply(self, config: Config, runtime: RunningComponents) -> None:
        """Reconcile Docker with `config`. If the section `docker` has changed, start a new reconciler."""
        runtime.on_state_change = self._reconcile_soon
        unchanged = self._config is not None and self._config.docker == config.docker
        self._config, self._runtime = config, runtime
        if unchanged:
            self._reconcile_soon()  # the `docker` section is the same, but the backends may have changed
            return
        start_attempts = self.reconciler.start_attempts if self.reconciler is not None else None
        self._stop_components()
        self.reconciler, self.peers = None, None
        if config.docker is not None:
            from gateway.docker.reconciler import Reconciler  # noqa: PLC0415 - loads aiodocker, which is needed only with Docker

            self.reconciler = Reconciler(
                config.docker, self.desired, self._link, config.gateway.state_dir, self._recorder, start_attempts
            )
            self._start(f"docker #{next(self._numbers)}", self.reconciler)
            if config.docker.peers is not None:
                self._start_peers(config.docker, config.docker.peers, config.gateway.instance, self.reconciler)

    def _start_peers(
        self, docker: DockerOptions, options: SwarmPeerOptions, instance: str, reconciler: "Reconciler"
    ) -> None:
        from gateway.docker.peers.peer_address_exchange import PeerAddressExchange  # noqa: PLC0415 - needed only with Docker

        self.peers = PeerAddressExchange(
            options,
            instance,
            docker.grants,
            lambda: self._config is not None and self._config.gateway.strict,
            lambda: reconciler.observed,
            reconciler.registry,
        )
        self._start(f"docker peers #{next(self._numbers)}", self.peers)

    def _start(self, name: str, component: SupervisedComponent) -> None:
        self._components.append(name)
        self._supervisor.start(name, component)

    async def stop(self) -> None:
        """Stop the reconciler and the exchange with peers.

        Until this method returns, the reconciler can complete its current actions, so the tunnel to the engine must
        stay open.
        """
        self._stop_components()
        await asyncio.gather(*self._stopping)

    def _stop_components(self) -> None:
        for name in self._components:
            task = self._group.create_task(self._supervisor.stop(name))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        self._components = []

    async def settled(self) -> None:
        """Wait until the gateway's own container is attached to its networks, or until the attachment has failed."""
        if self.reconciler is not None:
            await self.reconciler.settled.wait()

    def explain(self, name: str) -> list[ContainerAccessView] | None:
        """Explain which backends each matching container can reach; return None if Docker is not configured.

        Args:
            name: The name of a container, or the beginning of its ID.
        """
        if self.reconciler is None or self._runtime is None:
            return None
        from gateway.app.container_access_explainer import explain_containers  # noqa: PLC0415 - needed only with Docker

        return explain_containers(self.reconciler, self._runtime.backends.values(), name)

    def desired(self) -> "DesiredState":
        """Return the desired state of Docker for the current configuration and connections."""
        from gateway.app.docker_desired_state import desired  # noqa: PLC0415 - needed only with Docker

        assert self._config is not None  # noqa: S101 - `apply` sets `_config` before it creates the reconciler
        serving = (
            any(running.forward.active for running in self._runtime.backends.values()) if self._runtime else False
        )
        wanted = desired(self._config, frozenset(self._busy_consumers()))
        return replace(wanted, serving=serving, usable=frozenset(self._usable_backends()))

    def _usable_backends(self) -> Iterator[str]:
        """Yield the backends that can serve clients, including those whose checks are paused."""
        for name, running in self._runtime.backends.items() if self._runtime else ():
            if running.evaluate()[0] in (HealthState.UP, HealthState.DEGRADED, HealthState.PAUSED):
                yield name

    def _busy_consumers(self) -> Iterator[str]:
        for running in self._runtime.backends.values() if self._runtime else ():
            usages = running.forward.consumers.values()
            yield from (usage.id for usage in usages if usage.active and usage.id)

    def _reconcile_soon(self) -> None:
        if self.reconciler is not None:
            self.reconciler.trigger()

    def _link(self, tunnel: str) -> Link | None:
        uplinks = self._runtime.uplinks.of_tunnel(tunnel) if self._runtime else []
        return next((uplink.link for uplink in uplinks if uplink.link is not None), None)
