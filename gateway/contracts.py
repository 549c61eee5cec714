"""The nouns that the rooms share: a link, a tunnel, a backend, a unit. Standard library only."""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from math import inf
from pathlib import Path
from typing import NamedTuple, NewType, Protocol

from gateway.errors import Reason
from gateway.measure import Histogram, Tap
from gateway.secret_files import read_secret, unreadable
from gateway.text import one_line

Duration = NewType("Duration", float)
"""Seconds. Written `500ms`, `10s`, `5m`, `1h` in a configuration."""
Size = NewType("Size", int)
"""Bytes. Written `64KiB`, `15MiB`, `1GB` in a configuration."""

_WEEK = 7 * 86400.0

POSITIVE = {"above": 0}
"""Metadata of a field whose value must be more than nothing."""
AT_LEAST_ONE = {"least": 1}
"""Metadata of a field that counts something there must be one of."""
PORT = {"least": 1, "most": 65535}
"""Metadata of a field that is a TCP port."""

Stream = socket.socket
"""A connected, non-blocking stream socket."""


class Endpoint(NamedTuple):
    """A host (name or address) and a TCP port; or, where the host begins with a slash, a unix socket."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket's path."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Secret:
    """A secret that never prints itself; read from its file at each use, so that it can rotate.

    Args:
        value: The secret itself, or None when `path` holds it.
        path: A file whose content, less one trailing line end, is the secret.
        written: How the configuration writes the path, where it takes it from the environment.
    """

    __slots__ = ("_value", "path", "written")

    def __init__(self, value: str | None = None, path: Path | None = None, written: str | None = None) -> None:
        self._value = value
        self.path = path
        self.written = written

    @property
    def shown(self) -> str:
        """Its file, for messages. A password that was given as a file's name by mistake is not shown."""
        if self.written is not None:
            return self.written
        return str(self.path) if "/" in str(self.path) else "a file in the working directory"

    def reveal(self) -> str:
        """The secret.

        Raises:
            OSError: The file cannot be read, everybody can read it, or it is no text; `filename` may be shown.
        """
        if self.path is None:
            return self._value or ""
        try:
            return read_secret(self.path).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise OSError(errno.EILSEQ, "is no text in UTF-8", self.shown) from error
        except OSError as error:
            raise OSError(error.errno, unreadable(self.path, error, self.shown), self.shown) from error

    def __repr__(self) -> str:
        return f"Secret(path={self.shown!r})" if self.path else "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.path) == (other._value, other.path)

    def __hash__(self) -> int:
        return hash((self._value, self.path))


class Validity(NamedTuple):
    """From when to when a certificate is valid, in seconds since the epoch (`time.time()`)."""

    begins: float
    expires: float

    def expires_soon(self, now: float) -> bool:
        """Whether it is time to renew it: in its last third, which is not more than a week."""
        return self.expires - now < min((self.expires - self.begins) / 3, _WEEK)


@dataclass(frozen=True)
class Credential:
    """A certificate of ours, or one that others prove themselves with.

    Args:
        kind: `ssh_certificate`, `tls` or `vpn`.
        what: Its file, or the server that showed it.
        validity: From when to when it is valid.
    """

    kind: str
    what: str
    validity: Validity


class State(StrEnum):
    """What a backend or one of its targets is."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    PAUSED = "paused"


class TunnelState(StrEnum):
    """What a tunnel is doing."""

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


class Ending(StrEnum):
    """How a joined connection ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    BACKEND_RESET = "backend_reset"
    LINK_LOST = "link_lost"
    MOVED = "moved"
    ABORTED = "aborted"


