"""How long to wait before the next attempt: exponential with full jitter, pure arithmetic."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """The bounds of a series of attempts, in seconds.

    Args:
        first: The ceiling of the first wait.
        cap: The ceiling that doubling ends at.
        floor: No wait is shorter.
        stable_after: Success that lasted this long starts the series anew; a flapping path never does.
    """

    first: float = 0.25
    cap: float = 10.0
    floor: float = 0.0
    stable_after: float = 30.0


RECONNECT = BackoffPolicy()
QUARANTINE = BackoffPolicy(first=60.0, cap=600.0, floor=60.0)
"""For what only a person can mend: a wrong host key, a refused login."""
RESTART = BackoffPolicy(first=0.5, cap=30.0, floor=0.1)
"""For a unit that crashed."""


class Backoff:
    """One series of attempts.

    Args:
        policy: Its bounds.
        rng: Where the jitter comes from.
    """

    def __init__(self, policy: BackoffPolicy, rng: random.Random | None = None) -> None:
        self.policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self.attempts = 0

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        # 2**40 is far beyond any cap: it bounds the power, not the wait.
        ceiling = min(self.policy.cap, self.policy.first * 2 ** min(self.attempts, 40))
        self.attempts += 1
        return max(self.policy.floor, self._rng.uniform(0.0, ceiling))

    def succeeded(self, lasted: float) -> None:
        """Tell how many seconds a success lasted."""
        if lasted >= self.policy.stable_after:
            self.attempts = 0
