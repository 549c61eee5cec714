"""What a valid configuration is: frozen dataclasses, compared by value when it is reloaded."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gateway.backends import BackendKind
from gateway.config.hiding import Hidden
from gateway.config.values import LogTarget, Network, unix_path
from gateway.contracts import AT_LEAST_ONE, POSITIVE, Duration, Endpoint, Preference
from gateway.docker.options import DockerOptions
from gateway.errors import Origin
from gateway.tunnels import TunnelKind


@dataclass(frozen=True)
class GatewaySection:
    """This gateway itself.

    Args:
        instance: Its name in logs, status and labels. With a section `docker`, a hostname is written to `state_dir`
            and stays, and one that is only the container's ID is refused.
        state_dir: Where it keeps what must outlive it.
        workers: Processes that carry the bulk backends' bytes beside this one; 0: one process does everything.
        reload_on_change: Reload when the configuration file changes, and log in anew when a tunnel's key does.
        strict: Refuse insecure settings, and give Docker's containers nothing but `docker.grants`; see
            docs/secrets.md.
    """

    instance: str = field(default_factory=socket.gethostname)
    state_dir: Path = Path("/var/lib/gateway")
    workers: int = 0
    reload_on_change: bool = True
    strict: bool = False


@dataclass(frozen=True)
class OpsTls:
    """TLS 1.2 and later on `ops.listen`; the files are read again when they change.

    Args:
        cert_file: The certificate in PEM, with the intermediate ones after it.
        key_file: Its private key, without a passphrase.
        client_ca_file: Certificate authorities of clients: a certificate that one has signed opens everything.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True)
class OpsSection:
    """How people and machines look at it.

    Args:
        listen: Address of the HTTP server for health, metrics and status.
        probe_listen: Address of a second HTTP server, for `/livez`, `/startupz` and `/readyz` only: without TLS and
            authentication.
        admin_socket: Unix socket for commands; only its owner can use it.
        hosts: Names under which `listen` and `probe_listen` are asked (the Host header) beside their addresses and
            localhost; requests to others get 421.
        token_file: A file with a token, which clients send as `Authorization: Bearer`. It opens everything; without
            it only probes are answered.
        metrics_token_file: A file with another token, which opens `/metrics` only.
        tls: Certificate and key for `listen`; absent: plain HTTP.
    """

    listen: Endpoint = Endpoint("127.0.0.1", 9090)
    probe_listen: Endpoint | None = None
    admin_socket: Path = Path("/run/gateway/admin.sock")
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    tls: OpsTls | None = None

    @property
    def authenticated(self) -> bool:
        """Whether a client of `listen` needs a token or a certificate for more than probes."""
        return self.token_file is not None or (self.tls is not None and self.tls.client_ca_file is not None)


@dataclass(frozen=True)
class ShutdownSection:
    """How it stops.

    Args:
        delay: Not ready, but still accepting, so that load balancers can look away.
        drain: Then no new connections; this long for the open ones to end.
    """

    delay: Duration = Duration(5.0)
    drain: Duration = Duration(20.0)


