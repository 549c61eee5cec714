"""Interfaces and value types shared by all packages: link, tunnel, backend, unit. Standard library only."""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple, NewType, Protocol

from gateway.errors import Reason
from gateway.facts import Fact, FactValue
from gateway.measure import Histogram, Tap
from gateway.secret_files import read_secret, unreadable
from gateway.text import one_line

Duration = NewType("Duration", float)
"""Seconds. Written `500ms`, `10s`, `5m`, `1h` in a configuration."""
Size = NewType("Size", int)
"""Bytes. Written `64KiB`, `15MiB`, `1GB` in a configuration."""

_WEEK = 7 * 86400.0

POSITIVE = {"above": 0}
"""Field metadata: the value must be greater than zero."""
AT_LEAST_ONE = {"least": 1}
"""Field metadata: the value must be at least one."""
PORT = {"least": 1, "most": 65535}
"""Field metadata: the value is a TCP port."""

Stream = socket.socket
"""A connected, non-blocking stream socket."""


class Endpoint(NamedTuple):
    """Host name or address and TCP port; a host that starts with a slash is the path of a unix socket."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether the endpoint is a unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Secret:
    """Secret that does not appear in its `repr`. It is read from its file at each use, so that it can be rotated.

    Args:
        value: The secret; None if `path` contains it.
        path: A file that contains the secret, optionally followed by one newline.
        unexpanded_path: The path as written in the configuration, if it contains environment variables.
    """

    __slots__ = ("_value", "path", "unexpanded_path")

    def __init__(
        self, value: str | None = None, path: Path | None = None, unexpanded_path: str | None = None
    ) -> None:
        self._value = value
        self.path = path
        self.unexpanded_path = unexpanded_path

    @property
    def display_path(self) -> str:
        """The path for messages. A path without a slash is hidden: it may be a password in the wrong key."""
        if self.unexpanded_path is not None:
            return self.unexpanded_path
        return str(self.path) if "/" in str(self.path) else "a file in the working directory"

    def reveal(self) -> str:
        """Return the secret; read its file, if it has one.

        Raises:
            OSError: The file cannot be read, is readable by every user, or is not UTF-8. Its `filename` is
                `display_path`.
        """
        if self.path is None:
            return self._value or ""
        try:
            return read_secret(self.path).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise OSError(errno.EILSEQ, "not valid UTF-8 text", self.display_path) from error
        except OSError as error:
            raise OSError(error.errno, unreadable(self.path, error, self.display_path), self.display_path) from error

    def __repr__(self) -> str:
        return f"Secret(path={self.display_path!r})" if self.path else "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.path) == (other._value, other.path)

    def __hash__(self) -> int:
        return hash((self._value, self.path))


class Validity(NamedTuple):
    """Validity period of a certificate, in seconds since the epoch (`time.time()`)."""

    begins: float
    expires: float

    def expires_soon(self, now: float) -> bool:
        """Return whether to warn about renewal: in the last third of the period, but at most a week before its end.

        Args:
            now: Seconds since the epoch.
        """
        return self.expires - now < min((self.expires - self.begins) / 3, _WEEK)


@dataclass(frozen=True)
class Credential:
    """Certificate whose expiry is monitored: our own, or one that a server presented.

    Args:
        kind: `ssh_certificate`, `tls` or `vpn`.
        name: Its file, or the server that presented it.
        validity: Its validity period.
    """

    kind: str
    name: str
    validity: Validity


class State(StrEnum):
    """State of a backend or of one of its targets."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    PAUSED = "paused"


DatabaseRole = Literal["primary", "replica"]
"""Role of a database, as its check finds it."""
Preference = Literal["primary", "replica", "any", "order"]
"""Which target new clients get; see the key `prefer`."""


class TunnelState(StrEnum):
    """State of a tunnel."""

    IDLE = "idle"
    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    UP = "up"
    SUSPECT = "suspect"
    DRAINING = "draining"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


class TrafficClass(StrEnum):
    """What the clients of a backend do with its bytes."""

    INTERACTIVE = "interactive"
    """Queries, whose latency counts."""
    BULK = "bulk"
    """Transfers, which would delay queries on the same connection or CPU core."""


class InsecureSetting(NamedTuple):
    """A setting that strict mode refuses.

    Args:
        key: The key, below the tunnel or backend.
        message: What is wrong, and what to set instead. It follows the key in a sentence.
        advised: Whether it is worth a warning without strict mode.
    """

    key: str
    message: str
    advised: bool


