"""Defines the interface through which the ops server (HTTP and admin socket) uses the service."""

from collections.abc import Collection
from typing import Any, Protocol

from gateway.fleet.view import FleetView
from gateway.ops.events import EventLog
from gateway.ops.status_views import BackendStatus, ConfigText, ServiceView
from gateway.relay.sockets import PeerCredentials


class ControlledService(Protocol):
    """The service that the ops server shows and controls: its state, and its admin commands."""

    events: EventLog
    """The log of state changes."""

    def phase(self) -> str:
        """Return `starting`, `ready` or `draining`."""

    def backend_statuses(self) -> list[BackendStatus]:
        """Return the status of each backend."""

    async def view(self) -> ServiceView:
        """Return the state of the service, from memory. Yield to the event loop after each part."""

    async def updated_view(self, view: ServiceView, changed: Collection[str]) -> ServiceView:
        """Return a view with the current state of some backends. Everything else is that of an earlier view.

        Args:
            view: The earlier view.
            changed: The names of these backends. Names that do not exist have no effect.
        """

    def configuration(self, backend: str | None = None) -> ConfigText:
        """Return the keys and values of each section of the configuration, without secrets.

        Args:
            backend: Return only the keys of this backend. None: return all keys except those of backends.
        """

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """Return the last checks of a backend by target, oldest first; None if there is no such backend."""

    def fleet(self) -> FleetView:
        """Return the members of the fleet and their last responses, from memory."""

    async def reload(self) -> str:
        """Read the configuration again, apply it, and return a summary of the changes.

        Raises:
            ConfigError, BindError: The new configuration is not valid. Nothing was changed.
        """

    def containers(self, name: str) -> list[dict[str, Any]] | None:
        """Return, for each matching container, which backends it can reach and why; None if Docker is not configured.

        Args:
            name: The name of a container, or the beginning of its ID.
        """

    def record_command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """Write an admin command to the audit log.

        Args:
            command: The path of the command.
            peer: The process that sent the command; None if it is not known.
            result: `done`, `refused`, `failed`, or `unknown` if the backend or tunnel does not exist.
        """

    def drain(self) -> None:
        """Drain: respond to `/readyz` with 503 from now on. Clients are still accepted."""

    def undrain(self) -> None:
        """End a drain: `/readyz` can respond with 200 again.

        Raises:
            GatewayError: The service is stopping.
        """

    def shutdown(self) -> None:
        """Drain, then stop. A second call stops immediately."""

    def pause(self, backend: str, *, paused: bool) -> bool:
        """Pause or resume the checks of a backend.

        Resuming checks that are not paused restarts them. The next check then accepts an NFS export that has changed.

        Returns:
            False if there is no such backend.

        Raises:
            GatewayError: The service is stopping.
        """

    def fail(self, backend: str, *, failing: bool) -> bool:
        """Set whether clients of a backend are reset (`failing`) or wait while no target can be reached.

        Returns:
            False if there is no such backend.
        """

    def reconnect(self, tunnel: str) -> bool:
        """Close and reopen a tunnel, or retry it immediately if it is down.

        Returns:
            False if there is no such tunnel.
        """
