"""Records which planned actions failed, when to retry each, and which addresses the engine refused."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gateway.backoff import Backoff, BackoffPolicy
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.errors import EngineError
from gateway.docker.options import NetworkOptions
from gateway.docker.plan import ActionKind, AttachmentState, DesiredAttachment, PlannedAction

_POLICY = BackoffPolicy(first=0.2, cap=60.0, floor=0.1)
_MAX_ADDRESS_FAILURES = 3
"""The gateway first requests its previous address. After this number of failed requests, the gateway requests a
different address. One failure is not sufficient, because a slow swarm manager can also cause a failure."""
PREREQUISITES = (ActionKind.CREATE_NETWORK, ActionKind.CREATE_VOLUME, ActionKind.RECREATE_VOLUME)
"""Kinds of actions that prepare a network or volume. Other actions on the same network or volume wait until these
actions succeed."""


class FailedActions:
    """Stores the backoff and last error of each failed action. Does no I/O; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], tuple[Backoff, float, EngineError]] = {}
        """For each action key: the backoff, the time of the next attempt, and the latest error."""
        self._address_failures: dict[tuple[str, tuple[str, ...]], int] = {}
        """For each network and each tuple of requested addresses: the number of failed requests."""
        self.refused: dict[str, frozenset[str]] = {}
        """For each network: the addresses that the engine refused to assign to the gateway."""

    def failed(
        self, action: PlannedAction, error: EngineError, now: float, previous: Mapping[str, tuple[str, ...]]
    ) -> bool:
        """Record that an action failed. Return False if the action's previous failure had the same error message.

        Args:
            action: The failed action.
            error: The error.
            now: The current time.
            previous: For each network, the gateway's previous addresses.
        """
        if action.addresses and error.may_be_address:
            self._count_address_failure(action, previous, certain=error.blocked is AttachmentObstacle.ADDRESS_REFUSED)
        before = self._failed.get(action.key)
        backoff = before[0] if before is not None else Backoff(_POLICY)
        self._failed[action.key] = backoff, now + backoff.next(), error
        return before is None or str(error) != str(before[2])

    def succeeded(self, action: PlannedAction) -> None:
        """Remove the recorded failures of an action that succeeded, and of the actions that depend on it.

        The gateway can then attempt the dependent actions without waiting for their backoff.
        """
        self._failed.pop(action.key, None)
        if action.verb in PREREQUISITES:
            self._failed = {key: each for key, each in self._failed.items() if key[0] != action.key[0]}

    def retain(self, actions: Iterable[PlannedAction]) -> None:
        """Remove the recorded failures of all actions except `actions`."""
        keys = {action.key for action in actions}
        self._failed = {key: failure for key, failure in self._failed.items() if key in keys}

    def __contains__(self, action: PlannedAction) -> bool:
        """Return whether the last attempt to execute the action failed."""
        return action.key in self._failed

    def not_before(self, action: PlannedAction) -> float:
        """Return the earliest time of an action's next attempt; 0 if its last attempt did not fail."""
        return self._failed[action.key][1] if action in self else 0.0

    def lines(self) -> list[str]:
        """Return a message for each action whose last attempt failed."""
        return [f"{'/'.join(filter(None, key))}: {error}" for key, (_, _, error) in self._failed.items()]

    def fails_with_any_address(self, action: PlannedAction) -> bool:
        """Return whether the action failed for a reason that does not depend on the gateway's address."""
        error = self._last_error(action.network, action.container_id)
        return error is not None and error.blocked is not AttachmentObstacle.ADDRESS_REFUSED

    def with_failure(
        self, attachment: DesiredAttachment, networks: Mapping[str, NetworkOptions]
    ) -> DesiredAttachment:
        """If `attachment` is pending because its latest action failed, return a copy with the error.

        The copy has the state `BLOCKED`, and the error as its message. Otherwise, return `attachment`.

        Args:
            attachment: The status of the attachment.
            networks: The configured networks.
        """
        error = self._last_error(attachment.network, attachment.container_id)
        if attachment.state is not AttachmentState.PENDING or error is None:
            return attachment
        message = error.message
        if error.blocked is AttachmentObstacle.ADDRESS_REFUSED:
            options = networks.get(attachment.network)
            fixed = options is not None and options.address is not None
            setting = f"docker.networks.{attachment.network}.address"
            message += f": free the address, or change {setting}" if fixed else ": the gateway requests another one"
        return replace(attachment, state=AttachmentState.BLOCKED, reason=error.blocked, message=message)

    def _last_error(self, network: str, container_id: str) -> EngineError | None:
        failure = self._failed.get((network, container_id)) or self._failed.get((network, ""))
        return failure[2] if failure is not None else None

    def _count_address_failure(
        self, action: PlannedAction, previous: Mapping[str, tuple[str, ...]], *, certain: bool
    ) -> None:
        """Count a failure, and add the action's addresses to `refused` if they probably caused the failure.

        If the engine reported the addresses as the cause (`certain`), or if they are not the gateway's previous
        addresses, one failure is enough. Otherwise, `_MAX_ADDRESS_FAILURES` failures are necessary.
        """
        wanted = (action.network, action.addresses)
        self._address_failures[wanted] = self._address_failures.get(wanted, 0) + 1
        was_ours = action.addresses == previous.get(action.network)
        if certain or self._address_failures[wanted] >= (_MAX_ADDRESS_FAILURES if was_ours else 1):
            self.refused[action.network] = self.refused.get(action.network, frozenset()) | set(action.addresses)
