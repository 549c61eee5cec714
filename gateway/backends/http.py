"""Defines `kind: http` for web services, object stores and search engines. The probe sends a GET request."""

from dataclasses import dataclass, replace

from gateway.backend_support import http_request
from gateway.backend_support.http_probe_options import HttpProbeOptions, check_status, role_result
from gateway.backend_support.login_options import LoginCheckOptions, credentials, insecure_settings, verify
from gateway.backend_support.password_source import PasswordSource
from gateway.backend_support.probe_connection import ProbeDialer
from gateway.backend_support.replication_facts import READ_ONLY
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import VERSION

_NO_LOGIN = "the server requires a login: set check.user and check.password_file"
_WRONG_LOGIN = "the server rejects the login: correct check.user and check.password_file, or grant the user access"


@dataclass(frozen=True)
class HttpCheckOptions(HttpProbeOptions, LoginCheckOptions):
    """The `check:` keys of an HTTP backend.

    Args:
        user: The user for HTTP Basic authentication. Absent: the check does not log in.
    """

    def __post_init__(self) -> None:
        HttpProbeOptions.__post_init__(self)
        LoginCheckOptions.__post_init__(self)
        if self.user is None and self.has_password:
            raise ValueError("a password needs a user name for HTTP Basic authentication: set user")
        if self.user is not None and ":" in self.user:
            raise ValueError("user: contains a colon, which HTTP Basic authentication does not support")


class HttpBackend:
    """An HTTP backend, whose probe sends a GET request; implements `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: The check of the backend.
    """

    def __init__(self, options: EmptyOptions, check: HttpCheckOptions) -> None:
        self.options = options
        self.check = check
        self._passwords = PasswordSource()
        self._dialer = ProbeDialer(check.tls, http_request.MAX_RESPONSE)

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Request `check.path`, and evaluate the status code and role; see `gateway.contracts.backend.Backend`."""
        check = self.check
        login = None
        if check.user is not None:
            login = http_request.basic_login(check.user, await self._passwords.get(check, target, phases))
        async with self._dialer.open(link, target, phases) as stream:
            with phases("query"):
                response = await http_request.get(stream, check.path, check.host or str(target), login)
        try:
            check_status(check, response, _NO_LOGIN if login is None else _WRONG_LOGIN)
        except UnusableTargetError as error:
            self._passwords.report(check, target, error)
            raise
        result = role_result(check.role, response) if check.role is not None else ProbeResult()
        facts = {**result.facts, VERSION: response.headers.get("Server")}
        return replace(result, facts=facts, certificate=stream.certificate)


def _read_url(scheme: str, path: str) -> dict[str, str]:
    """Return the path of a URL as `check.path`. For `https`, also return the value `verify` as `check.tls.mode`.

    Implements `BackendKind.read_url`.
    """
    return ({"check.path": path} if path else {}) | ({"check.tls.mode": "verify"} if scheme == "https" else {})


KIND = BackendKind(
    "http",
    EmptyOptions,
    HttpCheckOptions,
    HttpBackend,
    schemes=("http", "https"),
    default_port=0,
    aliases=("https", "elasticsearch", "opensearch", "s3", "minio"),
    read_url=_read_url,
    has_roles=lambda check: check.role is not None,
    facts=(READ_ONLY, VERSION),
    insecure_settings=insecure_settings,
    verify=verify,
    credentials=credentials,
    imports=ImportedBackendDefaults(common_protocol=True),
    init_keys=("path", "user", "password"),
    remedies={
        FailureReason.QUERY: "correct check.path or check.status, or read the log of the server",
        FailureReason.ROLE: (
            "promote a server to primary, correct the key prefer, or add the reported role to check.role.primary or"
            " check.role.replica"
        ),
    },
)
