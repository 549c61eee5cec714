"""Tests what a reload reports."""

import asyncio
import threading
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest

from gateway.app import reloader
from gateway.app.config_diff import ConfigDiff, diff_configs
from gateway.app.reloader import Reloader
from gateway.app.service_audit_log import ServiceAuditLog
from gateway.app.socket_activation import PassedSockets
from gateway.config import Config, ConfigSources, load
from gateway.contracts.states import ConfigTrigger
from gateway.errors import ConfigError, ConfigProblem, GatewayError
from gateway.forwarding.listener import BindError


@pytest.mark.timeout(20)
async def test_a_reload_reports_what_a_recent_automatic_reload_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.yaml"

    def write(*targets: str) -> Config:
        file.write_text(f"backends: {{a: {{kind: tcp, targets: {list(targets)}}}}}\n")
        return load(sources)

    def apply(config: Config, _: object) -> ConfigDiff:
        diff, runtime.config = diff_configs(runtime.config, config), config
        return diff

    sources = ConfigSources(file, environment={})
    first = write("h:1")
    runtime = Mock(config=first, listeners={}, apply=apply)
    subject = Reloader(
        first, lambda: load(sources), file, ServiceAuditLog("a"), Mock(), asyncio.Event(), Mock(), Mock()
    )
    subject.start(runtime, Mock(), Mock(renew=AsyncMock()), {})
    assert await subject.reload(ConfigTrigger.ADMIN) == "no change"
    write("h:2")
    assert await subject.reload(ConfigTrigger.FILE) == "backends changed: a"
    reported = await subject.reload(ConfigTrigger.ADMIN)
    assert reported.startswith("already applied ")
    assert reported.endswith(" s ago, when the file changed: backends changed: a")
    monkeypatch.setattr(reloader, "_RECENT", 0.0)
    assert await subject.reload(ConfigTrigger.ADMIN) == "no change"
    monkeypatch.undo()
    write("h:3")
    assert await subject.reload(ConfigTrigger.ADMIN) == "backends changed: a"
    assert await subject.reload(ConfigTrigger.ADMIN) == "no change"


async def test_a_refused_file_is_loaded_again_after_its_cause_was_corrected(tmp_path: Path) -> None:
    def apply(config: Config, _: object) -> ConfigDiff:
        diff, runtime.config = diff_configs(runtime.config, config), config
        return diff

    file, is_broken = tmp_path / "gateway.yaml", True
    sources = ConfigSources(file, environment={})
    file.write_text("backends: {a: {kind: tcp, targets: 'h:1'}}\n")
    first = load(sources)
    runtime = Mock(config=first, listeners={}, apply=apply)

    def load_again() -> Config:
        config = load(sources)
        if is_broken:
            raise ConfigError([ConfigProblem(str(file), "x", "another file has a wrong mode")], config.origin)
        return config

    subject = Reloader(first, load_again, file, ServiceAuditLog("a"), Mock(), asyncio.Event(), Mock(), Mock())
    subject.start(runtime, Mock(), Mock(renew=AsyncMock()), {})
    file.write_text("backends: {a: {kind: tcp, targets: 'h:1'}, b: {kind: tcp, targets: 'h:2'}}\n")
    for _ in range(2):
        with pytest.raises(GatewayError, match="wrong mode"):
            await subject.reload(ConfigTrigger.FILE)
    is_broken = False
    assert await subject.reload(ConfigTrigger.FILE) == "backends added: b"
    assert subject.successful


async def test_a_reload_refuses_an_address_that_the_host_does_not_have(tmp_path: Path) -> None:
    """At startup, the host might not have the address yet. At a reload, the address is probably a typing error."""
    file, runtime = tmp_path / "gateway.yaml", Mock(config=Config(), listeners={})
    file.write_text("backends: {a: {kind: tcp, targets: 'h:1', listen: '198.51.100.77:3306'}}\n")
    subject = Reloader(
        Config(),
        lambda: load(ConfigSources(file, environment={})),
        file,
        ServiceAuditLog("a"),
        Mock(),
        asyncio.Event(),
        PassedSockets(),
        Mock(),
    )
    subject.start(runtime, Mock(), Mock(renew=AsyncMock()), {})
    runtime.apply.reset_mock()
    with pytest.raises(BindError, match=r"198\.51\.100\.77:3306: Cannot assign requested address"):
        await subject.reload(ConfigTrigger.ADMIN)
    runtime.apply.assert_not_called()


async def test_a_file_system_that_hangs_does_not_block_later_reloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, released = tmp_path / "gateway.yaml", threading.Event()
    file.write_text("backends: {}\n")
    monkeypatch.setattr(reloader, "_LOAD_TIMEOUT", 2.0)
    monkeypatch.setattr(reloader, "find_stale_files", lambda _: released.wait(60) or [])

    def invalid() -> Config:
        raise GatewayError("not valid")

    subject = Reloader(Config(), invalid, file, ServiceAuditLog("a"), Mock(), asyncio.Event(), Mock(), Mock())
    subject.start(Mock(config=Config(), listeners={}), Mock(), Mock(renew=AsyncMock()), {})
    try:
        for _ in range(2):
            async with asyncio.timeout(20):
                with pytest.raises(GatewayError, match="not valid"):
                    await subject.reload(ConfigTrigger.ADMIN)
        assert (subject.successful, subject.error) == (False, "not valid")
        assert subject.stale_files == [
            "the configuration files cannot be read: check whether their file system hangs"
        ]
    finally:
        released.set()