@dataclass(frozen=True)
class LogSection:
    """What it tells.

    Args:
        level: The least severe messages to show.
        format: `auto` is `text` on a terminal and `json` elsewhere.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


@dataclass(frozen=True)
class AuditSection:
    """Who did what, one JSON line each: docs/audit-log.md.

    Args:
        log: A file, `stdout` or `stderr`; absent: there is no audit log.
        queue: Events that wait while the file takes none; those beyond are dropped, counted and said in the log.
    """

    log: LogTarget | None = None
    queue: int = field(default=10_000, metadata=AT_LEAST_ONE)


@dataclass(frozen=True)
class TunnelCommon:
    """The keys that every kind of tunnel has.

    Args:
        kind: Which kind.
        via: The tunnel that it goes through; absent: straight from this host.
    """

    kind: str
    via: str | None = None


@dataclass(frozen=True)
class CheckCommon:
    """The keys of `check:` that every kind of backend has.

    Args:
        interval: Between two checks of a target, with a jitter of 5 %.
        fast_interval: After a change, or when real traffic failed.
        down_interval: While the target is down, where `interval` is not shorter.
        timeout: For one check in all.
        rise: Successes in a row that bring a target up.
        fall: Failures in a row that take it down.
    """

    interval: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    fast_interval: Duration = field(default=Duration(1.0), metadata=POSITIVE)
    down_interval: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(3.0), metadata=POSITIVE)
    rise: int = field(default=2, metadata=AT_LEAST_ONE)
    fall: int = field(default=3, metadata=AT_LEAST_ONE)


@dataclass(frozen=True)
class Allow:
    """Who may connect; in short, a list of networks.

    Args:
        networks: Source networks; absent: everybody who reaches the listener.
        label: A label on containers that lists the backends they may use; only known containers get in.
    """

    networks: tuple[Network, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class UnixListener:
    """A unix socket for one consumer, or for some users.

    Args:
        unix: Its path.
        consumer: Whose connections these are, in the status, in metrics and for quotas; absent: none.
        uid: Users whose processes may connect, as numbers; absent: all that the file's mode lets in.
        gid: Groups, of which one must be the process's main one; absent: all.
    """

    unix: Path
    consumer: str | None = None
    uid: tuple[int, ...] = ()
    gid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.unix.is_absolute():
            raise ValueError(f"unix: {str(self.unix)!r} must be an absolute path")
        unix_path(self.unix)


@dataclass(frozen=True)
class BackendCommon:
    """The keys that every kind of backend has.

    Args:
        kind: Which kind.
        targets: Where it really is, in order of preference.
        via: The tunnel that the targets are behind; absent: straight from this host.
        prefer: Which target new clients get: the primary, a replica, any, or the first one that is up.
        listen: Addresses and unix sockets where clients connect; absent: the backend is only checked. A unix socket
            may be a mapping that says whose it is.
        hold: How long a client waits while the path is down; absent: 10s, and 5m for NFS.
        max_connections: Clients at once, waiting ones included.
        max_connections_per_consumer: Clients of one container at once (of one address, where containers are not
            known); absent: four fifths of `max_connections` for known containers, so that one cannot take all.
        allow: Networks that may connect, as a list, or `{label: gateway.backends}`; absent: everybody.
        worker: Whether a worker carries it, where there are workers; absent: bulk kinds only.
    """

    kind: str
    targets: tuple[str, ...]
    via: str | None = None
    prefer: Preference | None = None
    listen: tuple[Endpoint | Path | UnixListener, ...] = ()
    hold: Duration | None = None
    max_connections: int = field(default=1000, metadata=AT_LEAST_ONE)
    max_connections_per_consumer: int | None = field(default=None, metadata=AT_LEAST_ONE)
    allow: Allow = field(default_factory=Allow, metadata={"shorthand": "networks"})
    worker: bool | None = None


@dataclass(frozen=True)
class TunnelSpec:
    """One tunnel of the configuration."""

    name: str
    kind: TunnelKind
    via: str | None
    options: Any
    place: str = field(compare=False, default="")


@dataclass(frozen=True)
class BackendSpec:
    """One backend of the configuration."""

    name: str
    kind: BackendKind
    via: str | None
    targets: tuple[Endpoint, ...]
    prefer: Preference
    listen: tuple[Endpoint | Path, ...]
    hold: float
    max_connections: int
    max_connections_per_consumer: int | None
    allow: Allow
    worker: bool | None
    check: CheckCommon
    options: Any
    check_options: Any
    sockets: tuple[UnixListener, ...] = ()
    """Those of the unix sockets in `listen` that say whose they are."""
    place: str = field(compare=False, default="")


@dataclass(frozen=True)
class Config:
    """A whole valid configuration."""

    gateway: GatewaySection = field(default_factory=GatewaySection)
    ops: OpsSection = field(default_factory=OpsSection)
    shutdown: ShutdownSection = field(default_factory=ShutdownSection)
    log: LogSection = field(default_factory=LogSection)
    audit: AuditSection = field(default_factory=AuditSection)
    docker: DockerOptions | None = None
    tunnels: dict[str, TunnelSpec] = field(default_factory=dict)
    backends: dict[str, BackendSpec] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict, compare=False)
    """Where each value was written, by its key."""
    origin: Origin = field(default_factory=Origin, compare=False)
    """What it was read from."""
    hidden: Hidden = field(default_factory=Hidden, compare=False, repr=False)
    """What errors must not show."""


SECTIONS: dict[str, type] = {
    "gateway": GatewaySection,
    "ops": OpsSection,
    "shutdown": ShutdownSection,
    "log": LogSection,
    "audit": AuditSection,
}
"""The sections with one value per key: each is also a flag and an environment variable."""
