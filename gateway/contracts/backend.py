"""Defines the interface of backends, and the result of a probe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.contracts.certificate import ValidityPeriod
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import DatabaseRole
from gateway.errors import FailureReason
from gateway.facts import FactDefinition, FactValue, finite
from gateway.text_sanitizer import one_line


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe that raised no error. Each string in `facts` is converted to one printable line.

    Args:
        role: The database's role; None if the kind has no roles.
        read_only: Whether the database refuses writes; None if it is not known. If it refuses writes, the gateway
            does not select it for clients that need a primary.
        facts: Values of the facts that the kind declares. A fact is absent if its value is not known. A number that
            is not finite becomes None.
        degraded: Why the target is `degraded` instead of `up` (reason and detail); None if it is not degraded.
        unusable: Why the target is `down` although it responds (reason and detail); None if clients can use it.
        unprobed: Why the target was not probed. The state of the target is then `unknown`. None if it was probed.
        abort_limit: Number of consecutive aborted handshakes after which the server blocks their source address; None
            if the server does not count aborted handshakes.
        certificate: Validity period of the server's certificate; None if the server presented no certificate.
        login_started_at: Monotonic time at which the login of the probe began. The login resets the server's count of
            aborted handshakes. None if the probe has not logged in, or if servers of this kind do not count them.
    """

    role: DatabaseRole | None = None
    read_only: bool | None = None
    facts: Mapping[FactDefinition, FactValue] = field(default_factory=dict)
    degraded: tuple[FailureReason, str] | None = None
    unusable: tuple[FailureReason, str] | None = None
    unprobed: str | None = None
    abort_limit: int | None = None
    certificate: ValidityPeriod | None = None
    login_started_at: float | None = None

    def __post_init__(self) -> None:
        safe = {
            fact: one_line(value) if isinstance(value, str) else finite(value) for fact, value in self.facts.items()
        }
        object.__setattr__(self, "facts", safe)  # a frozen dataclass forbids `self.facts = safe`


class Backend(Protocol):
    """Defines the interface of backends. A backend has a probe, which checks one of its targets."""

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Check whether clients can use `target`.

        To enforce the deadline, the caller cancels this method. The method then immediately releases all resources.

        Args:
            link: The link through which clients reach the target.
            target: The target.
            phases: Receives the durations of the probe's phases.

        Raises:
            TargetPathError: The target cannot be used.
        """
