"""What the main process reports about a worker whose process ends."""

import shutil
import sys
import time

import pytest

from gateway.app.worker.worker_supervisor import WorkerLostError, WorkerSupervisor
from gateway.contracts.states import TunnelState
from gateway.errors import Reason


async def test_a_worker_that_cannot_start_reports_its_tunnels_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    program, seen = shutil.which("false"), []
    assert program is not None
    monkeypatch.setattr(sys, "executable", program)
    worker = WorkerSupervisor(1, lambda *_: None)
    worker.path("edge")
    worker.path(None)
    worker.on_report = lambda: seen.append(worker.uplink_total("edge"))
    began = time.time()
    for _ in range(2):
        with pytest.raises(WorkerLostError):
            await worker.run(lambda: None)
    first, second = seen
    assert (first.state, first.reason, first.detail) == (
        TunnelState.BACKOFF, Reason.STARTING, "worker 1 is being started",
    )  # fmt: skip
    assert began <= first.since <= time.time()
    assert second.since == first.since
    assert list(worker.report.uplinks) == ["edge"]
