import asyncio
import time

from gateway.ssh.slow_channel_open_detector import SlowChannelOpenDetector


async def test_only_opens_that_are_still_pending_are_slow() -> None:
    slow: asyncio.Queue[str] = asyncio.Queue()
    opens = SlowChannelOpenDetector(asyncio.get_running_loop(), 0.02, slow.put_nowait)
    opens.end(opens.begin("answered"))
    opens.begin("first")
    async with asyncio.timeout(10):
        assert await slow.get() == "first"
        late = opens.begin("second")
        assert await slow.get() == "second"
    opens.end(late)
    assert slow.empty()


async def test_the_timer_continues_with_the_next_open() -> None:
    loop = asyncio.get_running_loop()
    slow: asyncio.Queue[str] = asyncio.Queue()
    opens = SlowChannelOpenDetector(loop, 0.05, slow.put_nowait)
    ended = opens.begin("answered")
    began = loop.time()
    time.sleep(0.02)  # noqa: ASYNC251 - the timer must not expire before `end`
    opens.begin("silent")
    opens.end(ended)
    async with asyncio.timeout(10):
        assert await slow.get() == "silent"
    assert loop.time() - began >= 0.05


async def test_a_closed_pool_calls_nothing() -> None:
    slow: list[str] = []
    opens = SlowChannelOpenDetector(asyncio.get_running_loop(), 0.01, slow.append)
    opens.begin("silent")
    opens.close()
    await asyncio.sleep(0.05)
    assert slow == []
