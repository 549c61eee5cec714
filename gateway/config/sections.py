"""Defines the dataclasses of the sections with a fixed set of keys, such as `gateway`, `ops` and `log`."""

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gateway import default_file_paths
from gateway.config.value_parsers import LogTarget, ThreadCount
from gateway.contracts.config_types import AT_LEAST_ONE, Duration, HostPort
from gateway.contracts.tls_server_files import TlsServerFiles
from gateway.fleet.options import FleetOptions
from gateway.tls_client_context import TlsClientFiles


@dataclass(frozen=True)
class GatewaySection:
    """The section `gateway`: name, state directory, threads and strict mode.

    Args:
        instance: The gateway's name in logs, status and labels; absent: the hostname. With a section `docker`, the
            gateway stores the hostname in `state_dir`, so that the name does not change later. The gateway refuses a
            container ID as its name, because a recreated container has another ID. If the hostname is a container
            ID, set this key.
        state_dir: Folder for data that must survive a restart. The default for a user who cannot write to
            /var/lib/gateway is `$XDG_STATE_HOME/gateway` (~/.local/state/gateway).
        threads: Number of threads of the native engine, which moves the bytes of clients; `auto`: one for each
            processor, up to 4. A change needs a restart.
        workers: Deprecated synonym of `threads`, where 0 means `auto`. The gateway warns if it is set.
        reload_on_change: Reload the configuration when its file changes, and log in again to a tunnel's server when
            the tunnel's key file changes.
        strict: Refuse insecure settings, and let Docker containers use only the backends that `docker.grants` allow;
            see docs/secrets.md.
    """

    instance: str = field(default_factory=socket.gethostname)
    state_dir: Path = field(default_factory=default_file_paths.state_dir)
    threads: ThreadCount = "auto"
    workers: int | None = None
    reload_on_change: bool = True
    strict: bool = False


@dataclass(frozen=True)
class OpsSection:
    """The section `ops`: the HTTP servers for health, metrics and status, and the admin socket.

    Args:
        listen: Address of the HTTP server for health, metrics and status.
        probe_listen: Address of a second HTTP server for `/livez`, `/startupz` and `/readyz` only, without TLS and
            authentication.
        admin_socket: Unix socket for commands. Only the owner of the socket can use it. The default for a user who
            cannot write to /run/gateway is `$XDG_RUNTIME_DIR/gateway/admin.sock`. If this variable is not set, the
            default is /tmp/gateway-UID/admin.sock.
        hosts: Names that `listen` and `probe_listen` accept in the Host header, in addition to their addresses and
            localhost. The response to a request for another name has the status 421.
        token_file: A file with a token, which clients send as `Authorization: Bearer`. With the token, clients can
            use all endpoints; without the token, only the health endpoints, such as `/livez`.
        metrics_token_file: A file with another token, with which clients can read only `/metrics` and `/api/v1/sd`.
        tls: Certificate and key for `listen`; absent: plain HTTP.
    """

    listen: HostPort = HostPort("127.0.0.1", 9090)
    probe_listen: HostPort | None = None
    admin_socket: Path = field(default_factory=default_file_paths.admin_socket)
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    tls: TlsServerFiles | None = None

    @property
    def authenticated(self) -> bool:
        """Whether clients of `listen` need a token or a certificate for all endpoints except the health endpoints."""
        return self.token_file is not None or (self.tls is not None and self.tls.client_ca_file is not None)


@dataclass(frozen=True)
class ShutdownSection:
    """The section `shutdown`: the duration of each step of a shutdown.

    Args:
        delay: Time during which the gateway reports not ready, but still accepts clients, so that load balancers can
            react.
        drain: Time after `delay` for open connections to finish. The gateway accepts no new connections during this
            time.
    """

    delay: Duration = Duration(5.0)
    drain: Duration = Duration(20.0)


@dataclass(frozen=True)
class LogSection:
    """The section `log`: level and format of the service's log.

    Args:
        level: The lowest level to log.
        format: `auto` is `text` on a terminal and `json` elsewhere.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


@dataclass(frozen=True)
class AuditLogSection:
    """The section `audit`: the audit log, in JSON lines; see docs/audit-log.md.

    Args:
        log: A file, `stdout` or `stderr`; absent: no audit log.
        queue: Maximum number of events that wait while the file cannot be written. If the queue is full, the gateway
            drops further events, counts them, and logs an error.
    """

    log: LogTarget | None = None
    queue: int = field(default=10_000, metadata=AT_LEAST_ONE)


@dataclass(frozen=True)
class TracesSection:
    """The section `traces`: one span for each client connection; see docs/traces.md. Requires the extra `otel`.

    Args:
        endpoint: The URL of an OpenTelemetry collector (OTLP over HTTP), with its path; absent: no traces.
        token_file: A file with the token that the gateway sends as `Authorization: Bearer`.
        tls: Certificates for an `https://` URL.
        sample_percent: The percentage of connections for which the gateway sends a span.
    """

    endpoint: str | None = None
    token_file: Path | None = None
    tls: TlsClientFiles = field(default_factory=TlsClientFiles)
    sample_percent: int = field(default=100, metadata={"least": 1, "most": 100})

    def __post_init__(self) -> None:
        if self.endpoint is not None and not re.match(r"https?://[^/?#@\s]+/\S", self.endpoint):
            raise ValueError("endpoint: must be a URL with a path, such as http://collector:4318/v1/traces")
        try:
            parts = urlsplit(self.endpoint or "")
            _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(
                f"endpoint: {error}: correct the host and the port, and use brackets only for an IPv6 address"
            ) from error


SECTIONS: dict[str, type] = {
    "gateway": GatewaySection,
    "ops": OpsSection,
    "shutdown": ShutdownSection,
    "log": LogSection,
    "audit": AuditLogSection,
    "fleet": FleetOptions,
    "traces": TracesSection,
}
"""The sections whose keys can also be set by flags and environment variables."""
