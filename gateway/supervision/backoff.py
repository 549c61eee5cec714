"""How long to wait before the next attempt: exponential with full jitter, pure arithmetic."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """The bounds of a series of attempts, in seconds.

    Args:
        first: The ceiling of the first wait.
        cap: The ceiling that doubling ends at.
        floor: No wait is shorter.
        forgive_every: So many seconds of success make up for one failure: what flaps is tried ever more rarely, and
            what ran for a while is tried again at once.
    """

    first: float = 0.25
    cap: float = 10.0
    floor: float = 0.0
    forgive_every: float = 0.1


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
        self._enough = math.ceil(math.log2(policy.cap / policy.first))
        """After so many, the ceiling is the cap."""

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        ceiling = min(self.policy.cap, self.policy.first * 2**self.attempts)
        self.attempts = min(self.attempts + 1, self._enough)
        return max(self.policy.floor, self._rng.uniform(0.0, ceiling))

    def succeeded(self, lasted: float) -> None:
        """Tell how many seconds a success lasted."""
        self.attempts = max(0, self.attempts - int(lasted / self.policy.forgive_every))
