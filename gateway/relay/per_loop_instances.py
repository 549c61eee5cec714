"""Creates an object, such as a poller, once for each event loop."""

import asyncio
import functools
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def per_loop(create: Callable[[asyncio.AbstractEventLoop], _T]) -> Callable[[], _T]:
    """Turn `create` into a function without arguments that returns the object of the running loop.

    The object is created on first use. The loop keeps a reference to the object, so both are released together.

    Args:
        create: Creates the object for a loop.
    """
    name = f"{create.__module__}.{create.__qualname__}"

    @functools.wraps(create)
    def current() -> _T:
        loop = asyncio.get_running_loop()
        existing: _T | None = getattr(loop, name, None)
        if existing is None:
            existing = create(loop)
            setattr(loop, name, existing)
        return existing

    return current
