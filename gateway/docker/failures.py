"""Actions that failed: when to try each again, what to report, and which addresses the engine does not give."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gateway.docker.options import NetworkOptions
from gateway.docker.plan import Action, Condition, Standing, Verb
from gateway.docker.trouble import Blocked, EngineError
from gateway.supervision.backoff import Backoff, BackoffPolicy

_POLICY = BackoffPolicy(first=0.2, cap=60.0, floor=0.1)
_PATIENCE = 3
"""Attempts at the gateway's previous address: a swarm manager that does not answer must not change it."""
FIRST = (Verb.CREATE_NETWORK, Verb.CREATE_VOLUME, Verb.RECREATE_VOLUME)
"""What other actions need."""


class Failures:
    """Decides only; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], tuple[Backoff, float, EngineError]] = {}
        """The next attempt and the last error, by the action's key."""
        self._doubts: dict[tuple[str, tuple[str, ...]], int] = {}
        """Failed attempts by network and addresses."""
        self.refused: dict[str, frozenset[str]] = {}
        """Addresses that the engine did not give to the gateway, by network."""

    def failed(
        self, action: Action, trouble: EngineError, now: float, previous: Mapping[str, tuple[str, ...]]
    ) -> bool:
        """Note a failure, and return whether it is another one than before.

        Args:
            action: What failed.
            trouble: Why.
            now: The time.
            previous: The gateway's last addresses, by network.
        """
        if action.addresses and trouble.may_be_address:
            self._doubt(action, previous, certain=trouble.blocked is Blocked.ADDRESS_REFUSED)
        before = self._failed.get(action.key)
        backoff = before[0] if before is not None else Backoff(_POLICY)
        self._failed[action.key] = backoff, now + backoff.next(), trouble
        return before is None or str(trouble) != str(before[2])

    def succeeded(self, action: Action) -> None:
        """Forget the failures of an action, and of what waited for it."""
        self._failed.pop(action.key, None)
        if action.verb in FIRST:
            self._failed = {key: each for key, each in self._failed.items() if key[0] != action.key[0]}

    def keep(self, actions: Iterable[Action]) -> None:
        """Forget the failures of all but these actions."""
        keys = {action.key for action in actions}
        self._failed = {key: failure for key, failure in self._failed.items() if key in keys}

    def __contains__(self, action: Action) -> bool:
        """Return whether an action failed at its last attempt."""
        return action.key in self._failed

    def not_before(self, action: Action) -> float:
        """Return when an action may be tried."""
        return self._failed[action.key][1] if action in self else 0.0

    def lines(self) -> list[str]:
        """Return a line for each failure."""
        return [f"{'/'.join(filter(None, key))}: {trouble}" for key, (_, _, trouble) in self._failed.items()]

    def is_final(self, action: Action) -> bool:
        """Return whether an action failed, and not for an address in whose place another one is tried."""
        trouble = self._trouble(action.network, action.container_id)
        return trouble is not None and trouble.blocked is not Blocked.ADDRESS_REFUSED

    def explained(self, condition: Condition, networks: Mapping[str, NetworkOptions]) -> Condition:
        """Return the state of an attachment, with the reason why it failed so far.

        Args:
            condition: The state.
            networks: The configured networks.
        """
        trouble = self._trouble(condition.network, condition.container_id)
        if condition.state is not Standing.PENDING or trouble is None:
            return condition
        message = trouble.message
        if trouble.blocked is Blocked.ADDRESS_REFUSED:
            options = networks.get(condition.network)
            fixed = options is not None and options.address is not None
            setting = f"docker.networks.{condition.network}.address"
            message += f": free it, or change {setting}" if fixed else ": the gateway asks for another one next"
        return replace(condition, state=Standing.BLOCKED, reason=trouble.blocked, message=message)

    def _trouble(self, network: str, container_id: str) -> EngineError | None:
        failure = self._failed.get((network, container_id)) or self._failed.get((network, ""))
        return failure[2] if failure is not None else None

    def _doubt(self, action: Action, previous: Mapping[str, tuple[str, ...]], *, certain: bool) -> None:
        """Ask for another address next time; in place of the previous one, only after several failures."""
        wanted = (action.network, action.addresses)
        self._doubts[wanted] = self._doubts.get(wanted, 0) + 1
        was_ours = action.addresses == previous.get(action.network)
        if certain or self._doubts[wanted] >= (_PATIENCE if was_ours else 1):
            self.refused[action.network] = self.refused.get(action.network, frozenset()) | set(action.addresses)
