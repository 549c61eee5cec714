"""Defines the kinds of backend. Each module, such as `mysql`, defines one kind in its variable `KIND`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.backend_support.kernel_mount_properties import KernelMountProperties
from gateway.backend_support.volume_definition import VolumeOptions, VolumeSpec
from gateway.connection_tap import TapFactory
from gateway.contracts.backend import Backend
from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.states import TrafficClass
from gateway.facts import FactDefinition
from gateway.kind_registry import KindRegistry
from gateway.query_cancel_parser import QueryCancelParser
from gateway.remedies import TARGET_REMEDIES


class BackendSettings(Protocol):
    """The settings of one backend, from which the function `BackendKind.advice` derives warnings."""

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def hold(self) -> float:
        """Maximum number of seconds for which a new client waits while no target can be reached."""

    def paths(self, target: HostPort) -> tuple[str, ...]:
        """Return the names of the tunnels to a target; empty if the gateway connects to the target directly."""

    @property
    def targets(self) -> tuple[HostPort, ...]:
        """The addresses of the backend's servers."""


@dataclass(frozen=True)
class ImportedBackendDefaults:
    """How `gateway import` and `gateway init` recognize and configure backends of one kind.

    Args:
        other_ports: Usual ports of the service in addition to `default_port`.
        keys: Required keys, with placeholder values that the user must replace.
        note: A note to the user about keys to change or add; empty for no note.
        password_without_user: Whether the check can log in with a password if no user name is configured.
        driver_names: Names of drivers and client libraries for this kind, as in `mysql2://db/shop` or
            `DB_CONNECTION=pgsql`.
        common_protocol: Whether services of many kinds use the protocol. If so, a URL scheme or a word such as `tcp`
            does not determine the kind of a service.
        is_guess: Whether `gateway import` assumes this kind for a database if it finds neither a kind nor a port.
            Exactly one kind has this property.
    """

    other_ports: tuple[int, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    password_without_user: bool = False
    driver_names: tuple[str, ...] = ()
    common_protocol: bool = False
    is_guess: bool = False


def without_path(scheme: str, path: str) -> dict[str, str]:
    """Raise an error if a URL contains a path. Kinds whose URLs have no path use this function as `read_url`.

    Args:
        scheme: The scheme of the URL.
        path: The path of the URL.

    Returns:
        An empty dictionary, because the URL contains no configuration keys.

    Raises:
        ValueError: The URL contains a path.
    """
    if path.strip("/"):
        raise ValueError(f"a {scheme} URL must not have a path: remove {path!r}")
    return {}


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend, such as `mysql`: its options, and the functions that create and describe its backends.

    Args:
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that only this kind has. A field that can contain a secret must have
            the type `Secret` or the metadata `SENSITIVE`.
        check: A frozen dataclass with the keys of `check` that only this kind has.
        create: Receives the options and the check, and returns a new backend.
        schemes: The schemes of the URLs that can configure backends of this kind.
        default_port: The port of targets without a port in the configuration; 0 if every target must have a port.
        aliases: Other names of the service. If the configuration uses one as `kind`, the error suggests `name`.
        read_url: Receives the scheme and the decoded path of a URL, and returns configuration keys, with dots for
            nested keys. The path is empty or starts with a slash. Raises `ValueError` if the path is not valid.
        hold: Default of the key `hold`: the maximum time for which clients wait while no target can be reached.
        endpoints: Receives the check and a target. Returns the endpoints that the gateway dials for the clients and
            the checks of this target.
        has_roles: Receives the check, and returns whether each target has a role: primary or replica.
        traffic_class: The class of the clients' traffic. Clients of class `BULK` use separate SSH connections,
            and so do not delay the clients of other backends.
        mount: How kernels mount the backend; None if programs connect to the backend directly.
        facts: The facts (values for the status and the metrics) that probes report, in display order.
        privileged_only: Receives the options. Returns whether the gateway refuses clients with a source port above
            1023.
        abort_limit: The number of consecutive aborted handshakes after which a server blocks the source address.
            None if servers of this kind do not count aborted handshakes.
        tap: Creates a tap, which parses the traffic to measure the latency. If `tap` is set, the native
            engine accepts no clients of these backends: Python code accepts them. None if requests and responses
            alternate strictly, because the relay can then measure the latency without a tap.
        cancels: Recognizes cancel requests, if clients send them on separate connections. Must be None if `tap` is
            set.
        response_timeout: Maximum seconds that a target may take to respond to a client. If the target takes longer,
            the gateway counts the delay as a failed probe, and probes the target immediately. None: no limit.
        imports: How `gateway import` and `gateway init` configure backends of this kind.
        advice: Receives the settings of all configured backends of this kind, and yields warnings. Each warning names
            the backend and the remedy.
        insecure_settings: Receives the options, the check, and whether traffic to a target leaves this host
            unencrypted. Yields the insecure settings. Reads no file contents, only the permissions of program files.
        credentials: Receives the options and the check, and returns the certificates in the configured files.
            Skips unreadable files. Can block.
        init_keys: The keys of `check` that `gateway init` asks for. For a secret, the command asks for a file path.
        verify: Checks the options, the check, and the configured files. Raises `GatewayError` if the operator
            must change an option or a file.
        remedies: The remedies of this kind, by reason, where they differ from `gateway.remedies.TARGET_REMEDIES`.
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
    endpoints: Callable[[Any, HostPort], tuple[HostPort, ...]] = lambda _check, target: (target,)
    has_roles: Callable[[Any], bool] = lambda _: False
    traffic_class: TrafficClass = TrafficClass.INTERACTIVE
    mount: KernelMountProperties | None = None
    facts: tuple[FactDefinition, ...] = ()
    privileged_only: Callable[[Any], bool] = lambda _: False
    abort_limit: int | None = None
    tap: TapFactory | None = None
    cancels: QueryCancelParser | None = None
    response_timeout: float | None = None
    imports: ImportedBackendDefaults = field(default_factory=ImportedBackendDefaults)
    advice: Callable[[Sequence[BackendSettings]], Iterator[str]] = lambda _: iter(())
    insecure_settings: Callable[[Any, Any, bool], Iterator[InsecureSetting]] = lambda *_: iter(())
    credentials: Callable[[Any, Any], list[MonitoredCertificate]] = lambda _options, _check: []
    init_keys: tuple[str, ...] = ()
    verify: Callable[[Any, Any], None] = lambda _options, _check: None
    remedies: Mapping[str, str] = field(default_factory=dict)

    @property
    def kernel_mounts(self) -> bool:
        """Whether the kernel mounts the backend. If so, the kernel connects from the host's network namespace."""
        return self.mount is not None

    @property
    def path_key(self) -> str:
        """See `KernelMountProperties.path_key`; empty if the kernel does not mount the backend."""
        return self.mount.path_key if self.mount else ""

    @property
    def ports(self) -> frozenset[int]:
        """The usual ports of services of this kind."""
        return frozenset((self.default_port, *self.imports.other_ports)) - {0}

    def volume_options(self, options: Any) -> VolumeOptions | None:
        """Return the options of the backend's Docker volume; None if no volume is configured."""
        volume: VolumeOptions | None = options.volume if self.mount else None
        return volume

    def volume(self, options: Any, listen: Sequence[HostPort], hold: float) -> VolumeSpec | None:
        """Return the definition of the Docker volume; None if no volume is configured, or if no listener uses TCP.

        Args:
            options: The options.
            listen: The listeners of the backend. The volume uses the first one that is not a unix socket.
            hold: Maximum seconds that a new client waits while no target can be reached.
        """
        listener = next((address for address in listen if not address.is_unix), None)
        return self.mount.build(options, listener, hold) if self.mount and listener else None


KINDS: KindRegistry[BackendKind] = KindRegistry(__name__, __path__)


def target_remedy(kind: str, reason: str | None) -> str:
    """Return the recommended action for a failed target; empty if there is none.

    Args:
        kind: The name of the backend's kind.
        reason: The reason for the failure; None if the target has not failed.
    """
    if reason is None:
        return ""
    remedies = {**TARGET_REMEDIES, **(KINDS[kind].remedies if kind in KINDS else {})}
    return remedies.get(reason, "")


def kind_of_port(port: int) -> BackendKind:
    """Return the kind of backend whose services usually use this port; `tcp` if there is none."""
    return next((kind for kind in KINDS.values() if port in kind.ports), KINDS["tcp"])


def kind_of_file_system(file_system: str) -> BackendKind | None:
    """Return the kind of backend that a Docker volume mounts; None if no kind supports the file system.

    Args:
        file_system: The value of the volume's driver option `type`.
    """
    return next((kind for kind in KINDS.values() if kind.mount and kind.mount.mounts(file_system)), None)


def file_system_of_device(device: str) -> str:
    """Return the type of the file system with which mount(8) mounts a device without `-t`; empty if it is unknown.

    Args:
        device: The device, such as `server:/export`.
    """
    for kind in KINDS.values():
        if kind.mount and kind.mount.device and re.match(kind.mount.device, device):
            return kind.mount.file_systems[0]
    return ""


@dataclass(frozen=True)
class EmptyOptions:
    """The value of `BackendKind.options` or `BackendKind.check` if a kind has no such keys."""
