"""Defines the interface of relays, which forward bytes between a client and a target."""

import asyncio
from typing import Protocol

from gateway.contracts.states import CloseReason


class Relay(Protocol):
    """Defines the interface of relays, which forward bytes between a client and a target in both directions."""

    ended: "asyncio.Future[CloseReason]"

    @property
    def last_active(self) -> float:
        """Monotonic time of the last activity on either side, in seconds."""

    @property
    def responses(self) -> int:
        """Number of responses. A response begins with the first byte from the backend after data from the client."""

    @property
    def awaiting_response(self) -> bool:
        """Whether the client probably waits for a response, because the last data came from the client."""

    @property
    def waiting_since(self) -> float | None:
        """Monotonic time at which the client began to wait for a response.

        None if the client does not wait, or if the time is not known.
        """

    @property
    def to_backend(self) -> int:
        """Number of bytes read from the client."""

    @property
    def from_backend(self) -> int:
        """Number of bytes read from the backend."""

    def abort(self, close_reason: CloseReason) -> None:
        """Reset both sides, and set the result of `ended` to `close_reason`.

        Usually, the reset is immediate. If the link was lost after the relay had received the backend's whole stream,
        the relay first sends the remaining bytes to the client.
        """
