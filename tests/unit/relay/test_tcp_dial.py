import errno
import socket

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.demo.server_process import free_port
from gateway.errors import DialError, FailureReason
from gateway.relay import sockets
from gateway.relay.tcp_dial import _dial_error, _reject_self_connection, dial


async def test_a_connection_to_itself_is_refused() -> None:
    port = free_port()

    def make(family: int, kind: int, protocol: int) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    with pytest.raises(DialError) as caught:
        await dial(HostPort("127.0.0.1", port), PhaseTimer(), 5, socket_factory=make)
    assert caught.value.reason is FailureReason.REFUSED


def test_a_connection_that_fails_immediately_leaves_no_open_socket() -> None:
    sock = socket.socket()  # getpeername(2) fails for an unconnected socket, as after a reset.
    with pytest.raises(OSError, match="not connected"):
        _reject_self_connection(sock)
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ECONNREFUSED, "x"), FailureReason.REFUSED),
        (OSError(errno.ETIMEDOUT, "x"), FailureReason.TIMEOUT),
        (OSError(errno.ECONNRESET, "x"), FailureReason.RESET),
        (
            OSError("Multiple exceptions: [Errno 113] No route to host, [Errno 111] Connection refused"),
            FailureReason.REFUSED,
        ),
        (OSError("Multiple exceptions: [Errno 104] Reset, [Errno 111] Connection refused"), FailureReason.RESET),
        (OSError("whatever"), FailureReason.RESET),
    ],
)
def test_the_reason_covers_all_addresses(error: OSError, reason: FailureReason) -> None:
    found = _dial_error(HostPort("db", 1), error)
    assert found.reason is reason
    assert "Errno" not in found.detail


@pytest.mark.parametrize(
    ("outage", "limit"), [(5.0, 1000), (60.0, 5000), (300.0, 31500), (3600.0, 120000)], ids=lambda each: f"{each:g}"
)
def test_the_time_between_retransmissions_is_limited_but_the_connection_survives_an_outage(
    outage: float, limit: int
) -> None:
    with socket.socket() as sock:
        sockets.cap_retransmit_interval(sock, outage)
        try:
            assert sock.getsockopt(socket.IPPROTO_TCP, sockets._TCP_RTO_MAX_MS) == limit
        except OSError:
            pytest.skip("the kernel does not support TCP_RTO_MAX_MS (Linux 6.15)")
    model = sockets._until_close(limit / 1000)
    assert outage <= model or limit == 120000
