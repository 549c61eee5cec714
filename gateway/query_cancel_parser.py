"""Defines the parser interfaces for query cancellation.

In protocols such as PostgreSQL, a client cancels a query over a separate connection.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.connection_tap import Tap


class ClientMessageKind(Enum):
    """The kind of a connection's first message, if it is neither a cancel request nor an encryption request."""

    SESSION = "session"
    """Any other message. It usually starts a session."""
    INCOMPLETE = "incomplete"
    """The client has sent too few bytes to classify the connection."""


@dataclass(frozen=True)
class CancelRequest:
    """A request to cancel the query of another session. Contains the secret key of that session."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class EncryptionRequest:
    """A request for encryption, which a client can send before other requests.

    Args:
        request: The bytes that the client has sent.
        refusal: The response with which a server refuses encryption. The client then continues unencrypted.
    """

    request: bytes
    refusal: bytes


class CancelKeyTap(Tap, Protocol):
    """Defines the interface of a tap that finds the cancel key of a session in the bytes of the session's login."""

    @property
    def key_hidden(self) -> bool:
        """Whether the tap cannot read the cancel key of the session, for example because the session is encrypted."""

    def matches(self, request: CancelRequest) -> bool:
        """Return whether `request` cancels a query of this session."""


class QueryCancelParser(Protocol):
    """Defines the interface for recognizing the cancel requests and the logins of one protocol."""

    max_bytes: int
    """Maximum number of bytes that `classify` needs."""

    def cancel_key_tap(self) -> CancelKeyTap:
        """Return a tap for one new connection."""

    def classify(self, first: bytes) -> CancelRequest | EncryptionRequest | ClientMessageKind:
        """Classify a connection by its first bytes.

        Args:
            first: The first bytes of the connection: at least one byte.

        Returns:
            The cancel request or encryption request that these bytes contain; otherwise, the kind of the message.
        """
