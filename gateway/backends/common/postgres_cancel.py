"""How PostgreSQL cancels a query: on a connection of its own, with the key that the session was given at its login.

PostgreSQL manual, 54.2.9 "Canceling Requests in Progress" and 54.7 "Message Formats" (in the chapter
"Frontend/Backend Protocol"). A connection begins with packets that have a length and a code: SSLRequest and
GSSENCRequest, which the server answers with one byte, then StartupMessage, or CancelRequest. After StartupMessage the
server speaks in messages, each with a type and a length; BackendKeyData is the last but one of the login.
"""

import struct
from hmac import compare_digest

from gateway.contracts import CancelRequest, Classification, EncryptionRequest

_PACKET = struct.Struct("!II")
_MESSAGE = struct.Struct("!cI")
_CANCEL = 80877102
_SSL, _GSS = 80877103, 80877104
_MAJOR = 3
_REFUSED = b"N"
"""The answer to SSLRequest and GSSENCRequest after which the client goes on in the clear."""
_PID = 4
_KEYS = range(4, 256 + 1)
"""How long a key may be; it was 4 bytes until protocol 3.2, and is up to 32 in PostgreSQL 18."""
_LOGIN = b"RSvN"
"""Authentication, ParameterStatus, NegotiateProtocolVersion, NoticeResponse: what comes before the key."""
_KEY, _READY, _ERROR = b"K", b"Z", b"E"
_LONGEST_LOGIN = 1 << 20
"""Bytes after which no key is expected any more."""


class PostgresLogin:
    """Finds the key in a session's login; see `gateway.contracts.LoginTap`.

    It holds a part of one message's head, or of one key, and nothing else of what passes by.
    """

    __slots__ = (
        "_back",
        "_forth",
        "_key",
        "_left",
        "_need",
        "_questions",
        "_skip",
        "_started",
        "finished",
        "key_hidden",
    )
    tracker = None

    def __init__(self) -> None:
        self.finished = False
        self.key_hidden = False
        self._forth = b""
        self._back = b""
        self._need = _MESSAGE.size
        self._questions = 0
        """Those that the server has not answered yet."""
        self._started = False
        self._skip = 0
        self._left = _LONGEST_LOGIN
        self._key: bytes | None = None
        """The process ID and the secret key, as a request to cancel has them."""

    def matches(self, request: CancelRequest) -> bool:
        """See `gateway.contracts.LoginTap`."""
        return self._key is not None and compare_digest(self._key, request.data[_PACKET.size :])

    def on_request(self, data: memoryview, now: float) -> None:
        """See `gateway.measure.Tap`; what follows StartupMessage, such as a password, is not looked at."""
        del now
        at = 0
        while at < len(data) and not (self._started or self.finished):
            piece = bytes(data[at : at + _PACKET.size - len(self._forth)])
            at += len(piece)
            self._forth += piece
            if len(self._forth) == _PACKET.size:
                self._packet(*_PACKET.unpack(self._forth))
                self._forth = b""

    def _packet(self, length: int, code: int) -> None:
        if code >> 16 == _MAJOR:
            self._started = True
        elif code in (_SSL, _GSS) and length == _PACKET.size:
            self._questions += 1
        else:
            self._finish(key_hidden=code != _CANCEL)

    def on_response(self, data: memoryview, now: float) -> None:
        """See `gateway.measure.Tap`."""
        del now
        self._left -= len(data)
        at = 0
        while at < len(data) and not self.finished:
            if self._questions:
                self._questions -= 1
                at += 1
                if data[at - 1 : at] != _REFUSED:
                    self._finish(key_hidden=True)  # the rest is encrypted
            elif self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            else:
                piece = bytes(data[at : at + self._need - len(self._back)])
                at += len(piece)
                self._back += piece
                if len(self._back) == self._need:
                    self._message()
        if self._left <= 0 and not self.finished:
            self._finish(key_hidden=True)

    def _message(self) -> None:
        """A message's head is there, or all of one that has a key."""
        kind, length = _MESSAGE.unpack_from(self._back)
        body = length - (_MESSAGE.size - 1)
        if not self._started:
            self._finish(key_hidden=True)
        elif len(self._back) > _MESSAGE.size:
            self._key = self._back[_MESSAGE.size :]
            self._finish(key_hidden=False)
        elif kind == _KEY and body - _PID in _KEYS:
            self._need = _MESSAGE.size + body
        elif kind in (_READY, _ERROR):
            self._finish(key_hidden=False)  # there is no key, or no session
        elif kind in _LOGIN and body >= 0:
            self._skip = body
            self._back = b""
        else:
            self._finish(key_hidden=True)

    def _finish(self, *, key_hidden: bool) -> None:
        self.finished, self.key_hidden = True, key_hidden
        self._forth = self._back = b""


class PostgresCancels:
    """See `gateway.contracts.CancelProtocol`."""

    max_bytes = _PACKET.size + _PID + _KEYS[-1]

    def login_tap(self) -> PostgresLogin:
        """See `gateway.contracts.CancelProtocol`."""
        return PostgresLogin()

    def classify(self, first: bytes) -> CancelRequest | EncryptionRequest | Classification:
        """See `gateway.contracts.CancelProtocol`."""
        if first[0] != 0:
            return Classification.SESSION  # TLS at once, or no PostgreSQL: no packet here is so long
        if len(first) < _PACKET.size:
            return Classification.INCOMPLETE
        length, code = _PACKET.unpack_from(first)
        if code in (_SSL, _GSS) and length == _PACKET.size:
            return EncryptionRequest(first[: _PACKET.size], _REFUSED)
        if code != _CANCEL or length - _PACKET.size - _PID not in _KEYS:
            return Classification.SESSION
        return CancelRequest(first[:length]) if len(first) >= length else Classification.INCOMPLETE
