"""Runs the proxy of `tests.support.slow_link`, which forwards data with delays.

Usage: python -m tests.support.slow_path TO-PORT SEED

The proxy reads commands as JSON lines from its standard input, and exits when the standard input is closed.
"""

import contextlib
import random
import select
import socket
import struct
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.support.child import Orders, answer
from tests.support.slow_flow import SEGMENT, Direction, Flow
from tests.support.slow_link import Figures, Shape

_IN, _OUT, _EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET
_RESET = struct.pack("ii", 1, 0)


class Path:
    """Accepts the connections of clients, and forwards their data with one `Flow` per direction.

    Args:
        to: The port of the server on 127.0.0.1.
        seed: The random seed for the losses, and for the choice of connections to reset.
    """

    def __init__(self, to: int, seed: int) -> None:
        self._to, self._chance = to, random.Random(seed)
        self._up, self._down = Direction(), Direction()
        self._epoll = select.epoll()
        self._flows: dict[int, tuple[Flow, Flow]] = {}
        """For each socket's file descriptor, the flow that reads from the socket and the flow that writes to it."""
        self._hole_until = 0.0
        self._knocking = False
        self._buffer = 0
        self._made = self._cuts = 0
        self._orders = Orders()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self._set(Shape())
        self._epoll.register(self._listener, _IN | _EDGE)
        self._epoll.register(0, _IN)

    def run(self) -> None:
        """Forward data and execute commands until the standard input is closed."""
        while True:
            wait = self._work(time.monotonic())
            for fd, event in self._epoll.poll(wait):
                if fd == 0:
                    if not self._read_orders():
                        return
                elif fd == self._listener.fileno():
                    self._knocking = True
                elif fd in self._flows:
                    reading, writing = self._flows[fd]
                    reading.readable = reading.readable or bool(event & ~_OUT)
                    writing.blocked = writing.blocked and not event & ~_IN

    def _work(self, now: float) -> float | None:
        """Forward all data that can move now; return the seconds until more data can move, or None if unknown."""
        if now < self._hole_until:
            return self._hole_until - now
        if self._knocking:
            self._accept()
        times = []
        for direction in (self._up, self._down):
            for _ in range(len(direction.flows)):
                if direction.rate and direction.free - direction.room > now:
                    break
                direction.flows.rotate(-1)
                self._try(direction.flows[-1], now, reading=True)
            for flow in tuple(direction.flows):
                if flow.waiting and not flow.blocked and flow.next_due() <= now:
                    self._try(flow, now, reading=False)
                if flow.waiting and not flow.blocked:
                    times.append(flow.next_due())
                if flow.wants():
                    times.append(direction.free - direction.room if direction.rate else now)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _try(self, flow: Flow, now: float, *, reading: bool) -> None:
        try:
            if not reading:
                flow.deliver(now)
            elif flow.wants():
                flow.read(now, self._chance)
        except OSError:
            self._close(flow.source)
            return
        both = self._flows.get(flow.source.fileno())
        if both is not None and both[0].done and both[1].done:
            self._close(flow.source)

    def _accept(self) -> None:
        self._knocking = False
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket()
                self._tune(server)
                client.setblocking(False)
                server.setblocking(False)
                server.connect_ex(("127.0.0.1", self._to))
                up, down = Flow(self._up, client, server), Flow(self._down, server, client)
                for sock, flows in ((client, (up, down)), (server, (down, up))):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._flows[sock.fileno()] = flows
                    self._epoll.register(sock, _IN | _OUT | select.EPOLLRDHUP | _EDGE)
                self._made += 1

    def _tune(self, sock: socket.socket) -> None:
        """Limit the sizes of the socket's buffers and segments. By default, loopback uses segments of 64 KiB."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, self._buffer)

    def _close(self, sock: socket.socket) -> None:
        """Close both sockets of a connection. If a direction has not ended, its sender gets a reset."""
        for flow in self._flows[sock.fileno()]:
            with contextlib.suppress(OSError):
                if not flow.done:
                    flow.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            flow.direction.flows.remove(flow)
        for each in (self._flows[sock.fileno()][0].source, self._flows[sock.fileno()][0].sink):
            del self._flows[each.fileno()]
            each.close()

    def _read_orders(self) -> bool:
        orders = self._orders.read()
        for order in orders or ():
            if order["do"] == "listen":
                answer(port=self._listener.getsockname()[1])
                continue
            self._do(order.pop("do"), order)
            up, down = self._up, self._down
            said = Figures(up.moved, down.moved, self._made, len(up.flows), up.losses + down.losses, self._cuts)
            answer(**asdict(said))
        return orders is not None

    def _do(self, what: str, order: dict[str, Any]) -> None:
        now = time.monotonic()
        flows = (*self._up.flows, *self._down.flows)
        match what:
            case "shape":
                self._set(Shape(**order))
            case "hole":
                self._hole_until = now + order["seconds"]
            case "stall":
                for flow in flows:
                    flow.held_until = max(flow.held_until, now + order["seconds"])
            case "cut":
                open_now = [flow.source for flow in self._up.flows]
                chosen = self._chance.sample(open_now, min(order["count"] or len(open_now), len(open_now)))
                for sock in chosen:
                    self._close(sock)
                self._cuts += len(chosen)

    def _set(self, shape: Shape) -> None:
        self._buffer = shape.buffer
        self._tune(self._listener)  # accepted sockets inherit the options of the listener
        self._up.set(shape, shape.up)
        self._down.set(shape, shape.down)


if __name__ == "__main__":
    Path(int(sys.argv[1]), int(sys.argv[2])).run()
