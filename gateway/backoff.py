"""Calculates exponential backoff with full jitter. Does no I/O."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """The limits of the delays between attempts, in seconds.

    Args:
        first: Upper bound of the first delay. Each failure doubles the upper bound.
        cap: Maximum of the upper bound.
        floor: Minimum delay.
        forgive_every: Seconds without a failure after which the count of failures decreases by one. A lower count
            lowers the upper bound of the next delay.
    """

    first: float = 0.25
    cap: float = 10.0
    floor: float = 0.0
    forgive_every: float = 0.1


RECONNECT = BackoffPolicy()
QUARANTINE = BackoffPolicy(first=60.0, cap=600.0, floor=60.0)
"""Backoff after a failure that only an operator can fix, such as a host key mismatch."""
RESTART = BackoffPolicy(first=0.5, cap=30.0, floor=0.1)
"""Backoff after a crash of a component."""


class Backoff:
    """Computes the delays between the attempts of one component.

    Args:
        policy: The limits of the delays.
        rng: The random number generator for the jitter.
    """

    def __init__(self, policy: BackoffPolicy, rng: random.Random | None = None) -> None:
        self.policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self.attempts = 0
        self._max_attempts = math.ceil(math.log2(policy.cap / policy.first))
        """Number of failures after which the upper bound of the delay equals the cap."""

    def next(self) -> float:
        """Count a failure, and return the seconds to wait before the next attempt."""
        ceiling = min(self.policy.cap, self.policy.first * 2**self.attempts)
        self.attempts = min(self.attempts + 1, self._max_attempts)
        return max(self.policy.floor, self._rng.uniform(0.0, ceiling))

    def succeeded(self, lasted: float) -> None:
        """Reduce the count of failures after a period of `lasted` seconds without a failure."""
        self.attempts = max(0, self.attempts - int(lasted / self.policy.forgive_every))
