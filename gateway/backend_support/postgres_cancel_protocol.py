"""Recognizes PostgreSQL's cancel requests, and finds the cancel key of each session.

See the PostgreSQL manual, chapter "Frontend/Backend Protocol", sections "Canceling Requests in Progress" and "Message
Formats". A connection begins with these steps:

1. The client can send SSLRequest and GSSENCRequest. The server responds to each with one byte.
2. The client sends StartupMessage to start a session, or CancelRequest to cancel a query of another session.
3. After StartupMessage, the server sends the messages of the login. One of the last, BackendKeyData, contains the
   session's cancel key.

The packets of the client in steps 1 and 2 begin with a length and a code. The messages of the server in step 3 begin
with a type and a length.
"""

import struct
from hmac import compare_digest

from gateway.query_cancel_parser import CancelRequest, ClientMessageKind, EncryptionRequest

_PACKET = struct.Struct("!II")
_MESSAGE = struct.Struct("!cI")
_CANCEL = 80877102
_SSL, _GSS = 80877103, 80877104
_MAJOR = 3
_REFUSED = b"N"
"""The response that refuses SSLRequest or GSSENCRequest. The client can then continue without encryption."""
_PID_SIZE = 4
_KEY_SIZES = range(4, 256 + 1)
"""Allowed sizes of the secret key in BackendKeyData, in bytes. Before protocol 3.2, the key has 4 bytes. PostgreSQL
18 sends a key of up to 32 bytes."""
_BEFORE_KEY = b"RSvN"
"""Types of the messages that a server can send before BackendKeyData: Authentication, ParameterStatus,
NegotiateProtocolVersion and NoticeResponse."""
_BACKEND_KEY_DATA, _READY_FOR_QUERY, _ERROR_RESPONSE = b"K", b"Z", b"E"
_MAX_LOGIN = 1 << 20
"""The tap searches at most this number of bytes from the server for BackendKeyData."""


class PostgresCancelKeyTap:
    """Finds the cancel key in a session's login; implements `gateway.query_cancel_parser.CancelKeyTap`.

    The tap stores at most one message header or one key at a time.
    """

    __slots__ = (
        "_key", "_message", "_needed", "_packet", "_remaining", "_skip", "_started", "_unanswered", "finished",
        "key_hidden",
    )  # fmt: skip
    tracker = None

    def __init__(self) -> None:
        self.finished = False
        self.key_hidden = False
        self._packet = b""
        """The received part of the client's current packet header."""
        self._message = b""
        """The received part of the server's current message."""
        self._needed = _MESSAGE.size
        """Size that `_message` must have before `_on_message` can parse it, in bytes."""
        self._unanswered = 0
        """Number of SSLRequest and GSSENCRequest packets to which the server has not responded yet."""
        self._started = False
        """Whether the client has sent StartupMessage."""
        self._skip = 0
        """Number of bytes to skip until the next message begins."""
        self._remaining = _MAX_LOGIN
        self._key: bytes | None = None
        """The process ID and the secret key, in the format of a cancel request."""

    def matches(self, request: CancelRequest) -> bool:
        """Return whether `request` cancels a query of this session.

        See `gateway.query_cancel_parser.CancelKeyTap`.
        """
        return self._key is not None and compare_digest(self._key, request.data[_PACKET.size :])

    def on_request(self, data: memoryview, now: float) -> None:
        """Observe `data` from the client. Ignore data after StartupMessage, because it can contain a password."""
        del now
        position = 0
        while position < len(data) and not (self._started or self.finished):
            piece = bytes(data[position : position + _PACKET.size - len(self._packet)])
            position += len(piece)
            self._packet += piece
            if len(self._packet) == _PACKET.size:
                self._on_packet(*_PACKET.unpack(self._packet))
                self._packet = b""

    def _on_packet(self, length: int, code: int) -> None:
        if code >> 16 == _MAJOR:
            self._started = True
        elif code in (_SSL, _GSS) and length == _PACKET.size:
            self._unanswered += 1
        else:
            self._finish(key_hidden=code != _CANCEL)

    def on_response(self, data: memoryview, now: float) -> None:
        """Observe `data` from the backend, received at the monotonic time `now`. See `gateway.connection_tap.Tap`."""
        del now
        self._remaining -= len(data)
        position = 0
        while position < len(data) and not self.finished:
            if self._unanswered:
                self._unanswered -= 1
                position += 1
                if data[position - 1 : position] != _REFUSED:
                    self._finish(key_hidden=True)  # the rest of the connection is encrypted
            elif self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
            else:
                piece = bytes(data[position : position + self._needed - len(self._message)])
                position += len(piece)
                self._message += piece
                if len(self._message) == self._needed:
                    self._on_message()
        if self._remaining <= 0 and not self.finished:
            self._finish(key_hidden=True)

    def _on_message(self) -> None:
        """Parse `_message`, which contains either the header of a message or a complete BackendKeyData message."""
        kind, length = _MESSAGE.unpack_from(self._message)
        body = length - (_MESSAGE.size - 1)
        if not self._started:
            self._finish(key_hidden=True)
        elif len(self._message) > _MESSAGE.size:
            self._key = self._message[_MESSAGE.size :]
            self._finish(key_hidden=False)
        elif kind == _BACKEND_KEY_DATA and body - _PID_SIZE in _KEY_SIZES:
            self._needed = _MESSAGE.size + body
        elif kind in (_READY_FOR_QUERY, _ERROR_RESPONSE):
            self._finish(key_hidden=False)  # the login has ended without a BackendKeyData message
        elif kind in _BEFORE_KEY and body >= 0:
            self._skip = body
            self._message = b""
        else:
            self._finish(key_hidden=True)

    def _finish(self, *, key_hidden: bool) -> None:
        self.finished, self.key_hidden = True, key_hidden
        self._packet = self._message = b""


class PostgresCancelProtocol:
    """Recognizes PostgreSQL's cancel requests; implements `gateway.query_cancel_parser.QueryCancelParser`."""

    max_bytes = _PACKET.size + _PID_SIZE + _KEY_SIZES[-1]

    def cancel_key_tap(self) -> PostgresCancelKeyTap:
        """Return a tap for one new connection. See `gateway.query_cancel_parser.QueryCancelParser`."""
        return PostgresCancelKeyTap()

    def classify(self, first: bytes) -> CancelRequest | EncryptionRequest | ClientMessageKind:
        """Classify a connection by its first bytes. See `gateway.query_cancel_parser.QueryCancelParser`."""
        if first[0] != 0:
            # The first packet of a PostgreSQL client begins with its length in four bytes. The length is less than
            # 16 MiB, so the first byte is zero. If it is not zero, the client uses direct TLS or another protocol.
            return ClientMessageKind.SESSION
        if len(first) < _PACKET.size:
            return ClientMessageKind.INCOMPLETE
        length, code = _PACKET.unpack_from(first)
        if code in (_SSL, _GSS) and length == _PACKET.size:
            return EncryptionRequest(first[: _PACKET.size], _REFUSED)
        if code != _CANCEL or length - _PACKET.size - _PID_SIZE not in _KEY_SIZES:
            return ClientMessageKind.SESSION
        return CancelRequest(first[:length]) if len(first) >= length else ClientMessageKind.INCOMPLETE
