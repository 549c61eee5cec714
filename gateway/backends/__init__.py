"""The kinds of backend. Each module defines one kind as `KIND`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.backend_support.volume import MountKind, VolumeOptions, VolumeSpec
from gateway.cancel_protocol import CancelProtocol
from gateway.contracts.backend import Backend
from gateway.contracts.security import Credential, InsecureSetting
from gateway.contracts.states import TrafficClass
from gateway.contracts.values import Duration, Endpoint
from gateway.facts import Fact
from gateway.kinds import Kinds
from gateway.measure import TapFactory


class ConfiguredBackend(Protocol):
    """The parts of a backend's configuration that advice depends on."""

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def via(self) -> str | None:
        """The tunnel; None: direct."""

    @property
    def targets(self) -> tuple[Endpoint, ...]:
        """The targets."""


@dataclass(frozen=True)
class ImportRules:
    """How `gateway import` writes a backend of a kind.

    Args:
        other_ports: Ports of the service beside `default_port`.
        keys: Required keys, with values that the user must replace.
        note: What the user must change or add. Empty: nothing.
    """

    other_ports: tuple[int, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def without_path(scheme: str, path: str) -> dict[str, str]:
    """Return no keys, and refuse a path. Kinds whose URLs have no path use this function as `read_url`.

    Args:
        scheme: The scheme of the URL.
        path: The path of the URL.

    Raises:
        ValueError: There is a path.
    """
    if path.strip("/"):
        raise ValueError(f"a {scheme} URL has no path: remove {path!r}")
    return {}


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend, with all properties that other packages need.

    Args:
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that only this kind has.
        check: A frozen dataclass with the keys of `check` that only this kind has.
        create: Creates a backend from the options and the check.
        schemes: The URL schemes of the short form.
        default_port: The port of targets that name none. 0: every target must name one.
        aliases: Other names of the service, to suggest `name` for.
        read_url: Returns configuration keys, with dots for nested ones, from a URL's scheme and its decoded path,
            which is empty or starts with a slash. Raises `ValueError` if the path is not valid.
        hold: How long clients wait by default while the path is down.
        has_roles: Whether a target is either a primary or a replica.
        traffic_class: `BULK`: the backend's clients get SSH connections and, if there are workers, processes of
            their own.
        mount: How kernels mount the backend. None: programs connect to it.
        facts: The facts that probes report, in the order in which they are shown.
        privileged_only: Returns, given the options, whether only source ports below 1024 may connect.
        abort_limit: The number of consecutive aborted handshakes after which a server blocks their source address.
            None: servers do not count them.
        tap: Creates a tap that measures latency in the traffic. None: the protocol alternates requests and responses.
        cancels: Recognizes cancel requests on separate connections. Excludes `tap`.
        prompt: Seconds without a response to a client after which the target is suspect. None: responses may take any
            time.
        imports: How `gateway import` writes a backend.
        advice: Yields warnings about all configured backends of this kind. Each names the backend and the remedy.
        insecure_settings: Yields the insecure settings in the options and the check, given whether the path to a
            target is unencrypted and leaves this host.
        credentials: Reads the certificates that options and check name, and skips those that cannot be read. May
            block.
        verify: Checks the options, the check, and the files that they name. Raises `GatewayError` if they can never
            work.
    """

    name: str
    options: type
    check: type
    create: Callable[[Any, Any], Backend]
    schemes: tuple[str, ...]
    default_port: int
    aliases: tuple[str, ...] = ()
    read_url: Callable[[str, str], Mapping[str, str]] = without_path
    hold: Duration = Duration(10.0)
    has_roles: bool = False
    traffic_class: TrafficClass = TrafficClass.INTERACTIVE
    mount: MountKind | None = None
    facts: tuple[Fact, ...] = ()
    privileged_only: Callable[[Any], bool] = lambda _: False
    abort_limit: int | None = None
    tap: TapFactory | None = None
    cancels: CancelProtocol | None = None
    prompt: float | None = None
    imports: ImportRules = field(default_factory=ImportRules)
    advice: Callable[[Sequence[ConfiguredBackend]], Iterator[str]] = lambda _: iter(())
    insecure_settings: Callable[[Any, Any, bool], Iterator[InsecureSetting]] = lambda *_: iter(())
    credentials: Callable[[Any, Any], list[Credential]] = lambda _options, _check: []
    verify: Callable[[Any, Any], None] = lambda _options, _check: None

    @property
    def kernel_mounts(self) -> bool:
        """Whether kernels mount the backend, so that it must be reachable from the network namespace of the host."""
        return self.mount is not None

    @property
    def ports(self) -> frozenset[int]:
        """The ports at which a service is probably of this kind."""
        return frozenset((self.default_port, *self.imports.other_ports)) - {0}

    def volume_options(self, options: Any) -> VolumeOptions | None:
        """Return the Docker volume that the options configure; None if there is none."""
        volume: VolumeOptions | None = options.volume if self.mount else None
        return volume

    def volume(self, options: Any, listen: Sequence[Endpoint | Path], hold: float) -> VolumeSpec | None:
        """Return the definition of that volume; None if there is none, or if the backend has no address.

        Args:
            options: The options.
            listen: The listeners of the backend. The volume mounts from the first address.
            hold: The seconds for which the backend holds a client.
        """
        listener = next((address for address in listen if isinstance(address, Endpoint)), None)
        return self.mount.build(options, listener, hold) if self.mount and listener else None

    def __reduce__(self) -> tuple[Callable[[str], "BackendKind"], tuple[str]]:
        return (KINDS.__getitem__, (self.name,))


KINDS: Kinds[BackendKind] = Kinds(__name__, __path__)


def kind_of_port(port: int) -> BackendKind:
    """Return the kind of backend that usually has this port; `tcp` for any other port."""
    return next((kind for kind in KINDS.values() if port in kind.ports), KINDS["tcp"])


def kind_of_file_system(file_system: str) -> BackendKind | None:
    """Return the kind of backend that a Docker volume mounts.

    Args:
        file_system: The value of the volume's option `type`.
    """
    return next((kind for kind in KINDS.values() if kind.mount and kind.mount.mounts(file_system)), None)


@dataclass(frozen=True)
class NoOptions:
    """A dataclass without keys, for kinds that define no options or no check keys."""
