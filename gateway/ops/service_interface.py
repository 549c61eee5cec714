"""Defines the interface between the ops server and the service: the service's state, and the admin commands."""

from collections.abc import Collection
from typing import Protocol

from gateway.contracts.states import ServicePhase
from gateway.fleet.fleet_state import FleetState
from gateway.ops.check_history_json import ChecksByTarget
from gateway.ops.container_access_json import ContainerAccessView
from gateway.ops.events import EventLog
from gateway.ops.status_views import BackendStateSummary, ConfigText, ServiceView
from gateway.relay.unix_sockets import PeerCredentials


class ServiceInterface(Protocol):
    """The interface between the ops server and the service: the state to show, and the admin commands."""

    events: EventLog
    """The log of state changes."""

    def phase(self) -> ServicePhase:
        """Return the phase of the service: `starting`, `ready` or `draining`."""

    def backend_statuses(self) -> list[BackendStateSummary]:
        """Return the status of each backend."""

    async def view(self) -> ServiceView:
        """Return a view of the service's state. Do no I/O, and yield to the event loop regularly."""

    async def updated_view(self, view: ServiceView, changed: Collection[str]) -> ServiceView:
        """Return a copy of `view` with the current state of the backends in `changed`.

        Args:
            view: An earlier view of the service's state.
            changed: The names of the backends to update. Names that do not exist have no effect.
        """

    def configuration(self, backend: str | None = None) -> ConfigText:
        """Return a part of the configuration as keys and values, grouped by section, without secrets.

        Args:
            backend: The name of the backend whose keys to return. None: return all keys except those of backends.
        """

    def history(self, backend: str) -> ChecksByTarget | None:
        """Return the latest check results of each target, oldest first; None if there is no such backend."""

    def fleet(self) -> FleetState:
        """Return the gateways of the fleet and their last known states. Do no I/O."""

    async def reload(self) -> str:
        """Read the configuration again, apply it, and return a summary of the changes.

        Raises:
            ConfigError: The new configuration is not valid. Nothing was changed.
            UsageError: The new configuration changes a key that requires a restart. Nothing was changed.
            GatewayError: Another error, such as an address that cannot be bound. Nothing was changed.
        """

    def containers(self, name: str) -> list[ContainerAccessView] | None:
        """Find containers by name or ID, and explain which backends each container can reach.

        Args:
            name: The name of a container, or a prefix of container IDs.

        Returns:
            A view of each matching container; None if Docker is not configured.
        """

    def record_command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """Write an admin command to the audit log.

        Args:
            command: The URL path of the command.
            peer: The process that sent the command; None if it is not known.
            result: `done`, `refused`, `failed`, or `unknown` if the backend or tunnel does not exist.
        """

    def drain(self) -> None:
        """Respond to `/readyz` with 503, so that load balancers open no new connections. Keep serving clients."""

    def undrain(self) -> None:
        """End the effect of `drain`, so that `/readyz` can respond with 200 again.

        Raises:
            GatewayError: The service is stopping.
        """

    def shutdown(self) -> None:
        """Start the drain of the service, and return without waiting. The service stops after the drain.

        A second call ends the drain immediately.
        """

    def pause(self, backend: str, *, paused: bool) -> bool:
        """Pause or resume the checks of a backend.

        If `paused` is false, and no check of the backend is paused, restart the checks instead. The restart
        is useful after an NFS export was replaced: until then, the checks report the new file system as an error.

        Returns:
            False if there is no such backend.

        Raises:
            GatewayError: The checks cannot restart, because the service is stopping.
        """

    def fail(self, backend: str, *, failing: bool) -> bool:
        """Set whether the gateway resets client connections while a backend is unreachable, or lets them wait.

        Args:
            backend: The name of the backend.
            failing: Whether to reset the connections. False: let the connections wait.

        Returns:
            False if there is no such backend.
        """

    def reconnect(self, tunnel: str) -> bool:
        """Close a tunnel and open it again. If the tunnel is down, try to open it immediately.

        Returns:
            False if there is no such tunnel.
        """
