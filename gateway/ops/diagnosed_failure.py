"""Defines `DiagnosedFailure`: a failed tunnel or backend, with the cause, the consequences and the remedy."""

from dataclasses import dataclass
from typing import Literal

from gateway.ops.plural import plural
from gateway.ops.severity import DisplaySeverity


@dataclass(frozen=True)
class DiagnosedFailure:
    """A tunnel or backend that has failed, with the cause, the consequences and the remedy.

    A backend that is at its client limit, or for which `gateway fail` is in effect, also counts as failed.

    Args:
        level: The severity.
        part: `tunnel` or `backend`.
        name: The name of the tunnel or backend.
        state: The state. While the gateway tries to reopen a failed tunnel, the tunnel's state is `down`.
        since: When the state began.
        reason: The reason for the state, such as `timeout`; None if there is none.
        cause: The cause of the state, in a few words.
        detail: More information about the cause, in one line.
        blocked: The backends that are blocked because of the tunnel.
        degraded: The backends that are degraded because of the tunnel.
        rerouted: The backends that can use the tunnel, but currently use another one.
        rerouted_tunnels: The open tunnels that can run inside the failed tunnel, but now run inside another one.
        waiting: Number of containers that wait for a connection. If Docker is not configured: number of clients.
        waiters: What `waiting` counts: `container` or `client`.
        remedy: The recommended action; empty if there is none. Commands are in backquotes.
        only_check: Whether the failure affects only checks, and not clients.
    """

    level: DisplaySeverity
    part: Literal["tunnel", "backend"]
    name: str
    state: str
    since: float
    reason: str | None
    cause: str
    detail: str
    remedy: str
    waiting: int
    waiters: Literal["container", "client"]
    blocked: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    rerouted: tuple[str, ...] = ()
    rerouted_tunnels: tuple[str, ...] = ()
    only_check: bool = False

    @property
    def effects(self) -> str:
        """The consequences of the failure as text, separated by semicolons; empty if there are none."""
        counts = [
            (len(self.blocked), "backend", "blocked"),
            (len(self.degraded), "backend", "degraded"),
            (len(self.rerouted), "backend", "rerouted"),
            (len(self.rerouted_tunnels), "tunnel", "rerouted"),
            (self.waiting, self.waiters, "waiting"),
        ]
        found = [f"{plural(count, noun)} {what}" for count, noun, what in counts if count]
        return "; ".join([*found, *(["only the check fails, clients are served"] if self.only_check else [])])

    def explains(self, backend: str) -> bool:
        """Return whether this failure is the reason for the state of a backend."""
        own = self.part == "backend" and self.name == backend
        return own or backend in self.blocked or backend in self.degraded

    def concerns(self, backend: str) -> bool:
        """Return whether this failure affects a backend, even if the backend has switched to another tunnel."""
        return self.explains(backend) or backend in self.rerouted
