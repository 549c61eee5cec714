"""Tests how the demo waits for its end."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.demo import main as demo


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Yield the signals that a handler of SIGINT has received. Unlike the demo's handler, it raises no error."""
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGINT, previous)


@pytest.mark.timeout(20)
def test_a_signal_during_the_last_message_ends_the_wait(handled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Any] = []

    def interrupt(message: str) -> None:
        messages.append(message)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    monkeypatch.setattr("click.echo", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo._wait_for_signal()
    assert (len(messages), handled) == (1, [])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
