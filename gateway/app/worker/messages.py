"""What the owner and a worker say to each other: pickled messages, each with the descriptors that belong to it."""

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.config import Config
from gateway.contracts import Endpoint, TunnelState
from gateway.docker.consumers import Consumer
from gateway.errors import Reason
from gateway.forwarding.listener import Address
from gateway.forwarding.usage import Usage
from gateway.measure import Histogram
from gateway.supervision.uplink import Uplink

_HEAD = struct.Struct(">II")
_MOST_FDS = 16
"""With one message; the kernel never joins what two messages brought."""
_READ = 1 << 16


@dataclass(frozen=True)
class Sockets:
    """The descriptors that come with this listen on `address`; for the next `Apply`."""

    address: Address


@dataclass(frozen=True)
class Apply:
    """Run this from now on, on the sockets that were sent before it; answered with `Applied`."""

    config: Config
    number: int


@dataclass(frozen=True)
class Applied:
    """The configuration of this number is what runs: nothing that it took away accepts any more."""

    number: int


Login = tuple[Endpoint, float, int | None]
"""A target, when a check last logged in there, and how many broken handshakes its server lets pass."""


@dataclass(frozen=True)
class Order:
    """The targets that new clients of a backend get, best first, and those that clients should leave."""

    backend: str
    targets: tuple[Endpoint, ...]
    unwanted: frozenset[Endpoint] = frozenset()
    logins: tuple[Login, ...] = ()


@dataclass(frozen=True)
class Known:
    """The consumers by address, from now on."""

    consumers: dict[str, Consumer]


@dataclass(frozen=True)
class Unfamiliar:
    """A client came from an address that is not known: the owner looks now."""


@dataclass(frozen=True)
class Dial:
    """Join the descriptor that comes with this to `to`, through a tunnel (None: straight)."""

    number: int
    tunnel: str | None
    to: Endpoint


@dataclass(frozen=True)
class Command:
    """`stop_accepting`, `abort_all`, `abort_idle`, `hold_nobody`, `reconnect` or `renew`, or `stop`."""

    what: str
    argument: Any = None


@dataclass(frozen=True)
class Dialled:
    """What became of a `Dial`: nothing wrong, or a reason, a line, and whether the link itself was lost."""

    number: int
    reason: Reason | None = None
    detail: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Failed:
    """Traffic failed at a target, or, `silent`, waits there for too long."""

    backend: str
    target: Endpoint
    silent: bool = False


@dataclass(frozen=True)
class UplinkReport:
    """A tunnel, as the worker sees it."""

    state: TunnelState
    reason: Reason | None
    detail: str
    described: str
    since: float
    connects: int
    failures: dict[str, int]
    channel_open: Histogram
    rtt: float | None
    details: dict[str, object]
    up: bool


NO_UPLINK = UplinkReport(
    state=TunnelState.IDLE, reason=None, detail="", described="not started", since=0.0, connects=0, failures={},
    channel_open=Histogram(), rtt=None, details={}, up=False,
)  # fmt: skip


def uplink_report(uplink: Uplink) -> UplinkReport:
    """A tunnel as it is now."""
    link = uplink.open
    return UplinkReport(
        state=uplink.state,
        reason=uplink.reason,
        detail=uplink.detail,
        described=uplink.describe(),
        since=uplink.since,
        connects=uplink.connects,
        failures=dict(uplink.failures),
        channel_open=uplink.channel_open,
        rtt=link.rtt() if link else None,
        details=link.details() if link else {},
        up=uplink.link is not None,
    )


@dataclass(frozen=True)
class UsageReport:
    """What one consumer uses of a backend."""

    id: str
    active: int
    total: int
    rejected: dict[str, int]
    to_backend: int
    from_backend: int
    latency: Histogram


def usage_report(usage: Usage) -> UsageReport:
    """A consumer's use as it is now."""
    return UsageReport(
        usage.id, usage.active, usage.total, dict(usage.rejected), usage.to_backend, usage.from_backend,
        usage.latency.copy(),
    )  # fmt: skip


@dataclass(frozen=True)
class ForwardReport:
    """A backend's clients, as the worker counts them."""

    active: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    resets: dict[str, int] = field(default_factory=dict)
    to_backend: int = 0
    from_backend: int = 0
    latency: Histogram = field(default_factory=Histogram)
    consumers: dict[str, UsageReport] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that a worker counts."""

    uplinks: dict[str, UplinkReport]
    forwards: dict[str, ForwardReport]
    draining: int = 0
    """Clients of backends that are not the worker's any more."""


class Messenger:
    """One end of the conversation, on a stream socket.

    Args:
        sock: Connected and non-blocking; owned.
        on_message: Called with each message and its descriptors, which it owns.
        on_end: Called once when the other end is gone.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Any, list[int]], None], on_end: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._fds: list[int] = []
        self._outgoing: list[tuple[bytes, list[int]]] = []
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Any, fds: list[int] | None = None) -> None:
        """Send a message; the descriptors are duplicated on their way, and stay the caller's to close."""
        if self._sock.fileno() < 0:
            return
        body = pickle.dumps(message)
        copies = [socket.dup(fd) for fd in fds or []]
        self._outgoing.append((_HEAD.pack(len(body), len(copies)) + body, copies))
        self._flush()

    @property
    def backlogged(self) -> bool:
        """Whether the other end is slow to read."""
        return bool(self._outgoing)

    def close(self) -> None:
        """Hang up."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._outgoing:
            _close_all(fds)
        _close_all(self._fds)

    def _flush(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            while self._outgoing:
                data, fds = self._outgoing[0]
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
                _close_all(fds)
                if sent < len(data):
                    self._outgoing[0] = (data[sent:], [])
                else:
                    del self._outgoing[0]
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            self._gone()
            return
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _READ, _MOST_FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._gone()
            return
        self._incoming += data
        self._fds += fds
        while len(self._incoming) >= _HEAD.size:
            size, count = _HEAD.unpack_from(self._incoming)
            if len(self._incoming) < _HEAD.size + size:
                return
            message = pickle.loads(self._incoming[_HEAD.size : _HEAD.size + size])  # noqa: S301 - our own process
            del self._incoming[: _HEAD.size + size]
            mine, self._fds = self._fds[:count], self._fds[count:]
            self._on_message(message, mine)

    def _gone(self) -> None:
        self.close()
        self._on_end()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        socket.close(fd)
    fds.clear()
