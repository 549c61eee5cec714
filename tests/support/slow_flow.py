"""Implements the rate limits, delays and losses of the simulated network in `tests.support.slow_link`."""

import random
import socket
from collections import deque

from tests.support.slow_link import Shape

SEGMENT = 1448
_PIECES = 64
"""The maximum number of buffers in one sendmsg(2) call."""
_UNLIMITED = 16 * 1024 * 1024
"""The maximum number of bytes that the proxy stores per connection and direction if there is no rate limit."""
_TURN = 256 * 1024
_TICK = 0.005
"""The usual size of a read is the rate limit multiplied by this number of seconds. With small reads, the connections
share the rate evenly."""


class Direction:
    """One direction of the simulated network. All connections share its queue, which has a rate limit."""

    def __init__(self) -> None:
        self.flows: deque[Flow] = deque()
        self.free = 0.0
        """The monotonic time at which the last byte of the queue leaves the queue."""
        self.moved = self.losses = 0

    def set(self, shape: Shape, rate: float) -> None:
        """Set the properties for data that is read later. `rate` is in bytes per second; 0 means unlimited."""
        self.delay, self.rate = shape.delay, rate
        self.loss, self.rto = shape.loss, shape.rto
        self.room = shape.buffer / rate if rate else 0.0
        """The number of seconds after which all data of a full queue has left the queue."""
        self.turn = int(min(_TURN, max(SEGMENT, rate * _TICK))) if rate else _TURN
        self.most = int(shape.buffer + rate * (shape.delay + shape.rto)) if rate else _UNLIMITED


class Flow:
    """One direction of one connection.

    Args:
        direction: The direction of the simulated network, which all connections share.
        source: The socket from which the flow reads.
        sink: The socket to which the flow writes.
    """

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction, self.source, self.sink = direction, source, sink
        self.waiting: deque[tuple[float, memoryview]] = deque()
        self.size = 0
        self.held_until = 0.0
        self.readable = self.ended = self.done = False
        self.blocked = True
        direction.flows.append(self)

    def wants(self) -> bool:
        """Return whether the source has data, and the flow has space for this data."""
        return self.readable and not self.ended and self.size < self.direction.most

    def read(self, now: float, chance: random.Random) -> None:
        """Read once from the source, and schedule the delivery of the data; raise OSError if the read fails."""
        direction = self.direction
        try:
            data = self.source.recv(direction.turn)
        except BlockingIOError:
            self.readable = False
            return
        direction.free = max(direction.free, now)
        if direction.rate:
            direction.free += len(data) / direction.rate
        due = direction.free + direction.delay
        if direction.loss and chance.random() > (1 - direction.loss) ** (len(data) / SEGMENT):
            direction.losses += 1
            self.held_until = max(self.held_until, due + direction.rto)
        self.waiting.append((due, memoryview(data)))
        self.size += len(data)
        self.ended = not data

    def next_due(self) -> float:
        """Return the monotonic time at which the flow can deliver its next bytes."""
        return max(self.waiting[0][0], self.held_until)

    def deliver(self, now: float) -> None:
        """Write all data whose delay has passed to the sink; raise OSError if the write fails."""
        waiting = self.waiting
        while waiting and not self.blocked and self.next_due() <= now:
            pieces: list[memoryview] = []
            for due, piece in waiting:
                if due > now or not piece or len(pieces) == _PIECES:
                    break
                pieces.append(piece)
            if not pieces:
                self.done = True
                waiting.popleft()
                self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.sink.sendmsg(pieces)
            except BlockingIOError:
                self.blocked = True
                return
            self.direction.moved += sent
            self.size -= sent
            while sent:
                due, piece = waiting.popleft()
                if sent < len(piece):
                    waiting.appendleft((due, piece[sent:]))
                sent -= min(sent, len(piece))
