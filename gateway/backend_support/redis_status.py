"""Evaluates the replies that Redis and Valkey servers send to the commands ROLE and INFO. Does no I/O."""

from collections.abc import Mapping

from gateway.backend_support.redis_client import RedisErrorReply, Reply
from gateway.backend_support.replication_facts import LAG, READ_ONLY
from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import DatabaseRole
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import VERSION, FactDefinition
from gateway.text_sanitizer import format_bytes

MEMORY = FactDefinition(
    "memory_bytes",
    "Memory of a Redis server: used memory (`used`) and the limit `maxmemory` (`max`; absent without a limit).",
    metric="gateway_redis_memory_bytes",
    label="kind",
    describe=lambda memory: f"{' of '.join(map(format_bytes, memory.values()))} memory",
)
REDIS_FACTS = (READ_ONLY, LAG, VERSION, MEMORY)

_REASONS = {
    "LOADING": FailureReason.STARTING,
    "BUSY": FailureReason.STARTING,
    "MASTERDOWN": FailureReason.LAG,
    "NOAUTH": FailureReason.AUTH,
    "WRONGPASS": FailureReason.AUTH,
    "NOPERM": FailureReason.AUTH,
    "DENIED": FailureReason.HOST_BLOCKED,
    "ERR max number of clients": FailureReason.TOO_MANY_CONNECTIONS,
    "ERR invalid password": FailureReason.AUTH,
    "ERR operation not permitted": FailureReason.AUTH,
    "ERR wrong number of arguments for 'auth'": FailureReason.AUTH,
}
"""Maps the first words of error replies to reasons. Most error replies begin with an error code, such as `NOAUTH`.
Redis before version 6 sends no specific error code for a failed login. Therefore, the map also contains the first
words of the messages about failed logins."""
_WRONG_LOGIN = "correct check.password_file (for an ACL user, also check.user)"
_REMEDIES = {
    "NOAUTH": "set check.password_file (for an ACL user, also check.user)",
    "WRONGPASS": _WRONG_LOGIN,
    "ERR invalid password": _WRONG_LOGIN,
    "NOPERM": "grant the user of the check the ACL rules +ping +role +info",
    "DENIED": "on the server, set a password, or set protected-mode to no",
    "ERR wrong number of arguments for 'auth'": "the server has no ACL users: remove check.user",
}


def reply_error(error: RedisErrorReply) -> UnusableTargetError:
    """Convert an error reply to the error of the check. Add a remedy if one is known.

    Args:
        error: The error reply.
    """
    reason = next((reason for words, reason in _REASONS.items() if error.startswith(words)), FailureReason.QUERY)
    remedy = next((remedy for words, remedy in _REMEDIES.items() if error.startswith(words)), "")
    return UnusableTargetError(reason, str(error), remedy)


def cannot_save(reply: Reply) -> bool:
    """Return whether a reply to PING shows that the server cannot save its data. The server still executes reads."""
    return isinstance(reply, RedisErrorReply) and reply.startswith("MISCONF")


def read_info(replies: list[Reply]) -> dict[str, str]:
    """Return the fields of INFO replies. Skip the sections that the server refuses to return.

    Args:
        replies: One reply for each section.
    """
    texts = [reply.decode(errors="replace") for reply in replies if isinstance(reply, bytes)]
    lines = [line.partition(":") for text in texts for line in text.split("\r\n") if not line.startswith("#")]
    return {key: value for key, colon, value in lines if colon}


