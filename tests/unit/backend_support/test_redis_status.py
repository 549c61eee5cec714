import pytest

from gateway.backend_support.redis_client import RedisErrorReply, Reply
from gateway.backend_support.redis_status import MEMORY, evaluate, read_info, reply_error
from gateway.backend_support.replication_facts import LAG, READ_ONLY
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import VERSION

MASTER: Reply = [b"master", 10, []]
SLAVE: Reply = [b"slave", b"10.0.0.1", 6379, b"connected", 10]
REPLICATING = {
    "role": "slave", "master_host": "10.0.0.1", "master_port": "6379", "master_link_status": "up",
    "master_last_io_seconds_ago": "3", "master_sync_in_progress": "0", "slave_read_only": "1",
}  # fmt: skip


def test_info_without_refused_sections() -> None:
    found = read_info([b"# Server\r\nredis_version:8.0.2\r\nos:Linux 6:1\r\n", RedisErrorReply("NOPERM no"), None])
    assert found == {"redis_version": "8.0.2", "os": "Linux 6:1"}


def test_a_primary_and_its_memory() -> None:
    info = {"redis_version": "7.2.4", "valkey_version": "8.1.1", "used_memory": "5", "maxmemory": "0"}
    found = evaluate(MASTER, info, 1.0)
    assert (found.role, found.read_only, found.degraded, found.unusable) == ("primary", False, None, None)
    assert found.facts == {READ_ONLY: False, LAG: None, VERSION: "Valkey 8.1.1", MEMORY: {"used": 5}}
    full = {"used_memory": "2048", "maxmemory": "2048"}
    assert evaluate(MASTER, {**full, "maxmemory_policy": "allkeys-lru"}, None).degraded is None
    degraded = evaluate(MASTER, {**full, "maxmemory_policy": "noeviction"}, None).degraded
    assert degraded is not None
    assert degraded[0] is FailureReason.NO_SPACE


def test_a_replica_and_its_lag() -> None:
    found = evaluate(SLAVE, REPLICATING, 3.0)
    assert (found.role, found.read_only, found.facts[LAG]) == ("replica", True, 3.0)
    assert (found.degraded, found.unusable) == (None, None)
    late = evaluate(SLAVE, REPLICATING, 2.0)
    assert late.unusable == (FailureReason.LAG, "up to 3 s behind its primary (max_lag 2 s)")
    broken = REPLICATING | {
        "master_link_status": "down", "master_last_io_seconds_ago": "-1", "master_link_down_since_seconds": "40",
    }  # fmt: skip
    found = evaluate([b"slave", b"10.0.0.1", 6379, b"connect", -1], broken, None)
    assert found.facts[LAG] == 40.0
    assert found.degraded is not None
    assert "not connected to 10.0.0.1:6379 for 40 s" in found.degraded[1]
    never = evaluate(SLAVE, broken | {"master_link_down_since_seconds": "-1"}, 60.0)
    assert never.unusable == (FailureReason.LAG, "an unknown time behind its primary (max_lag 60 s)")
    copying = evaluate(SLAVE, broken | {"master_sync_in_progress": "1"}, None)
    assert copying.unusable is not None
    assert copying.unusable[0] is FailureReason.STARTING
    assert evaluate(SLAVE, REPLICATING | {"slave_read_only": "0"}, None).read_only is False


def test_either_role_or_info_is_enough() -> None:
    refused = RedisErrorReply("NOPERM User u has no permissions to run the 'role' command")
    assert evaluate(refused, {"role": "master"}, None).role == "primary"
    assert evaluate(refused, REPLICATING, None).role == "replica"
    assert evaluate(SLAVE, {}, None).role == "replica"
    with pytest.raises(UnusableTargetError, match="grant the user of the check") as caught:
        evaluate(refused, {}, None)
    assert caught.value.reason is FailureReason.AUTH


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (MASTER, "used_memory"),
        (MASTER, "maxmemory"),
        (SLAVE, "master_last_io_seconds_ago"),
        (SLAVE, "master_link_down_since_seconds"),
    ],
)
@pytest.mark.parametrize("number", ["1" + "0" * 400, str(1 << 64), f"-{1 << 64}", "9" * 5000])
def test_a_number_out_of_range_is_refused(reply: Reply, field: str, number: str) -> None:
    largest = evaluate(reply, {field: str((1 << 64) - 1)}, None)
    assert largest.facts[LAG] or largest.facts[MEMORY]
    with pytest.raises(ValueError, match=r"out of range|limit"):
        evaluate(reply, {field: number}, None)


@pytest.mark.parametrize("reply", [[], [b"king"], None, 1, b"master", [[b"master"]], [None]])
def test_a_reply_without_a_role_is_a_protocol_error(reply: Reply) -> None:
    with pytest.raises(UnusableTargetError) as caught:
        evaluate(reply, {}, None)
    assert caught.value.reason is FailureReason.PROTOCOL


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("LOADING Redis is loading the dataset in memory", FailureReason.STARTING),
        ("BUSY Redis is busy running a script", FailureReason.STARTING),
        ("MASTERDOWN Link with MASTER is down", FailureReason.LAG),
        ("NOAUTH Authentication required.", FailureReason.AUTH),
        ("WRONGPASS invalid username-password pair", FailureReason.AUTH),
        ("ERR invalid password", FailureReason.AUTH),
        ("ERR wrong number of arguments for 'auth' command", FailureReason.AUTH),
        ("DENIED Redis is running in protected mode", FailureReason.HOST_BLOCKED),
        ("ERR max number of clients reached", FailureReason.TOO_MANY_CONNECTIONS),
        ("ERR unknown command", FailureReason.QUERY),
    ],
)
def test_reasons_of_error_replies(text: str, reason: FailureReason) -> None:
    assert reply_error(RedisErrorReply(text)).reason is reason
