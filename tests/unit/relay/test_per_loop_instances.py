"""Tests whether each event loop has its own object, which is released together with the event loop."""

import asyncio
import gc
import weakref

from gateway.relay.per_loop_instances import per_loop


class State:
    """An object that refers to its event loop. The event loop also refers to the object."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop


@per_loop
def state(loop: asyncio.AbstractEventLoop) -> State:
    return State(loop)


@per_loop
def other(loop: asyncio.AbstractEventLoop) -> State:
    return State(loop)


class Elsewhere:
    """Has a method with the same name as the function `state` of this module."""

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