def evaluate(role_reply: Reply, info: Mapping[str, str], max_lag: float | None) -> ProbeResult:
    """Derive the result of a probe from the replies to ROLE and INFO.

    Args:
        role_reply: The reply to ROLE; its first item is `master`, `slave` or `sentinel`.
        info: The fields of INFO; empty if the user has no permission to run INFO.
        max_lag: Maximum lag of a usable replica, in seconds. None: no limit.

    Raises:
        UnusableTargetError: The server is a Sentinel, or neither reply contains the role.
        ValueError: A field of INFO is not valid.
    """
    role = _role(role_reply, info)
    lag = _lag(info) if role == "replica" else None
    read_only = role == "replica" and info.get("slave_read_only", "1") != "0"
    memory = {
        key: _number(info, field, 0)
        for key, field in (("used", "used_memory"), ("max", "maxmemory"))
        if field in info
    }
    if not memory.get("max"):
        memory.pop("max", None)
    return ProbeResult(
        role=role,
        read_only=read_only,
        facts={READ_ONLY: read_only, LAG: lag, VERSION: _version(info), MEMORY: memory or None},
        degraded=_replication_problem(role_reply, info, lag) if role == "replica" else _memory_problem(info, memory),
        unusable=_unusable(info, lag, max_lag) if role == "replica" else None,
    )


def _role(role_reply: Reply, info: Mapping[str, str]) -> DatabaseRole:
    word = role_reply[0] if isinstance(role_reply, list) and role_reply else info.get("role", "").encode()
    if word == b"sentinel" or info.get("redis_mode") == "sentinel":
        raise UnusableTargetError(
            FailureReason.PROTOCOL,
            "this is a Sentinel, not a Redis server",
            "set the port of the Redis server (usually 6379)",
        )
    if word == b"master":
        return "primary"
    if word == b"slave":
        return "replica"
    if isinstance(role_reply, RedisErrorReply):
        raise reply_error(role_reply)
    raise UnusableTargetError(FailureReason.PROTOCOL, "not a Redis server: neither ROLE nor INFO contains a role")


def _version(info: Mapping[str, str]) -> str | None:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else None


def _lag(info: Mapping[str, str]) -> float | None:
    """Return the seconds since the replica last received data from its primary, as an approximation of the lag."""
    fields = ("master_link_down_since_seconds", "master_last_io_seconds_ago")
    # A negative number means that the lag is not known, or that the server's clock was set back.
    lag = max((_number(info, field, -(1 << 63)) for field in fields if field in info), default=-1)
    return float(lag) if lag >= 0 else None


def _number(info: Mapping[str, str], field: str, least: int) -> int:
    """Return a field of INFO as a number.

    Raises:
        ValueError: The field is not a number from `least` to 2^64 - 1.
    """
    number = int(info[field])
    if not least <= number < 1 << 64:
        raise ValueError(f"{field} is out of range")
    return number


def _replication_problem(
    role_reply: Reply, info: Mapping[str, str], lag: float | None
) -> tuple[FailureReason, str] | None:
    state = role_reply[3] if isinstance(role_reply, list) and len(role_reply) > 3 else b"connected"
    if state == b"connected" and info.get("master_link_status", "up") == "up":
        return None
    since = f" for {lag:g} s" if lag is not None else ""
    primary = f"{info['master_host']}:{info.get('master_port', '')}" if "master_host" in info else "its primary"
    remedy = "if the primary requires a password, set masterauth (for an ACL user, also masteruser)"
    return FailureReason.LAG, f"the replica is not connected to {primary}{since}: see the replica's log; {remedy}"


def _memory_problem(info: Mapping[str, str], memory: Mapping[str, int]) -> tuple[FailureReason, str] | None:
    is_full = "max" in memory and memory.get("used", 0) >= memory["max"]
    if not is_full or info.get("maxmemory_policy") != "noeviction":
        return None
    limit = format_bytes(memory["max"])
    return (
        FailureReason.NO_SPACE,
        f"the server refuses writes: it uses all of maxmemory ({limit}), and the policy is noeviction",
    )


def _unusable(info: Mapping[str, str], lag: float | None, max_lag: float | None) -> tuple[FailureReason, str] | None:
    if info.get("master_sync_in_progress", "0") != "0":
        return FailureReason.STARTING, "the replica is copying all data from its primary"
    if max_lag is not None and (lag is None or lag > max_lag):
        behind = "an unknown time" if lag is None else f"up to {lag:g} s"
        return FailureReason.LAG, f"{behind} behind its primary (max_lag {max_lag:g} s)"
    return None
