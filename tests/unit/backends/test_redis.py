"""Tests the probe of Redis with servers that violate the protocol."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends import EmptyOptions
from gateway.backends.redis import KIND, RedisBackend, RedisCheckOptions
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from tests.support.probes import probe
from tests.support.servers import Behavior, serving

BACKEND = RedisBackend(EmptyOptions(), RedisCheckOptions(user="u", password=Secret("topsecret")))


def replying(*replies: bytes) -> Behavior:
    """Return a server that sends the next reply after each request, and finally closes the connection."""

    def serve(client: socket.socket) -> None:
        for reply in replies:
            client.recv(65536)
            client.sendall(reply)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):  # closing a socket with unread data would reset the connection
            pass

    return serve


GREETING, LOGIN = b"-NOAUTH Authentication required.\r\n", b"+OK\r\n"
INFO = b"$0\r\n\r\n" * 3


@pytest.mark.parametrize(
    ("replies", "reason", "words"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), FailureReason.PROTOCOL, "a reply begins with b'HTTP/1.1 400"),
        ((b"+" + b"x" * 100_000,), FailureReason.PROTOCOL, "a line of more than 16 KiB"),
        ((b"$1000000\r\n",), FailureReason.PROTOCOL, "more than 64 KiB"),
        ((b"$-2\r\n",), FailureReason.PROTOCOL, "a length is negative"),
        ((b"$999999999999999999999999\r\n",), FailureReason.PROTOCOL, "is not a number"),
        ((b":one\r\n",), FailureReason.PROTOCOL, "is not a number"),
        ((b"$1\r\nxyz",), FailureReason.PROTOCOL, "longer than its declared length"),
        ((b"*1\r\n" * 1000,), FailureReason.PROTOCOL, "too many levels"),
        ((b"*100000\r\n" + b":1\r\n" * 10_000,), FailureReason.PROTOCOL, "too many items or too many levels"),
        ((b"*2\r\n+a\r\n",), FailureReason.RESET, "closed the connection"),
        ((GREETING,), FailureReason.RESET, "closed the connection"),
        ((GREETING, b"-WRONGPASS invalid\r\n"), FailureReason.AUTH, "WRONGPASS invalid: correct check.password_file"),
        ((GREETING, LOGIN, b"+PONG\r\n*1\r\n$4\r\nking\r\n" + INFO), FailureReason.PROTOCOL, "contains a role"),
        (
            (GREETING, LOGIN, b"+PONG\r\n*1\r\n$6\r\nmaster\r\n$15\r\nused_memory:lot\r\n" + INFO),
            FailureReason.PROTOCOL,
            "'lot'",
        ),
        ((b"-LOADING Redis is loading\r\n",), FailureReason.STARTING, "LOADING"),
    ],
)
async def test_an_invalid_reply_is_an_error_with_a_reason(
    replies: tuple[bytes, ...], reason: FailureReason, words: str
) -> None:
    with serving(replying(*replies)) as port:
        result = await probe(BACKEND, port)
    assert (result.reason, words in result.detail) == (reason, True), result.detail
    assert "topsecret" not in result.detail


async def test_a_server_of_an_old_version_without_a_password_is_unauthenticated() -> None:
    refused = b"-ERR Client sent AUTH, but no password is set\r\n"
    with serving(replying(b"+PONG\r\n", refused, b"+PONG\r\n*1\r\n$6\r\nmaster\r\n" + INFO)) as port:
        result = await probe(BACKEND, port)
    assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.UNAUTHENTICATED), result.detail


@pytest.mark.parametrize("role", [b"$6\r\nmaster\r\n", b"$5\r\nslave\r\n"])
async def test_a_server_that_cannot_save_its_data_still_serves_reads(role: bytes) -> None:
    misconf = b"-MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk.\r\n"
    denied = b"-NOAUTH Authentication required.\r\n"
    with serving(replying(denied, b"+OK\r\n", misconf + b"*1\r\n" + role + INFO)) as port:
        result = await probe(BACKEND, port)
    assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.NO_SPACE), result.detail
    assert "MISCONF" in result.detail


WORDS = st.sampled_from(
    [b"*", b"$", b":", b"-", b"+", b"\r\n", b"1", b"-1", b"9", b"master", b"NOAUTH", b"\xff", b"x"]
)


@settings(max_examples=50)
@given(st.lists(WORDS, max_size=40).map(b"".join))
async def test_any_reply_ends_the_check_with_an_expected_error(data: bytes) -> None:
    with serving(replying(data)) as port:
        result = await probe(BACKEND, port)
    assert result.state is not HealthState.UP
    assert "Error:" not in result.detail  # the details of an unexpected exception contain this text


def test_a_url_selects_tls_and_has_no_database() -> None:
    assert KIND.read_url("redis", "") == {}
    assert KIND.read_url("rediss", "/") == {"check.tls.mode": "verify"}
    with pytest.raises(ValueError, match="a redis URL must not have a path"):
        KIND.read_url("redis", "/0")
