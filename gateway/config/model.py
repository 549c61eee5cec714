"""Defines the dataclass `Config`, a valid configuration, and the dataclasses of its tunnels and backends."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.backends import BackendKind
from gateway.config.redaction import Redactor
from gateway.config.sections import (
    AuditLogSection,
    GatewaySection,
    LogSection,
    OpsSection,
    ShutdownSection,
    TracesSection,
)
from gateway.config.value_parsers import unix_path
from gateway.contracts.config_types import (
    AT_LEAST_ONE,
    NOT_EMPTY,
    POSITIVE,
    Duration,
    HostPort,
    IpNetwork,
    ListenAddress,
)
from gateway.contracts.states import PathPreference, Preference
from gateway.docker.options import DockerOptions
from gateway.errors import ConfigOrigin
from gateway.fleet.options import FleetOptions
from gateway.tunnels import TunnelKind


@dataclass(frozen=True)
class CommonTunnelOptions:
    """The keys that tunnels of all kinds have.

    Args:
        kind: The kind, for example `ssh`.
        via: The tunnel inside which this tunnel runs; absent: this tunnel connects directly from the gateway's host.
            With a list, this tunnel runs inside the first tunnel of the list that works. If that tunnel fails, this
            tunnel reconnects inside another one.
    """

    kind: str
    via: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CommonCheckOptions:
    """The keys of `check:` that backends of all kinds have.

    Args:
        interval: Time between two probes of a target, with a jitter of 5 %.
        fast_interval: Time between two probes after a change of state, or after failed client connections.
        down_interval: Time between two probes while the target is down. If `interval` is shorter, `interval` applies.
        timeout: Time limit for one whole probe.
        rise: Number of consecutive successes after which a target is up.
        fall: Number of consecutive failures after which a target is down.
    """

    interval: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    fast_interval: Duration = field(default=Duration(1.0), metadata=POSITIVE)
    down_interval: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(3.0), metadata=POSITIVE)
    rise: int = field(default=2, metadata=AT_LEAST_ONE)
    fall: int = field(default=3, metadata=AT_LEAST_ONE)


@dataclass(frozen=True)
class AllowRules:
    """The key `allow`: the clients that may connect. If the value is a list, it sets `networks`.

    Args:
        networks: Allowed source networks; absent: all clients that reach the listener.
        label: The name of a container label, whose value lists the backends that the container may use. The gateway
            refuses clients that it cannot assign to a container.
    """

    networks: tuple[IpNetwork, ...] = field(default=(), metadata=NOT_EMPTY)
    label: str | None = None


@dataclass(frozen=True)
class UnixListener:
    """A unix socket in `listen` that is written as a mapping with further settings.

    Args:
        unix: The path of the socket.
        consumer: Name of the application (consumer) that uses this socket. The status and the metrics show the
            connections to the socket under this name, and `max_connections_per_consumer` limits their number.
            Absent: the connections belong to no consumer.
        uid: Numeric IDs of the users that may connect; absent: all users that the mode of the file allows.
        gid: Numeric IDs of the primary groups whose users may connect; absent: all groups.
    """

    unix: Path
    consumer: str | None = None
    uid: tuple[int, ...] = field(default=(), metadata=NOT_EMPTY)
    gid: tuple[int, ...] = field(default=(), metadata=NOT_EMPTY)

    def __post_init__(self) -> None:
        if not self.unix.is_absolute():
            raise ValueError(f"unix: {str(self.unix)!r} must be an absolute path")
        unix_path(self.unix)


@dataclass(frozen=True)
class TargetOptions:
    """A target that is written as a mapping, with its own `via` instead of the backend's.

    Args:
        address: The address of the server.
        via: The tunnels through which the gateway reaches the target, instead of the backend's `via`.
    """

    address: str
    via: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CommonBackendOptions:
    """The keys that backends of all kinds have.

    Args:
        kind: The kind, for example `mysql`.
        targets: The addresses of the servers, in order of preference. A target may be a mapping with `address` and
            `via`.
        via: The tunnel through which the gateway reaches the targets; absent: it reaches them directly. With a list
            of tunnels, the gateway can reach every target through each of them, and new clients use one that works.
        prefer: The target for new clients: the primary, a replica, or the first target that is up (`order`, or its
            synonym `any`).
        prefer_way: Which tunnel new clients use if several tunnels work: the first one in `via` (`order`), or the one
            with the fastest checks (`latency`).
        listen: Addresses and unix sockets where clients connect; absent: the gateway only checks the backend. A unix
            socket may be a mapping with `unix`, `consumer`, `uid` and `gid`.
        hold: Maximum time that a new client waits while no target can be reached; absent: the default of the kind.
        max_connections: Maximum number of clients, including waiting ones.
        max_connections_per_consumer: Maximum number of clients of one container, or of one source address if the
            gateway does not know the container. Absent: with Docker, 80 % of `max_connections`, so that no container
            can use all connections; without Docker, no limit.
        allow: The clients that may connect: a list of source networks, or a mapping with `networks` and `label`;
            absent: all clients.
    """

    kind: str
    targets: tuple[str | TargetOptions, ...]
    via: tuple[str, ...] | None = None
    prefer: Preference | None = None
    prefer_way: PathPreference = "order"
    listen: tuple[ListenAddress | UnixListener, ...] = ()
    hold: Duration | None = None
    max_connections: int = field(default=1000, metadata=AT_LEAST_ONE)
    max_connections_per_consumer: int | None = field(default=None, metadata=AT_LEAST_ONE)
    allow: AllowRules = field(default_factory=AllowRules, metadata={"shorthand": "networks"})


@dataclass(frozen=True)
class TunnelSpec:
    """A tunnel of the configuration.

    The tunnel runs inside one of the tunnels in `via`. If `via` is empty, the tunnel connects directly.
    """

    name: str
    kind: TunnelKind
    via: tuple[str, ...]
    options: Any
    place: str = field(compare=False, default="")


@dataclass(frozen=True)
class BackendSpec:
    """A backend of the configuration."""

    name: str
    kind: BackendKind
    via: tuple[str, ...]
    targets: tuple[HostPort, ...]
    prefer: Preference
    prefer_way: PathPreference
    listen: tuple[HostPort, ...]
    hold: float
    max_connections: int
    max_connections_per_consumer: int | None
    allow: AllowRules
    check: CommonCheckOptions
    options: Any
    check_options: Any
    sockets: tuple[UnixListener, ...] = ()
    """The unix sockets in `listen` that have further settings, such as `uid`."""
    own_paths: dict[HostPort, tuple[str, ...]] = field(default_factory=dict)
    """The `via` of each target that does not use the backend's `via`."""
    place: str = field(compare=False, default="")

    def paths(self, target: HostPort) -> tuple[str, ...]:
        """Return the tunnels through which the gateway can reach a target; empty for a direct connection."""
        return self.own_paths.get(target, self.via)

    @property
    def tunnels(self) -> tuple[str, ...]:
        """The tunnels to all targets, without duplicates, in the order of the configuration."""
        return tuple(dict.fromkeys(name for target in self.targets for name in self.paths(target)))

    @property
    def has_several_paths(self) -> bool:
        """Whether the backend uses more than one path: several tunnels, or a tunnel and direct connections."""
        return len({self.paths(target) for target in self.targets}) > 1 or len(self.tunnels) > 1


