"""The phases of a probe or a dial."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Durations of the phases of a probe, in order.

    Args:
        seconds: Duration of each phase in seconds.
        on_abandoned: Called for each dial of the probe that was abandoned but might still connect.
        timeout_hint: Likely cause if the current phase times out; empty if it is unknown.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    on_abandoned: Callable[[], None] = lambda: None
    timeout_hint: str = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the duration of a `with` block as the phase `name`, even if the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add a duration in seconds to the phase `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
