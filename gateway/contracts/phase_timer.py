"""Measures the phases of a probe or a dial, such as name resolution, connection and login."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.contracts.login_limiter import LoginLimiter
from gateway.errors import FailureReason


@dataclass
class PhaseTimer:
    """Measures how long each phase of a probe or a dial takes.

    Args:
        seconds: Duration of each phase in seconds, in the order of the phases. Includes a phase that has failed.
        unfinished: The phase that is in progress or has failed; empty if the latest phase has succeeded.
        on_abandoned: Called after a dial or a login was abandoned, if the server might have accepted the connection.
            The function can count these aborts, because some servers block clients after too many aborts.
        logins: Limits the probe's logins; None if nothing limits them.
        timeout_hint: The likely cause, to report if the current phase times out; empty if the cause is unknown.
        timeout_failure: What to report if the probe times out: a reason and a one-line message, for example about an
            unexpected response. None to report the reason `timeout`.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    unfinished: str = ""
    on_abandoned: Callable[[], None] = lambda: None
    logins: LoginLimiter | None = None
    timeout_hint: str = ""
    timeout_failure: tuple[FailureReason, str] | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the duration of a `with` block as the phase `name`, even if the block raises."""
        start = time.perf_counter()
        self.unfinished = name
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)
        self.unfinished = ""

    @property
    def completed(self) -> list[str]:
        """The phases that have succeeded, in order."""
        return [name for name in self.seconds if name != self.unfinished]

    def add(self, name: str, seconds: float) -> None:
        """Add `seconds` to the duration of the phase `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
