"""Tests which values of TCP_INFO mean that a peer is dead."""

import socket
import weakref

from gateway.relay.dead_peer_detector import _TCP_INFO, _WatchedSocket


class Peer(socket.socket):
    """A socket for which the test sets TCP_INFO."""

    tcp_info = b""

    def getsockopt(self, *_: int) -> bytes:  # type: ignore[override] # the code reads only TCP_INFO
        return self.tcp_info


def verdicts(*states: tuple[float, int, int, int, float, int], state: int = 1) -> list[bool]:
    """Return whether the peer is dead after each state.

    A state consists of the time, the retransmissions, the unacknowledged probes, the segments in flight, the seconds
    since the last acknowledgment, and the bytes that wait.
    """
    with Peer() as sock:
        watched, found = _WatchedSocket(weakref.ref(sock), 0.0), []
        for now, retransmits, probes, in_flight, since_ack, waiting in states:
            sock.tcp_info = _TCP_INFO.pack(state, retransmits, probes, in_flight, int(since_ack * 1000), waiting)
            found.append(watched.is_dead(sock, now))
        return found


def test_a_peer_that_acknowledges_no_data_is_dead() -> None:
    states = (
        (10, 0, 0, 1, 0, 9), (20, 3, 0, 4, 8, 9), (60, 7, 0, 4, 48, 9), (70, 7, 0, 4, 58, 9), (80, 8, 0, 4, 68, 9),
    )  # fmt: skip
    assert verdicts(*states) == [False, False, False, False, True]


def test_a_peer_that_acknowledges_probes_is_alive_for_any_time() -> None:
    assert verdicts(*((10.0 * at, 0, at % 2, 0, (10 * at) % 120, 9) for at in range(100))) == [False] * 100


def test_two_lost_probes_do_not_mean_that_the_peer_is_dead() -> None:
    states = ((110, 0, 0, 0, 110, 9), (120, 0, 1, 0, 120, 9), (240, 0, 2, 0, 240, 9), (360, 0, 3, 0, 360, 9))
    assert verdicts(*states) == [False, False, False, True]


def test_a_peer_that_discards_data_because_its_window_is_full_is_alive_if_it_acknowledges_retransmissions() -> None:
    for retransmits in (0, 1, 9):  # the number of retransmissions before the window was full
        states = tuple((10 + ago, retransmits, 0, 6, ago, 9) for ago in (0, 120, 240, 380))
        assert verdicts(*states) == [False, False, False, True]


def test_only_retransmissions_since_the_last_acknowledgment_count() -> None:
    states = [(10 * at, 3 + at // 12, 0, 6, (10 * at) % 120, 9) for at in range(1, 100)]
    assert verdicts(*states) == [False] * 99


def test_the_last_acknowledgment_does_not_count_if_nothing_was_sent_since_then() -> None:
    idle = (3600, 0, 0, 0, 3600, 0)
    states = (idle, (3610, 1, 0, 1, 3610, 0), (3650, 8, 0, 1, 3650, 0), (3660, 9, 0, 1, 3660, 0))
    assert verdicts(*states) == [False, False, False, True]
    assert verdicts(idle, (3610, 0, 3, 0, 3610, 9)) == [False, False]


def test_the_kernel_breaks_a_connection_after_both_fins() -> None:
    for state in (9, 11):
        assert verdicts((10, 0, 0, 0, 0, 0), (100, 9, 0, 1, 90, 0), state=state) == [False, False]


def test_keepalive_probes_are_left_to_the_kernel() -> None:
    assert verdicts((10, 0, 0, 0, 10, 0), (50, 0, 2, 0, 50, 0), (90, 0, 3, 0, 90, 0)) == [False, False, False]
