"""Interface of protocols whose clients send cancel requests on separate connections."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.measure import Tap


class Classification(Enum):
    """Classification of a connection's first bytes that are neither a cancel request nor an encryption request."""

    SESSION = "session"
    INCOMPLETE = "incomplete"
    """`classify` needs more bytes."""


@dataclass(frozen=True)
class CancelRequest:
    """Request that cancels the query of another session, sent on a separate connection. Contains a secret key."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class EncryptionRequest:
    """Request for encryption that a client sends before its actual request.

    Args:
        request: The client's bytes.
        refusal: The server's response after which the client continues unencrypted.
    """

    request: bytes
    refusal: bytes


class LoginTap(Tap, Protocol):
    """Tap that watches a login until it has seen the key that cancels the session's queries."""

    @property
    def key_hidden(self) -> bool:
        """Whether this is a session whose cancel key could not be read, for example because it is encrypted."""

    def matches(self, request: CancelRequest) -> bool:
        """Return whether `request` cancels a query of this session."""


class CancelProtocol(Protocol):
    """Protocol whose clients send cancel requests on separate connections."""

    max_bytes: int
    """Maximum number of bytes that `classify` needs."""

    def login_tap(self) -> LoginTap:
        """Return a tap for one new connection."""

    def classify(self, first: bytes) -> CancelRequest | EncryptionRequest | Classification:
        """Classify a connection by its first bytes.

        Args:
            first: One byte or more.
        """
