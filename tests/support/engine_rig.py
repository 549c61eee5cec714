"""Runs a native engine without a thread, and collects the records of the native engine (see `Engine.take`)."""

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway._dataplane.engine import Engine


class EngineRig:
    """A native engine that runs only when a test calls `turn` or `until`."""

    def __init__(self, engine: "Engine", module: Any) -> None:
        self.engine, self.module = engine, module
        self.records: list[tuple[int, int, tuple[int, int, int, int], bytes]] = []

    def turn(self) -> None:
        self.engine.turn()
        self.records += self.engine.take()

    def until(self, condition: Callable[[], object]) -> None:
        """Run the native engine until a condition is true; fail after 20 s."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            select.select([self.engine.fileno()], [], [], 0.05)
            self.turn()

    def kinds(self, token: int) -> list[int]:
        return [kind for kind, of, _, _ in self.records if of == token]
