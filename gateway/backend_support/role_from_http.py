"""Gets the role of a database from an HTTP server on the same host, such as Patroni."""

from dataclasses import dataclass, field, replace

from gateway.backend_support import http_request
from gateway.backend_support.http_probe_options import HttpProbeOptions, check_status, of_role, role_result
from gateway.backend_support.probe_connection import ProbeDialer
from gateway.backend_support.replication_facts import READ_ONLY
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.contracts.backend import Backend, ProbeResult
from gateway.contracts.config_types import PORT, HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, LinkLostError, TargetPathError, UnusableTargetError


@dataclass(frozen=True)
class HttpRoleQueryOptions(HttpProbeOptions):
    """The options of the key `via_http`. An HTTP server on the target's host reports the role of the database.

    Args:
        port: The port of the HTTP server.
        role: Where the response contains the role. If not set, the status code of the response decides: a code in
            the option `status` means primary, and any other code means replica.
        tls: TLS settings of the connection to the HTTP server.
    """

    port: int = field(kw_only=True, metadata=PORT)
    tls: HealthCheckTlsOptions = field(default_factory=HealthCheckTlsOptions)

    def server(self, target: HostPort) -> HostPort:
        """Return the address of the HTTP server on the host of a target."""
        return HostPort(target.host, self.port)


class _BackendWithRoleFromHttp:
    """Wraps a backend, and adds the role to its probe results; implements `Backend`.

    Args:
        backend: The wrapped backend.
        via_http: The HTTP server that reports the role.
    """

    def __init__(self, backend: Backend, via_http: HttpRoleQueryOptions) -> None:
        self._backend = backend
        self._via_http = via_http
        self._dialer = ProbeDialer(via_http.tls, http_request.MAX_RESPONSE, "check.via_http.tls")

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Request the role, then probe the database; see `gateway.contracts.backend.Backend`.

        If the database refuses the login, return the role from the HTTP server, and mark the target as degraded.
        """
        name = f"via_http, port {self._via_http.port}"
        hint, phases.timeout_hint = phases.timeout_hint, f"{name} does not respond"
        try:
            result = await self._request_role(link, self._via_http.server(target), phases)
        except LinkLostError:
            raise
        except TargetPathError as error:
            # If the HTTP server refuses the request, report `QUERY` instead of `AUTH`. `AUTH` means that the database
            # refused the login.
            reason = FailureReason.QUERY if error.reason is FailureReason.AUTH else error.reason
            raise UnusableTargetError(reason, f"{name}: {error.detail}") from error
        except OSError as error:
            raise UnusableTargetError(FailureReason.RESET, f"{name}: {error}") from error
        phases.timeout_hint = hint
        if result.unusable:
            return result
        try:
            found = await self._backend.probe(link, target, phases)
        except UnusableTargetError as error:
            if error.reason is not FailureReason.AUTH:
                raise
            return replace(result, degraded=(error.reason, error.detail))
        read_only = bool(result.read_only or found.read_only)
        facts = {**found.facts, READ_ONLY: read_only}
        return replace(found, role=result.role, read_only=read_only, facts=facts, unprobed=None)

    async def _request_role(self, link: SocketConnector, server: HostPort, phases: PhaseTimer) -> ProbeResult:
        via = self._via_http
        async with self._dialer.open(link, server, phases) as stream:
            with phases("query"):
                response = await http_request.get(stream, via.path, via.host or str(server))
        if via.role is None:
            return of_role("primary" if response.status in via.status else "replica")
        check_status(via, response, "the server requires a login: permit this path without a login")
        return role_result(via.role, response)


def with_http_role(backend: Backend, via_http: HttpRoleQueryOptions | None) -> Backend:
    """Return a backend whose probes request the role from an HTTP server.

    Args:
        backend: The backend to wrap.
        via_http: The HTTP server. If it is None, the function returns `backend`.
    """
    return backend if via_http is None else _BackendWithRoleFromHttp(backend, via_http)
