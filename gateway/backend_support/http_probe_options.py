"""Defines the options of HTTP probes, and evaluates the status code and the role in a response."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.backend_support.http_request import HttpResponse
from gateway.backend_support.replication_facts import READ_ONLY
from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import DatabaseRole
from gateway.errors import FailureReason, UnusableTargetError

_PRIMARY = ("primary", "master", "leader", "writer")
_REPLICA = ("replica", "standby", "standby_leader", "secondary", "slave", "follower", "reader")


@dataclass(frozen=True)
class RoleInResponseOptions:
    """The options of the key `role`: where a response contains the target's role. Set either `json` or `header`.

    Args:
        json: The path of the field that contains the role in the JSON body, with dots between names. A number selects
            an item of a list.
        header: The name of the header field that contains the role.
        primary: The values that mean that the target is a primary. Case is ignored.
        replica: The values that mean that the target is a replica. Case is ignored.
    """

    json: str | None = None
    header: str | None = None
    primary: tuple[str, ...] = _PRIMARY
    replica: tuple[str, ...] = _REPLICA

    def __post_init__(self) -> None:
        if (self.json is None) == (self.header is None):
            raise ValueError("needs json or header, but not both: set one of them")
        if self.json is not None and not all(self.json.split(".")):
            raise ValueError("json: contains an empty name: separate names with a single dot, as in node.role")
        if self.header is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", self.header):
            raise ValueError(
                "header: not a valid name of a header field: use letters, digits and hyphens, as in X-Role"
            )
        both = {each.lower() for each in self.primary} & {each.lower() for each in self.replica}
        if both:
            raise ValueError(f"replica: {min(both)} is also a value of primary: remove it from one of the two lists")


@dataclass(frozen=True)
class HttpProbeOptions:
    """The `check:` keys that define an HTTP request and the expected response. The probe does not follow redirects.

    Args:
        path: The path to request, optionally with a query.
        status: The status codes that mean success.
        role: Where the response contains the role of the target.
        host: The value of the Host header. Absent: the host and port of the target.
    """

    path: str = "/"
    status: tuple[int, ...] = (200,)
    role: RoleInResponseOptions | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"/[!-~]*", self.path) or "#" in self.path:
            raise ValueError(
                "path: must begin with / and contain only visible ASCII except #: percent-encode the rest"
            )
        for each in self.status:
            if not 200 <= each <= 599:
                raise ValueError(f"status: {each} is not a final status code: use 200 to 599")
        if not self.status:
            raise ValueError("status: needs at least one status code")
        if self.host is not None and not re.fullmatch(r"[!-~]+", self.host):
            raise ValueError("host: must be a host name, optionally with a port")


def check_status(expected: HttpProbeOptions, response: HttpResponse, refused: str) -> None:
    """Check the status code of a response.

    Args:
        expected: The expected response.
        response: The received response.
        refused: The cause and the remedy to add to the error message if the status code is 401 or 403.

    Raises:
        UnusableTargetError: The status code is not one of the expected status codes.
    """
    if response.status in expected.status:
        return
    path = expected.path.partition("?")[0]  # omit the query, because it can contain a secret
    detail = f"{path}: status {response.status}, expected {', '.join(map(str, expected.status))}"
    if response.status in (401, 403):
        raise UnusableTargetError(FailureReason.AUTH, f"{detail}: {refused}")
    if 300 <= response.status < 400:
        location = response.headers.get("Location", "an unknown location").partition("?")[0]
        detail += f": redirects are not followed (to {location})"
    raise UnusableTargetError(FailureReason.QUERY, detail)


def role_result(role: RoleInResponseOptions, response: HttpResponse) -> ProbeResult:
    """Return a probe result with the role that a response contains.

    If the value in the response is neither in `role.primary` nor in `role.replica`, the result's field `unusable`
    contains the reason.

    Args:
        role: Where the response contains the role.
        response: The response.

    Raises:
        UnusableTargetError: The response does not contain the field that `role` selects, or the body is not JSON.
    """
    where = role.json or role.header
    value = (
        _json_value(role.json, response.body) if role.json is not None else response.headers.get(role.header or "")
    )
    if value is None:
        raise UnusableTargetError(
            FailureReason.PROTOCOL, f"the response does not contain {where}: correct the role key of the check"
        )
    text = value.strip().lower()
    if text in map(str.lower, role.primary):
        return of_role("primary")
    if text in map(str.lower, role.replica):
        return of_role("replica")
    detail = f"{where} is {value[:80]!r}: if this value is a role, add it to role.primary or role.replica"
    return ProbeResult(read_only=True, facts={READ_ONLY: True}, unusable=(FailureReason.ROLE, detail))


def of_role(role: DatabaseRole) -> ProbeResult:
    """Return a probe result for a database with the given role. A replica counts as read-only."""
    read_only = role == "replica"
    return ProbeResult(role=role, read_only=read_only, facts={READ_ONLY: read_only})


def _json_value(path: str, body: bytes) -> str | None:
    """Return a field of a JSON document as a string; None if the field is missing or has an unsupported type.

    The supported types are string, integer and boolean.
    """
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableTargetError(FailureReason.PROTOCOL, "the body is not valid JSON") from error
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
