"""Defines `kind: redis` for Redis and Valkey. The probe logs in, and queries role, replication and memory."""

from dataclasses import dataclass, replace

from gateway.backend_support.login_options import LoginCheckOptions, credentials, insecure_settings, verify
from gateway.backend_support.password_source import PasswordSource
from gateway.backend_support.probe_connection import ProbeDialer
from gateway.backend_support.redis_client import RedisClient, RedisErrorReply
from gateway.backend_support.redis_status import REDIS_FACTS, cannot_save, evaluate, read_info, reply_error
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults, without_path
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError

_MAX_BYTES = 64 * 1024
"""Maximum number of bytes to accept from a server in one check. A normal check receives less than 8 KiB."""
_SECTIONS = ("server", "replication", "memory")
_NO_PASSWORD = (
    "without any password configured",  # Redis 6 and later, and Valkey
    "no password is set",  # Redis before version 6
)
_UNAUTHENTICATED = "the server accepts commands without a login: set requirepass, or a password for the user default"


@dataclass(frozen=True)
class RedisCheckOptions(LoginCheckOptions):
    """The `check:` keys of a Redis backend.

    Args:
        user: The ACL user to log in as. Absent: the user `default`.
        password: Password of the user. Without a password, the check does not log in.
        max_lag: Maximum replication lag. A replica with a larger lag is `down`. An idle primary sends data every 10 s
            (`repl-ping-replica-period`), so the limit must be larger.
    """

    max_lag: Duration | None = None


class RedisBackend:
    """A Redis or Valkey backend, whose probe sends ROLE and INFO; implements `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: The check of the backend.
    """

    def __init__(self, options: EmptyOptions, check: RedisCheckOptions) -> None:
        self.options = options
        self.check = check
        self._passwords = PasswordSource()
        self._dialer = ProbeDialer(check.tls, _MAX_BYTES)

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Log in, and query role, replication, memory and version; see `gateway.contracts.backend.Backend`."""
        password = await self._passwords.get(self.check, target, phases)
        async with self._dialer.open(link, target, phases) as stream:
            client = RedisClient(stream)
            try:
                is_open = await _greet(client, phases)
                if password or self.check.user:
                    await self._log_in(client, password, phases)
                elif not is_open:
                    raise reply_error(RedisErrorReply("NOAUTH Authentication required"))
                with phases("query"):
                    found = await self._query(client)
            except UnusableTargetError as error:
                self._passwords.report(self.check, target, error)
                raise
        if is_open and password:
            found = replace(found, degraded=(FailureReason.UNAUTHENTICATED, _UNAUTHENTICATED))
        return replace(found, certificate=stream.certificate)

    async def _log_in(self, client: RedisClient, password: str, phases: PhaseTimer) -> None:
        with phases("auth"):
            user = (self.check.user,) if self.check.user else ()
            (reply,) = await client.run(("AUTH", *user, password))
        if isinstance(reply, RedisErrorReply) and not any(words in reply for words in _NO_PASSWORD):
            raise reply_error(reply)

    async def _query(self, client: RedisClient) -> ProbeResult:
        # A server that is still loading its data refuses PING, but not ROLE and INFO.
        sections = (("INFO", section) for section in _SECTIONS)
        ping, role, *infos = await client.run(("PING",), ("ROLE",), *sections)
        if isinstance(ping, RedisErrorReply) and not cannot_save(ping):
            raise reply_error(ping)
        try:
            found = evaluate(role, read_info(infos), self.check.max_lag)
        except ValueError as error:
            raise UnusableTargetError(
                FailureReason.PROTOCOL,
                f"not a valid Redis response ({error}): check that the target is a Redis server",
            ) from error
        return replace(found, degraded=(FailureReason.NO_SPACE, str(ping))) if cannot_save(ping) else found


async def _greet(client: RedisClient, phases: PhaseTimer) -> bool:
    """Send PING. Return whether the server accepts this command without a login.

    Raises:
        UnusableTargetError: The server refuses PING, but not because of the missing login. For example, the server is
            still loading its data.
    """
    with phases("greeting"):
        (reply,) = await client.run(("PING",))
    if not isinstance(reply, RedisErrorReply) or cannot_save(reply):
        return True
    error = reply_error(reply)
    if error.reason is not FailureReason.AUTH:
        raise error
    return False


def _read_url(scheme: str, path: str) -> dict[str, str]:
    """Require TLS if the scheme is `rediss`, and refuse URLs with a path. Implements `BackendKind.read_url`.

    In a Redis URL, the path is a database number. The gateway cannot use the number, because each client selects its
    database itself.
    """
    without_path(scheme, path)
    return {"check.tls.mode": "verify"} if scheme == "rediss" else {}


KIND = BackendKind(
    "redis",
    EmptyOptions,
    RedisCheckOptions,
    RedisBackend,
    schemes=("redis", "rediss"),
    default_port=6379,
    aliases=("valkey", "keydb"),
    read_url=_read_url,
    has_roles=lambda _: True,
    facts=REDIS_FACTS,
    response_timeout=1.5,
    imports=ImportedBackendDefaults(
        note="if the server requires a password, add check: {password_file: …}", password_without_user=True
    ),
    insecure_settings=insecure_settings,
    verify=verify,
    credentials=credentials,
    init_keys=("user", "password"),
    remedies={
        FailureReason.HOST_BLOCKED: "on the server, set a password, or set protected-mode to no",
        FailureReason.QUERY: "correct the privileges of check.user",
        FailureReason.NO_SPACE: (
            "if memory is short, raise maxmemory on the server, delete keys, or set maxmemory-policy; if the server"
            " cannot save its data (MISCONF), free disk space and memory, and read the server's log"
        ),
    },
)
