"""Sends state changes to HTTP clients as server-sent events (HTML Standard, section "Server-sent events")."""

import asyncio
import contextlib
import socket

from aiohttp import web

from gateway.ops.authorization_middleware import HEADERS, is_still_authorized
from gateway.ops.events import EventLog
from gateway.ops.http_listener import extend_deadline

_HEARTBEAT = 10.0
"""If there is no event for this number of seconds, the stream sends a comment, because proxies close idle
connections."""
_RETRY_MS = 2000
"""Milliseconds that a browser waits before it reconnects. The stream sends this value to the browser."""
_BATCH = 50
"""Maximum number of events that the server sends to a client in one write."""
_SEND_BUFFER = 32 * 1024
"""Size of the socket's send buffer, in bytes. If a client does not read, this small buffer soon becomes full. While
the buffer is full, the server does not extend the response's deadline. When the deadline expires, the server closes
the connection."""
_RESET = "event: reset\ndata: {}\n"
"""The message to a client that has missed events. The client must then read the whole status again."""


class EventStreams:
    """Streams events (server-sent events) to HTTP clients, and limits the number of streams.

    A stream has no queue, because it reads from the event log. If a client does not read, the server closes the
    connection when the deadline of the response expires. The client can then reconnect, and request the missed
    events with the header `Last-Event-ID`.

    Args:
        events: The event log.
        limit: Maximum number of concurrent streams.
    """

    def __init__(self, events: EventLog, limit: int) -> None:
        self._events = events
        self._limit = limit
        self._wakes: set[asyncio.Event] = set()
        self._closed = False

    def close(self) -> None:
        """End all streams, because the server is stopping."""
        self._closed = True
        for wake in self._wakes:
            wake.set()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Send events until the client disconnects, its token is revoked, or the server stops."""
        if len(self._wakes) >= self._limit:
            text = f"at most {self._limit} clients can read events at the same time: close another event stream\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        if request.method == "HEAD":
            return response
        wake = asyncio.Event()
        self._wakes.add(wake)
        self._events.watchers.append(wake.set)
        _shrink_send_buffer(request)
        try:
            await response.prepare(request)
            await self._send(request, response, wake)
        except ConnectionError:  # the client has disconnected
            return response
        finally:
            self._wakes.discard(wake)
            self._events.watchers.remove(wake.set)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, wake: asyncio.Event) -> None:
        resumed = request.headers.get("Last-Event-ID")
        sent = self._events.last_id if resumed is None else _event_id(resumed)
        # A client that reconnects sends the last ID that it received. Therefore, send only IDs that the log contains.
        known = "" if self._events.since(sent) is None else f"id: {sent}\n"
        await response.write(f"retry: {_RETRY_MS}\n{known}\n".encode())
        while not self._closed and is_still_authorized(request):
            wake.clear()
            events = self._events.since(sent)
            if events is None:
                sent = self._events.last_id
                await response.write(f"id: {sent}\n{_RESET}\n".encode())
            for at in range(0, len(events or ()), _BATCH):
                if not is_still_authorized(request):
                    return
                batch = (events or [])[at : at + _BATCH]
                lines = (f"id: {each.id}\nevent: {each.subject.type}\ndata: {each.line}\n\n" for each in batch)
                await response.write("".join(lines).encode())
                sent = batch[-1].id
            extend_deadline(request)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT):
                    await wake.wait()
                continue
            await response.write(b":\n\n")


def _event_id(text: str) -> int:
    """Return the event ID in a `Last-Event-ID` header. If the header is not valid, return -1, which no event has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _shrink_send_buffer(request: web.Request) -> None:
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
