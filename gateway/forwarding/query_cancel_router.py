"""Recognizes cancel requests, and finds the targets that must receive them.

A client sends a cancel request on a separate connection, to cancel a query that runs on an earlier connection.
"""

import asyncio
import logging
import socket

from gateway.contracts.link import Stream
from gateway.errors import DialError, FailureReason, TargetPathError
from gateway.forwarding.client_reset_watcher import ClientResetWatcher
from gateway.forwarding.target_path import TargetIdentity
from gateway.query_cancel_parser import (
    CancelKeyTap,
    CancelRequest,
    ClientMessageKind,
    EncryptionRequest,
    QueryCancelParser,
)

log = logging.getLogger(__name__)

_CLASSIFY_TIMEOUT = 2.0
"""Maximum seconds to wait until a client has sent enough bytes to classify its connection."""
_MAX_ENCRYPTION_REQUESTS = 2
_POLL_INTERVAL = 0.01
"""Seconds between two attempts to classify a client's connection while its first message is incomplete."""
_REPLY_TIMEOUT = 2.0
"""Maximum seconds to wait for a target's reply to an encryption request."""
_REPLY_TTL = 1.0
"""Seconds for which a target's reply to an encryption request is cached."""
_COPY_TIMEOUT = 2.0


class _CachedSslRequestReply:
    """The cached reply of a target to an encryption request, and the monotonic time at which the reply arrived."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.reply = b""
        self.received_at: float | None = None

    def is_fresh(self, now: float) -> bool:
        return self.received_at is not None and now - self.received_at <= _REPLY_TTL


class QueryCancelRouter:
    """Recognizes cancel requests, and finds the targets that must receive them.

    Args:
        protocol: Parses the first bytes of connections.
    """

    def __init__(self, protocol: QueryCancelParser) -> None:
        self._protocol = protocol
        self._sessions: dict[TargetIdentity, set[CancelKeyTap]] = {}
        self._replies: dict[tuple[TargetIdentity, bytes], _CachedSslRequestReply] = {}

    def cancel_key_tap(self) -> CancelKeyTap:
        """Return a tap for a new connection. The tap reads the session's cancel key from the login."""
        return self._protocol.cancel_key_tap()

    def add_session(self, target: TargetIdentity, login: CancelKeyTap) -> None:
        """Record a session on `target`. The tap `login` observes the login of this session."""
        self._sessions.setdefault(target, set()).add(login)

    def remove_session(self, target: TargetIdentity, login: CancelKeyTap) -> None:
        """Remove a session that has ended, and its cancel key."""
        logins = self._sessions[target]
        logins.discard(login)
        if not logins:
            del self._sessions[target]

    def has_sessions_elsewhere(self, target: TargetIdentity | None) -> bool:
        """Return whether there is a session on a target other than `target`."""
        return len(self._sessions) > (target in self._sessions)

    def targets_for(self, request: CancelRequest, default: TargetIdentity | None) -> list[TargetIdentity]:
        """Return the targets that must receive a cancel request.

        If a known session has the key of the request, return the target of this session. Otherwise, the request can
        belong to any session with an unknown key: return the targets of all these sessions. A server ignores a
        request with a wrong key. If no session has an unknown key, return `default`.

        Args:
            request: The cancel request.
            default: The target that a new session would use; None if there is none.
        """
        sessions = self._sessions.items()
        matching = [target for target, logins in sessions if any(login.matches(request) for login in logins)]
        hidden = [target for target, logins in sessions if any(login.key_hidden for login in logins)]
        return matching or hidden or ([default] if default is not None else [])

    async def read_cancel_request(
        self, client: Stream, watcher: ClientResetWatcher, target: TargetIdentity | None
    ) -> CancelRequest | None:
        """Wait for a client's first bytes, and return its cancel request, which remains in the receive buffer.

        A client may first request encryption. This method then asks the target whether it accepts encryption. If the
        target refuses, this method sends the refusal to the client, which continues unencrypted. If the target
        accepts, this method returns None, because it cannot read an encrypted cancel request.

        Args:
            client: The client's socket.
            watcher: Detects that the client has disconnected.
            target: The target that a new session would use; None if there is none.

        Returns:
            The cancel request; None if the client sends other data, or if the connection may become encrypted.

        Raises:
            DialError: The client has disconnected.
        """
        for _ in range(_MAX_ENCRYPTION_REQUESTS + 1):
            first = await self._classify(client, watcher)
            if isinstance(first, CancelRequest):
                # Yield once to the event loop, so that it processes the cancel keys that the data plane has already
                # reported.
                await asyncio.sleep(0)
                return first
            if not isinstance(first, EncryptionRequest):
                return None
            if target is None or await self._reply_to(first, target) != first.refusal:
                return None
            try:
                client.recv(len(first.request))
                client.send(first.refusal)
            except OSError as error:
                raise _client_disconnected(error) from error
        return None

    async def _classify(
        self, client: Stream, watcher: ClientResetWatcher
    ) -> ClientMessageKind | EncryptionRequest | CancelRequest:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CLASSIFY_TIMEOUT
        while (left := deadline - loop.time()) > 0 and await watcher.readable(left):
            try:
                data = client.recv(self._protocol.max_bytes, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _client_disconnected(error) from error
            if not data:
                break
            first = self._protocol.classify(data)
            if first is not ClientMessageKind.INCOMPLETE:
                return first
            await asyncio.sleep(_POLL_INTERVAL)  # prevents a busy loop: unread bytes keep the socket readable
        return ClientMessageKind.SESSION

    async def _reply_to(self, request: EncryptionRequest, target: TargetIdentity) -> bytes:
        """Return the target's reply to an encryption request; empty if no request was sent or no reply arrived."""
        if any(login.key_hidden for login in self._sessions.get(target, ())):
            # A session on this target is encrypted, so the target accepts encryption. Do not send the encryption
            # request: the target would log an error, because no TLS handshake follows.
            return b""
        if target.link is None:
            return b""
        loop = asyncio.get_running_loop()
        self._replies = {
            key: each for key, each in self._replies.items() if each.lock.locked() or each.is_fresh(loop.time())
        }
        cached = self._replies.setdefault((target, request.request), _CachedSslRequestReply())
        async with cached.lock:
            if not cached.is_fresh(loop.time()):
                cached.reply = await _send_encryption_request(request, target)
                cached.received_at = loop.time()
        return cached.reply


async def send_copy(request: CancelRequest, target: TargetIdentity) -> None:
    """Send a copy of a cancel request to a target over a new connection. Wait until the connection closes."""
    link, loop = target.link, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_COPY_TIMEOUT):
            if link is not None:
                with await link.socket(target.target) as sock:
                    await loop.sock_sendall(sock, request.data)
                    await loop.sock_recv(sock, 1)
    except (TargetPathError, OSError, TimeoutError) as error:
        log.debug(
            "cannot send a copy of the cancel request", extra={"target": str(target.target), "detail": str(error)}
        )


def _client_disconnected(error: OSError) -> DialError:
    return DialError(
        FailureReason.RESET, f"the client disconnected before it was connected to a target: {error.strerror}"
    )


async def _send_encryption_request(request: EncryptionRequest, target: TargetIdentity) -> bytes:
    link, loop = target.link, asyncio.get_running_loop()
    if link is None:
        return b""
    try:
        async with asyncio.timeout(_REPLY_TIMEOUT):
            with await link.socket(target.target) as sock:
                await loop.sock_sendall(sock, request.request)
                return await loop.sock_recv(sock, len(request.refusal))
    except (TargetPathError, OSError, TimeoutError):
        # Report no error: if the target is unavailable, the dial for the client fails later and reports the error.
        return b""
