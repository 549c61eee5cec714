"""The host of the engine replaces an engine that has lost records."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.requirements import need_data_plane


class Thing:
    """An object of the engine that records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_record(self, kind: int, arguments: object, payload: bytes) -> None:
        self.calls.append(f"record {kind}")

    def on_engine_failed(self) -> None:
        self.calls.append("failed")


async def test_lost_records_end_every_object_and_replace_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    need_data_plane()
    from gateway.ssh.engine_host import engine_host  # noqa: PLC0415 - the engine is optional

    host, thing = engine_host(), Thing()
    token = host.add(thing)

    def lose() -> list[Any]:
        raise MemoryError

    real = host.engine
    host.engine = cast("Any", SimpleNamespace(turn=lambda _: True, take=lose, fileno=real.fileno, close=real.close))
    host._turn()
    assert thing.calls == ["failed"]
    assert "has lost records" in caplog.text
    assert host.engine.turn(0) is False
    with pytest.raises(KeyError):
        host.forget(token)
