"""The host of the engine replaces an engine that has failed."""

import errno
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


async def test_a_failure_ends_every_object_and_replaces_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    need_data_plane()
    from gateway.ssh.engine_host import engine_host  # noqa: PLC0415 - the engine is optional

    host, thing = engine_host(), Thing()
    token = host.add(thing)

    def lose() -> list[Any]:
        raise OSError(errno.ENOMEM, "records were lost")

    real = host.engine
    host.engine = cast("Any", SimpleNamespace(take=lose, close=real.close))
    host.handle_records()
    assert thing.calls == ["failed"]
    assert "has failed" in caplog.text
    assert host.engine is not real
    assert host.engine.take() == []
    with pytest.raises(KeyError):
        host.forget(token)