class CloseReason(StrEnum):
    """Why a joined connection ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    BACKEND_RESET = "backend_reset"
    LINK_LOST = "link_lost"
    MOVED = "moved"
    ABORTED = "aborted"


@dataclass
class Phases:
    """Durations of the phases of a probe, in order.

    Args:
        seconds: Duration of each phase in seconds.
        on_abandoned: Called for each dial of the probe that was abandoned and may still connect.
        timeout_hint: Likely cause if the current phase times out; empty: unknown.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    on_abandoned: Callable[[], None] = lambda: None
    timeout_hint: str = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a `with` block as the phase `name`, also if it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add a duration in seconds to the phase `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class ProbeResult:
    """What a probe reports about a target that answers. Text from the server is sanitized to one printable line.

    Args:
        role: The database's role; None if the kind has no roles.
        read_only: Whether the database refuses writes, so that clients of a primary must not connect.
        facts: The facts that the kind declares, as far as they are known.
        degraded: Reason and detail that make the target `degraded` instead of `up`.
        unusable: Reason and detail that make the target `down`, although it answers.
        unprobed: Why the target was not probed; its state is then `unknown`.
        abort_limit: Consecutive aborted handshakes after which the server blocks this host, if it counts them.
        certificate: Validity of the server's certificate, if it presented one.
    """

    role: DatabaseRole | None = None
    read_only: bool | None = None
    facts: Mapping[Fact, FactValue] = field(default_factory=dict)
    degraded: tuple[Reason, str] | None = None
    unusable: tuple[Reason, str] | None = None
    unprobed: str | None = None
    abort_limit: int | None = None
    certificate: Validity | None = None

    def __post_init__(self) -> None:
        safe = {fact: one_line(value) if isinstance(value, str) else value for fact, value in self.facts.items()}
        object.__setattr__(self, "facts", safe)  # frozen, but still under construction


@dataclass(frozen=True)
class Network:
    """A network that links lead into. The same address in two networks is two different hosts.

    Args:
        hops: The tunnels on the way, outermost first; empty for the network of this host.
    """

    hops: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether this host is in the network."""
        return not self.hops

    def behind(self, hop: str) -> "Network":
        """Return the network on the far side of a tunnel whose server is in this network.

        Args:
            hop: The far side of the tunnel.
        """
        return Network((*self.hops, hop))

    def __str__(self) -> str:
        return " > ".join(("here", *self.hops))


class Relay(Protocol):
    """A client socket joined to a target. It forwards bytes until both directions have ended."""

    last_active: float
    """Monotonic time of the last activity on either side."""
    ended: "asyncio.Future[CloseReason]"
    responses: int
    """Number of times that the backend responded after the client had sent data."""

    @property
    def awaiting_response(self) -> bool:
        """Whether the client sent data last, and so probably waits for a response."""

    @property
    def waiting_since(self) -> float | None:
        """Monotonic time since which the client has waited for a response; None if it does not wait or is unknown."""

    @property
    def to_backend(self) -> int:
        """Bytes read from the client."""

    @property
    def from_backend(self) -> int:
        """Bytes read from the backend."""

    def abort(self, reason: CloseReason) -> None:
        """Reset both sides immediately.

        Exception: with `LINK_LOST`, a client whose response was received completely first gets the rest of it.
        `ended` is set after that.
        """


class Connector(Protocol):
    """Connects sockets to targets: all that a probe needs of a link."""

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """Connect a non-blocking socket to `to`.

        Args:
            to: The target.
            phases: Receives the durations of the phases of the dial.

        Returns:
            The connected socket. The caller owns it.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
        """


class Link(Connector, Protocol):
    """An open connection into a network. Connects sockets to targets there until it is lost."""

    network: Network
    """The network that the targets are in."""

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to` and forward bytes between it and `client`.

        Nothing is read from `client` until the target is connected.

        Args:
            client: A non-blocking stream socket.
            to: The target.
            latency: Receives the response latencies: from the last byte of a request to the first of its response.
            within: Seconds for the dial. The link's own deadline may be shorter.
            tap: Sees the bytes until it is finished.

        Returns:
            The relay. It owns `client`. If this method raises, the caller still owns `client`.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
            RedialError: Only the connection that carried the dial failed; see `gateway.relay.redial`.
        """

    async def lost(self) -> str:
        """Wait until the link is lost, and return the cause."""


@dataclass(frozen=True)
class LinkStatus:
    """What a link reports about itself. Each kind of tunnel adds its own fields. They contain no secrets.

    Args:
        rtt: The last measured round-trip time to the far side in seconds; None: not known.
    """

    rtt: float | None = None

    @property
    def details(self) -> dict[str, object]:
        """The fields that the kind has added, by name. None: not known."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rtt"}


@dataclass(frozen=True)
class OpenTunnel:
    """An open tunnel, for the uplink that keeps it open.

    Args:
        link: Connects to addresses on the far side.
        status: Returns what the link reports about itself.
        renew: Uses keys or certificates that have changed on disk, without closing connections.
    """

    link: Link
    status: Callable[[], LinkStatus] = LinkStatus
    renew: Callable[[], None] = lambda: None


class Progress(Protocol):
    """Callback for state changes of a tunnel: its progress while it opens, then `up` and `suspect`."""

    def __call__(self, state: TunnelState, reason: Reason | None = None, detail: str = "", /) -> None:
        """Report a new state, its reason and one line of detail."""


class Tunnel(Protocol):
    """A configured way into a remote network."""

    @property
    def far_side(self) -> str:
        """The remote end, for messages: `user@host:port`."""

    def open(self, via: Link, progress: Progress) -> AbstractAsyncContextManager[OpenTunnel]:
        """Open the tunnel through `via`. The tunnel closes when the context exits.

        An open tunnel whose peer stops answering reports `suspect` to `progress`, and `up` when it answers again.

        Args:
            via: The link to dial through.
            progress: Receives the tunnel's states.

        Raises (on entry):
            TunnelError: The tunnel cannot be opened.
            DialError: `via` cannot reach the tunnel's server.
            LinkLostError: `via` was lost while the tunnel opened.
        """


class Backend(Protocol):
    """A service that containers use, with its options; knows how to probe a target."""

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """Check through `link`, as real traffic would, whether clients can use `target`.

        The caller sets the deadline by cancelling; the probe then releases all its resources immediately.

        Args:
            link: The link that carries the traffic.
            target: The target.
            phases: Receives the durations of the phases.

        Raises:
            ReachError: The target cannot be used.
        """


class Unit(Protocol):
    """A long-running component that the supervisor starts and restarts."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled. Call `ready` once, when the unit first works."""
