"""The kinds of backend: each is the `KIND` of one module."""

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
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that only this kind has.
        check: A frozen dataclass with the keys of `check` that only this kind has.
        create: Creates a backend from the options and the check.
        scheme: The URL scheme of the short form.
        default_port: The port of targets that name none. 0: every target must name one.
        hold: How long clients wait by default while the path is down.
        has_roles: Whether a target is either a primary or a replica.
        bulk: Whether clients transfer much data, so that queries should not share a CPU core with them.
        privileged_only: Returns, given the options, whether only source ports below 1024 may connect.
        abort_limit: The number of consecutive aborted handshakes after which a server blocks their source address.
            None: servers do not count them.
        tap: Creates a tap that measures latency in the traffic. None: the protocol alternates requests and responses.
        cancels: Recognizes cancel requests on connections of their own. Excludes `tap`.
        prompt: Seconds without a response to a client after which the target is suspect. None: responses may take any
            time.
        volume: Returns the Docker volume for the options and the listener's address; None if none is configured.
        credentials: Reads the certificates that options and check name, and skips those that cannot be read. May
            block.
        verify: Checks the options, the check, and the files that they name. Raises `GatewayError` if they can never
            work.
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

    def __reduce__(self) -> tuple[Callable[[str], "BackendKind"], tuple[str]]:
        return (KINDS.__getitem__, (self.name,))


KINDS: Kinds[BackendKind] = Kinds(__name__, __path__)


@dataclass(frozen=True)
class NoOptions:
    """No keys: for kinds without options or check keys of their own."""
