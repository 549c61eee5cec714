import asyncio
import logging
import socket

import pytest

from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.fd_poller import READ, poller


async def test_handlers_and_timers_share_the_loop() -> None:
    """A socket that is always ready must not prevent asyncio from running its timers."""
    near, far = socket.socketpair()
    calls = 0

    def busy(_: int) -> None:
        nonlocal calls
        calls += 1

    with near, far:
        far.send(b"x")  # The test never reads the byte, so the socket stays ready.
        poller().add(near.fileno(), busy, READ)
        # If the poller ran handlers until no socket is ready, the timer would never run.
        async with asyncio.timeout(20):
            while calls <= 100:
                await asyncio.sleep(0.05)
        poller().remove(near.fileno())


async def test_a_handler_can_wake_a_task() -> None:
    near, far = socket.socketpair()
    with near, far:
        woken = asyncio.get_running_loop().create_future()

        def wake(_: int) -> None:
            poller().remove(near.fileno())
            woken.set_result(near.recv(10))

        poller().add(near.fileno(), wake, READ)
        far.send(b"hello")
        async with asyncio.timeout(20):
            assert await woken == b"hello"


async def test_a_handler_can_set_a_timer() -> None:
    near, far = socket.socketpair()
    with near, far:
        loop = asyncio.get_running_loop()
        fired = loop.create_future()

        def later(_: int) -> None:
            poller().remove(near.fileno())
            loop.call_later(0.01, fired.set_result, None)

        poller().add(near.fileno(), later, READ)
        far.send(b"x")
        async with asyncio.timeout(20):
            await fired


async def test_a_failing_handler_is_removed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    near, far = socket.socketpair()
    with near, far, caplog.at_level(logging.ERROR):
        poller().add(near.fileno(), lambda _: 1 // 0, READ)  # type: ignore[arg-type]
        far.send(b"x")
        await asyncio.sleep(0.02)
        assert "a relay handler failed" in caplog.text
        poller().add(near.fileno(), lambda _: None, READ)
        poller().remove(near.fileno())


def test_the_poller_has_the_same_interface_on_other_event_loops() -> None:
    async def talk() -> bytes:
        near, far = socket.socketpair()
        with near, far:
            got = asyncio.get_running_loop().create_future()
            poller().add(near.fileno(), lambda _: None, READ)

            def take(_: int) -> None:
                poller().remove(near.fileno())
                got.set_result(near.recv(10))

            poller().add(near.fileno(), take, READ)
            far.send(b"plain")
            return bytes(await got)

    for factory in (RelayEventLoop, asyncio.SelectorEventLoop):
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(talk()) == b"plain"