@dataclass(frozen=True)
class Config:
    """A valid configuration."""

    gateway: GatewaySection = field(default_factory=GatewaySection)
    ops: OpsSection = field(default_factory=OpsSection)
    shutdown: ShutdownSection = field(default_factory=ShutdownSection)
    log: LogSection = field(default_factory=LogSection)
    audit: AuditLogSection = field(default_factory=AuditLogSection)
    fleet: FleetOptions = field(default_factory=FleetOptions)
    traces: TracesSection = field(default_factory=TracesSection)
    docker: DockerOptions | None = None
    tunnels: dict[str, TunnelSpec] = field(default_factory=dict)
    backends: dict[str, BackendSpec] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict, compare=False)
    """The place of each value, by dotted key: its file, line and column; or its environment variable; or its flag."""
    origin: ConfigOrigin = field(default_factory=ConfigOrigin, compare=False)
    """The file, environment variables and flags from which the configuration comes."""
    redactor: Redactor = field(default_factory=Redactor, compare=False, repr=False)
    """Redacts the values of environment variables in error messages."""
    direct: tuple[str, ...] = field(default=(), compare=False)
    """The IP addresses that the gateway dials without a tunnel. The gateway's Docker networks must not contain these
    addresses. Empty if the configuration has no section `docker`."""
    servers: dict[str, tuple[HostPort, ...]] = field(default_factory=dict, compare=False)
    """The server addresses of each tunnel that has several tunnels in `via`, by tunnel name."""