@dataclass
class Phases:
    """How long each part of a probe took, in seconds, in the order in which they happened.

    Args:
        seconds: By phase.
        given_up: Called for each dial of the probe that was given up and may still connect.
        hint: What may be wrong if the phase that is under way takes too long; empty: nothing is known.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    given_up: Callable[[], None] = lambda: None
    hint: str = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a `with` block as the phase `name`, whether or not it succeeds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time to a phase that was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class Finding:
    """What a probe learned about a target that answers.

    Args:
        role: `primary` or `replica`; None where the kind has no roles.
        read_only: Whether the database refuses writes.
        lag: Replication lag in seconds, for a replica that knows it.
        version: What the server calls itself.
        identity: What stays the same as long as it is the same server.
        space: Bytes by kind (`total`, `available`), for storage.
        lease: Seconds that a file server keeps locks for a client that it does not hear.
        degraded: A reason and a line that make the target `degraded` rather than `up`.
        unusable: A reason and a line that make it `down`, although it told all this.
        unprobed: Why nothing was asked; the target's state is then `unknown`.
        abort_limit: How many broken handshakes in a row the server lets pass, where it counts them.
        certificate: From when to when the server's certificate is valid, where it showed one.

    What the server words itself is made one line that may be shown.
    """

    role: str | None = None
    read_only: bool | None = None
    lag: float | None = None
    version: str | None = None
    identity: str | None = None
    space: dict[str, int] = field(default_factory=dict)
    lease: int | None = None
    degraded: tuple[Reason, str] | None = None
    unusable: tuple[Reason, str] | None = None
    unprobed: str | None = None
    abort_limit: int | None = None
    certificate: Validity | None = None

    def __post_init__(self) -> None:
        for name in ("version", "identity"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, one_line(text))  # frozen, but not yet seen by anybody


class Relay(Protocol):
    """A client socket joined to a target: bytes move until both ends are done."""

    last_active: float
    """`time.monotonic()` of the last byte."""
    ended: "asyncio.Future[Ending]"
    answers: int
    """How often the backend answered something that the client had said."""

    @property
    def asked(self) -> bool:
        """Whether the client spoke last, and so probably waits for an answer."""

    @property
    def waiting_since(self) -> float | None:
        """Since when the client waits for an answer, in `time.monotonic()`, as far as is known; None: it does not."""

    @property
    def to_backend(self) -> int:
        """Bytes taken from the client."""

    @property
    def from_backend(self) -> int:
        """Bytes taken from the backend."""

    def abort(self, ending: Ending) -> None:
        """Reset both ends now.

        After the loss of a link (`LINK_LOST`) a client whose response is complete gets the rest of it first; `ended`
        comes then.
        """


class Link(Protocol):
    """A live path into a network."""

    dial_phase: str
    """What the time that `join` dials is called in a probe's phases."""
    leads_to: str
    """Which network that is, so that the same address in two networks is not taken for one."""

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """A non-blocking socket connected to `to`; the caller owns it.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link died meanwhile.
        """

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, then pump between it and `client` until both are done.

        Nothing is read from `client` before the far side exists. The relay owns `client` once this returns;
        when it raises, the caller still does.

        Args:
            client: A non-blocking stream socket.
            to: The target.
            latency: Where to count the time from a request's last byte to its answer's first.
            within: Seconds for dialling, where the link's own deadline is not shorter.
            tap: Sees the bytes, until it is finished.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link died meanwhile.
            MovedOnError: Part of it did; see `gateway.relay.attempts`.
        """

    async def lost(self) -> str:
        """Wait until the link is dead; says why."""

    def renew(self) -> None:
        """Keys or certificates changed: prove anew who we are, without ending what runs."""

    def rtt(self) -> float | None:
        """The last measured round trip to the link's far side in seconds, where it is known."""

    def details(self) -> dict[str, object]:
        """What a status page should tell about the link: ciphers, connections, without secrets."""


class Progress(Protocol):
    """Hears what a tunnel is doing: while it opens, and later whether it is still `up` or `suspect`."""

    def __call__(self, state: TunnelState, reason: Reason | None = None, detail: str = "", /) -> None:
        """A new state, and why."""


class Tunnel(Protocol):
    """A way into a remote network, not opened yet."""

    @property
    def far_side(self) -> str:
        """Where it leads, for people: `user@host:port`."""

    def open(self, via: Link, progress: Progress) -> AbstractAsyncContextManager[Link]:
        """Open it through `via`; the link closes with the context.

        An open tunnel that falls silent says `suspect` to `progress`, and `up` once it is heard again.

        Raises (on entry):
            TunnelError: It cannot be opened.
            DialError: `via` cannot reach it.
            LinkLostError: `via` died meanwhile.
        """


class Backend(Protocol):
    """A kind of service that containers want, with its options."""

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> Finding:
        """Ask the target, through the link that traffic takes, whether it can be used.

        The caller sets the deadline and cancels; the probe frees everything at once then.

        Raises:
            ReachError: With the reason.
        """


class Opening(Enum):
    """What a connection's first bytes are, where they are neither a request to cancel nor a question."""

    SESSION = "session"
    UNCLEAR = "unclear"
    """More of them are needed."""


@dataclass(frozen=True)
class CancelRequest:
    """What cancels a session's query, on a connection of its own; whoever knows it can do that, so it is a secret."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Question:
    """What a client asks before it says what it wants.

    Args:
        asked: The bytes.
        no: The answer after which it says that in the clear.
    """

    asked: bytes
    no: bytes


class LoginTap(Tap, Protocol):
    """Watches a session begin, until it knows what a request to cancel it would say."""

    @property
    def unseen(self) -> bool:
        """Whether it is a session, and what cancels it could not be seen."""

    def named_by(self, request: CancelRequest) -> bool:
        """Whether `request` is for this session."""


class Cancels(Protocol):
    """What requests to cancel look like, where a client sends them on connections of their own."""

    most: int
    """Bytes that `read` needs at most."""

    def watch(self) -> LoginTap:
        """A tap for one connection."""

    def read(self, first: bytes) -> CancelRequest | Question | Opening:
        """What a connection that begins with the bytes `first`, one at least, is for."""


class Unit(Protocol):
    """Something long-lived that the supervisor runs."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled; call `ready` once when first of use."""
