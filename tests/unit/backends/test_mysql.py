"""Tests which failed logins of a MySQL check the gateway counts as aborted handshakes."""

import contextlib
import socket
from collections.abc import Callable

import pytest

from gateway.backend_support.probe_login_limiter import ProbeLoginLimiter
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.contracts.config_types import HostPort
from gateway.contracts.secret import Secret
from gateway.errors import FailureReason
from gateway.health.probe import probe_once
from gateway.relay.direct_link import DirectLink
from tests.support.mysql_end import DENIED, MysqlEnd
from tests.support.servers import serving


def without_tls(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        MysqlEnd(sock).greet("mysql_native_password")


def denying(sock: socket.socket) -> None:
    end = MysqlEnd(sock)
    end.greet("mysql_native_password")
    end.send(DENIED)


def silent(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("server", "tls", "reason", "aborted"),
    [
        (without_tls, HealthCheckTlsOptions("require"), FailureReason.TLS, 1),
        (denying, HealthCheckTlsOptions("off"), FailureReason.AUTH, 0),
        (silent, HealthCheckTlsOptions("off"), FailureReason.RESET, 0),
    ],
)
async def test_a_login_that_ends_without_an_answer_counts_as_aborted(
    server: Callable[[socket.socket], None], tls: HealthCheckTlsOptions, reason: FailureReason, aborted: int
) -> None:
    check = MysqlCheckOptions(user="u", password=Secret("p"), tls=tls)
    limiter, abandoned = ProbeLoginLimiter(100), []
    with serving(server) as port:
        target = HostPort("127.0.0.1", port)
        backend = MysqlBackend(EmptyOptions(), check)
        result = await probe_once(backend, DirectLink(), target, 10.0, lambda: abandoned.append(1), limiter)
    assert (result.reason, limiter.aborted, len(abandoned)) == (reason, aborted, aborted), result.detail
