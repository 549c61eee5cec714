"""Derives the role of a target from an HTTP response, for the kind `http` and for databases with `via_http`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.backend_support import http_request
from gateway.backend_support.check_stream import CheckDialer
from gateway.backend_support.http_request import HttpResponse
from gateway.backend_support.role_facts import READ_ONLY
from gateway.backend_support.tls import TlsOptions
from gateway.contracts.backend import Backend, ProbeResult
from gateway.contracts.link import Connector
from gateway.contracts.phases import Phases
from gateway.contracts.states import DatabaseRole
from gateway.contracts.values import PORT, Endpoint
from gateway.errors import LinkLostError, ProbeError, ReachError, Reason

_PRIMARY = ("primary", "master", "leader", "writer")
_REPLICA = ("replica", "standby", "standby_leader", "secondary", "slave", "follower", "reader")


@dataclass(frozen=True)
class HttpRole:
    """Where a response contains the role of the target. Set either `json` or `header`.

    Args:
        json: The path of a field in the JSON body, with dots between names; a number selects an item of a list.
        header: The name of a header field.
        primary: The values that mean primary, without regard to case.
        replica: The values that mean replica, without regard to case.
    """

    json: str | None = None
    header: str | None = None
    primary: tuple[str, ...] = _PRIMARY
    replica: tuple[str, ...] = _REPLICA

    def __post_init__(self) -> None:
        if (self.json is None) == (self.header is None):
            raise ValueError("needs either json or header")
        if self.json is not None and not all(self.json.split(".")):
            raise ValueError("json: has an empty name: write it like node.role")
        if self.header is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", self.header):
            raise ValueError("header: is not the name of a header field")
        both = {each.lower() for each in self.primary} & {each.lower() for each in self.replica}
        if both:
            raise ValueError(f"replica: {min(both)} means primary, too: remove one of them")


@dataclass(frozen=True)
class HttpExpectation:
    """The request of a check over HTTP, and the expected response. Redirects are not followed.

    Args:
        path: The path to request, optionally with a query.
        status: The status codes that mean success.
        role: Where the response contains the role of the target.
        host: The Host header; absent: host and port of the target.
    """

    path: str = "/"
    status: tuple[int, ...] = (200,)
    role: HttpRole | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"/[!-~]*", self.path) or "#" in self.path:
            raise ValueError("path: must begin with / and contain no spaces: percent-encode other characters")
        for each in self.status:
            if not 200 <= each <= 599:
                raise ValueError(f"status: {each} is not a final status code: use 200 to 599")
        if not self.status:
            raise ValueError("status: needs at least one status code")
        if self.host is not None and not re.fullmatch(r"[!-~]+", self.host):
            raise ValueError("host: must be a host name, optionally with a port")


@dataclass(frozen=True)
class ViaHttp(HttpExpectation):
    """An HTTP server on the target's host that reports the role of a database.

    Args:
        port: The port of the HTTP server.
        role: Where the response contains the role. Absent: `status` means primary, and every other status replica.
        tls: TLS settings of the connection to the HTTP server.
    """

    port: int = field(kw_only=True, metadata=PORT)
    tls: TlsOptions = field(default_factory=TlsOptions)

    def server(self, target: Endpoint) -> Endpoint:
        """Return the address of the HTTP server for a target."""
        return Endpoint(target.host, self.port)


def check_status(expected: HttpExpectation, response: HttpResponse) -> None:
    """Check the status of a response.

    Args:
        expected: The expected response.
        response: The response.

    Raises:
        ProbeError: The status is not expected.
    """
    if response.status in expected.status:
        return
    detail = f"{expected.path}: status {response.status}, expected {', '.join(map(str, expected.status))}"
    if response.status in (401, 403):
        raise ProbeError(Reason.AUTH, f"{detail}: the server requires another login")
    if 300 <= response.status < 400:
        detail += f": redirects are not followed (to {response.headers.get('Location', 'an unknown place')})"
    raise ProbeError(Reason.QUERY, detail)


def role_result(role: HttpRole, response: HttpResponse) -> ProbeResult:
    """Return the role that a response contains. With a value that is not a known role, the target is unusable.

    Args:
        role: Where the response contains the role.
        response: The response.

    Raises:
        ProbeError: The response does not contain the field.
    """
    where = role.json or role.header
    value = (
        _json_value(role.json, response.body) if role.json is not None else response.headers.get(role.header or "")
    )
    if value is None:
        raise ProbeError(Reason.PROTOCOL, f"the response does not contain {where}: correct the key role of the check")
    text = value.strip().lower()
    if text in map(str.lower, role.primary):
        return of_role("primary")
    if text in map(str.lower, role.replica):
        return of_role("replica")
    detail = f"{where} is {value[:80]!r}: if this is a role, add it to primary or replica of the key role"
    return ProbeResult(read_only=True, facts={READ_ONLY: True}, unusable=(Reason.ROLE, detail))


def of_role(role: DatabaseRole) -> ProbeResult:
    """Return the result for a target with this role."""
    read_only = role == "replica"
    return ProbeResult(role=role, read_only=read_only, facts={READ_ONLY: read_only})


def _json_value(path: str, body: bytes) -> str | None:
    """Return the text of a field of a JSON document; None if it is absent, a list or an object."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProbeError(Reason.PROTOCOL, "the body is not valid JSON") from error
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and len(name) < 7 and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


class _RoleOverHttp:
    """A backend whose role an HTTP server reports; see `gateway.contracts.backend.Backend`.

    Args:
        backend: The backend without the role.
        via_http: The HTTP server.
    """

    def __init__(self, backend: Backend, via_http: ViaHttp) -> None:
        self._backend = backend
        self._via_http = via_http
        self._dialer = CheckDialer(via_http.tls, http_request.MAX_RESPONSE, "check.via_http.tls")

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """See `gateway.contracts.backend.Backend`: request the role, then probe the database."""
        try:
            result = await self._request_role(link, self._via_http.server(target), phases)
        except LinkLostError:
            raise
        except ReachError as error:
            # A refused request is not a failed login to the database.
            reason = Reason.QUERY if error.reason is Reason.AUTH else error.reason
            raise ProbeError(reason, f"via_http, port {self._via_http.port}: {error.detail}") from error
        if result.unusable:
            return result
        try:
            found = await self._backend.probe(link, target, phases)
        except ProbeError as error:
            if error.reason is not Reason.AUTH:
                raise
            return replace(result, degraded=(error.reason, error.detail))
        read_only = bool(result.read_only or found.read_only)
        facts = {**found.facts, READ_ONLY: read_only}
        return replace(found, role=result.role, read_only=read_only, facts=facts, unprobed=None)

    async def _request_role(self, link: Connector, server: Endpoint, phases: Phases) -> ProbeResult:
        via = self._via_http
        async with self._dialer.open(link, server, phases) as stream:
            with phases("query"):
                response = await http_request.get(stream, via.path, via.host or str(server))
        if via.role is None:
            return of_role("primary" if response.status in via.status else "replica")
        check_status(via, response)
        return role_result(via.role, response)


def with_http_role(backend: Backend, via_http: ViaHttp | None) -> Backend:
    """Return a backend that takes its role from an HTTP server.

    Args:
        backend: The backend.
        via_http: The HTTP server; None: return `backend`.
    """
    return backend if via_http is None else _RoleOverHttp(backend, via_http)
