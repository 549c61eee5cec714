"""What the HTTP and admin servers need of the service."""

from typing import Any, Protocol

from gateway.ops.view import ServiceView, Standing
from gateway.relay.sockets import Peer


class Service(Protocol):
    """What the HTTP and admin servers ask and tell."""

    def phase(self) -> str:
        """`starting`, `ready` or `draining`."""

    def standings(self) -> list[Standing]:
        """How each backend stands."""

    async def view(self) -> ServiceView:
        """The state of everything, from memory, letting others run in between."""

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """The last checks by target; None for an unknown backend."""

    async def reload(self) -> str:
        """Read the configuration again; says what changed.

        Raises:
            ConfigError, BindError: Nothing was changed.
        """

    def containers(self, name: str) -> list[dict[str, Any]] | None:
        """Why each container that `name` means reaches backends or not; None where Docker is not configured.

        Args:
            name: A container's name, or the beginning of its ID.
        """

    def commanded(self, command: str, peer: Peer | None, result: str) -> None:
        """Record an admin command.

        Args:
            command: Its path.
            peer: The process that asked; None: it is not known.
            result: `done`, `refused`, `failed`, or `unknown` for what there is not.
        """

    def drain(self) -> None:
        """Say not ready from now on."""

    def undrain(self) -> None:
        """Say ready again.

        Raises:
            GatewayError: The service is stopping.
        """

    def shutdown(self) -> None:
        """Drain and stop."""

    def pause(self, backend: str, *, paused: bool) -> bool:
        """Stop or resume a backend's checks; False for an unknown backend.

        What was not paused is checked as for the first time: an export that changed is taken as it is now.

        Raises:
            GatewayError: The service is stopping.
        """

    def fail(self, backend: str, *, failing: bool) -> bool:
        """Reset a backend's clients rather than hold them, or hold them again; False for an unknown backend."""

    def reconnect(self, tunnel: str) -> bool:
        """Open a tunnel anew; False for an unknown tunnel."""
