"""Each event loop has a separate state, which is released when the event loop is deleted."""

import asyncio
import gc
import weakref

from gateway.relay.per_loop_instances import per_loop


class State:
    """A state that refers to its event loop, as the closer of lingering sockets does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop


@per_loop
def state(loop: asyncio.AbstractEventLoop) -> State:
    return State(loop)


@per_loop
def other(loop: asyncio.AbstractEventLoop) -> State:
    return State(loop)


class Elsewhere:
    """Contains a function that has the same name as the module's function `state`."""

    @staticmethod
    @per_loop
    def state(loop: asyncio.AbstractEventLoop) -> State:
        return State(loop)


async def both() -> tuple[State, State]:
    return state(), Elsewhere.state()


def test_functions_of_one_name_have_separate_objects() -> None:
    first, second = asyncio.run(both())
    assert first is not second


async def current() -> tuple[State, State, State]:
    return state(), state(), other()


def test_each_loop_has_one_object_for_each_function() -> None:
    first, again, another = asyncio.run(current())
    assert first is again
    assert first is not another
    assert asyncio.run(current())[0] is not first


def test_the_object_is_released_with_its_loop() -> None:
    reference = weakref.ref(asyncio.run(current())[0])
    gc.collect()
    assert reference() is None
