"""Tests whether the gateway keeps data about containers when a reload changes the section `docker`."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.app.docker_reconciler_manager import DockerReconcilerManager
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.config import Config, ConfigSources, load


def config(folder: Path, revive: str) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(
        f"gateway: {{state_dir: {folder}}}\n"
        f"docker: {{host: 'unix://{folder}/none.sock', revive: {revive}}}\n"
        "backends: {media: {kind: nfs, targets: nas, export: /m, listen: '127.0.0.1:20490'}}\n"
    )
    return load(ConfigSources(file, environment={}))


async def test_a_changed_configuration_keeps_the_attempts_to_start_containers(tmp_path: Path) -> None:
    async def stop(name: str) -> None:
        del name

    supervisor: Any = SimpleNamespace(start=lambda *_: None, stop=stop)
    runtime: Any = SimpleNamespace(backends={})
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        manager = DockerReconcilerManager(supervisor, group, AuditLogRecorder())
        manager.apply(config(tmp_path, "true"), runtime)
        first = manager.reconciler
        assert first is not None
        first.start_attempts.record_signal("id-web", 15, 100.0)
        manager.apply(config(tmp_path, "false"), runtime)
        second = manager.reconciler
    assert second is not None
    assert second is not first
    assert second.desired().signals == {"id-web": {15: 100.0}}
