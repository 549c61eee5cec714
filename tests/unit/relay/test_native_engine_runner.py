"""Tests how a failed native engine is replaced, and how connections are distributed over the native engines."""

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import _dataplane
from gateway.ssh import flow_control
from tests.support.requirements import need_data_plane


class RecordingObject:
    """Records the calls that the runner of a native engine makes."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_record(self, kind: int, arguments: object, payload: bytes) -> None:
        self.calls.append(f"record {kind}")

    def on_native_engine_failed(self) -> None:
        self.calls.append("failed")


@pytest.mark.parametrize("failure", [OSError(errno.ENOMEM, "records were lost"), MemoryError()])
async def test_a_failure_ends_every_object_and_replaces_the_native_engine(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    need_data_plane()
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    runner, thing = native_engines().runner(), RecordingObject()
    token = runner.add(thing)

    def lose() -> list[Any]:
        raise failure

    real = runner.engine
    runner.engine = cast("Any", SimpleNamespace(take=lose, close=real.close))
    runner.handle_records()
    assert thing.calls == ["failed"]
    assert "has failed" in caplog.text
    assert runner.engine is not real
    assert runner.engine.take() == []
    with pytest.raises(KeyError):
        runner.forget(token)


async def test_new_connections_go_to_the_native_engine_with_the_lowest_load(monkeypatch: pytest.MonkeyPatch) -> None:
    need_data_plane()
    from gateway.relay.native_engine_runner import NativeEnginePool  # noqa: PLC0415 - the native engine is optional

    monkeypatch.setattr(_dataplane.settings, "threads", 2)
    pool = NativeEnginePool(asyncio.get_running_loop())
    first, second = pool.runner(), pool.runner()
    assert first is not second
    tokens = [first.add(RecordingObject()), first.add(RecordingObject()), second.add(RecordingObject())]
    assert pool.runner() is second
    assert len(pool.runners) == 2
    assert first.engine.growth() == flow_control.GROWTH_BUDGET_BYTES // 2
    assert pool.grown_bytes == 0
    for token in tokens[:2]:
        first.forget(token)
    assert pool.runner() is first
    for runner in pool.runners:
        runner.close()


def test_auto_is_one_thread_for_each_processor_up_to_four(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _dataplane.thread_count(7) == 7
    for processors, threads in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, found=processors: set(range(found)))
        assert _dataplane.thread_count("auto") == threads


async def test_the_native_engines_share_the_connections_of_a_group_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    need_data_plane()
    from gateway.relay.native_engine_runner import NativeEnginePool  # noqa: PLC0415 - the native engine is optional

    monkeypatch.setattr(_dataplane.settings, "threads", 2)
    pool, tunnel = NativeEnginePool(asyncio.get_running_loop()), object()
    first, second = pool.all_runners()
    token = first.add(RecordingObject(), group=tunnel)
    second.add(RecordingObject())
    second.add(RecordingObject())
    assert pool.runner(tunnel) is second  # `second` has a higher load, but no connection of `tunnel`.
    second.add(RecordingObject(), group=tunnel)
    assert pool.runner(tunnel) is first
    assert pool.runner(object()) is first
    first.forget(token)
    assert (first.group_size(tunnel), second.group_size(tunnel)) == (0, 1)
    assert pool.runner(tunnel) is first
    first.close()
    second.close()
    assert second.group_size(tunnel) == 0


async def test_fewer_threads_run_if_no_more_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    need_data_plane()
    from gateway.relay import native_engine_runner  # noqa: PLC0415 - the native engine is optional

    monkeypatch.setattr(_dataplane.settings, "threads", 3)
    pool = native_engine_runner.NativeEnginePool(asyncio.get_running_loop())
    first = pool.runner()

    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(native_engine_runner, "NativeEngineRunner", refuse)
    assert pool.runner() is first
    assert pool.all_runners() == [first]
    assert caplog.text.count("cannot start another data plane thread") == 1
    first.close()
