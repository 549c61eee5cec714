"""The kinds of backend: one module each, as its `KIND`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.backends.common.volume import VolumeSpec
from gateway.contracts import Backend, CancelProtocol, Credential, Duration, Endpoint
from gateway.kinds import Kinds
from gateway.measure import TapFactory


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend.

    Args:
        name: What `kind:` says in a configuration.
        options: A frozen dataclass: the keys of the backend that only this kind has.
        check: A frozen dataclass: the keys of `check:` that only this kind has.
        create: Makes a backend of `options`, `check` and the name to send where a protocol wants one.
        scheme: The URL scheme of its short form.
        default_port: Used where a target names no port.
        hold: How long a client waits by default while the path is down.
        has_roles: Whether targets are primary or replica.
        bulk: Whether its clients move much and wait little, so that queries should not share a core with them.
        privileged_only: Tells, from the options, whether only source ports below 1024 may connect.
        prompt: Seconds after which a client that still waits for an answer makes the target doubtful; None: an answer
            may take any time.
        tap: Makes what measures latency in its protocol's traffic; None: taking turns tells enough.
        cancels: What requests to cancel look like, where they come on connections of their own; instead of `tap`.
        volume: Makes a Docker volume of the options and the listener's address, where one is configured.
        credentials: Reads the certificates that options and check name. It may block, and leaves out what cannot be
            read.
        abort_limit: How many broken handshakes in a row a server takes before it refuses their source address.
    """

    name: str
    options: type
    check: type
    create: Callable[[Any, Any], Backend]
    scheme: str
    default_port: int
    hold: Duration = Duration(10.0)
    has_roles: bool = False
    bulk: bool = False
    privileged_only: Callable[[Any], bool] = lambda _: False
    abort_limit: int | None = None
    tap: TapFactory | None = None
    cancels: CancelProtocol | None = None
    prompt: float | None = None
    volume: Callable[[Any, Endpoint], VolumeSpec | None] = lambda _options, _listener: None
    credentials: Callable[[Any, Any], list[Credential]] = lambda _options, _check: []
    verify: Callable[[Any, Any], None] = lambda _options, _check: None
    """Raises `GatewayError` when options, or files that they name, can never work."""

    def __reduce__(self) -> tuple[Callable[[str], "BackendKind"], tuple[str]]:
        return (KINDS.__getitem__, (self.name,))


KINDS: Kinds[BackendKind] = Kinds(__name__, __path__)


@dataclass(frozen=True)
class NoOptions:
    """A kind that needs no keys of its own."""
