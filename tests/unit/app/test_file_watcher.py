import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.app import file_watcher
from gateway.app.file_watcher import FileWatcher, stat_files
from gateway.cli import cli
from gateway.config import Config, ConfigSources, load


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watcher, "_POLL_INTERVAL", 0.01)


async def watching(path: Path, act: Callable[[], object], expected: int = 0) -> list[set[Path]]:
    """Run `act`, wait until `expected` changes of `path` are reported, and return the reported changes."""
    reported: list[set[Path]] = []

    async def note(changed: set[Path]) -> None:
        reported.append(changed)

    ready = asyncio.Event()
    task = asyncio.ensure_future(FileWatcher(lambda: [path], note).run(ready.set))
    await ready.wait()
    await asyncio.sleep(0.05)
    act()
    async with asyncio.timeout(5):
        while len(reported) < expected:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait({task})
    return reported


async def test_a_rewritten_file_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, lambda: path.write_text("three"), 1) == [{path}]


async def test_a_link_that_is_swapped_is_a_change(tmp_path: Path) -> None:
    """Kubernetes updates a mounted secret by swapping a symbolic link."""
    (tmp_path / "a").write_text("same size")
    (tmp_path / "b").write_text("same-size")
    path = tmp_path / "key"
    path.symlink_to("a")

    def swap() -> None:
        (tmp_path / "new").symlink_to("b")
        (tmp_path / "new").rename(path)

    assert await watching(path, swap, 1) == [{path}]


async def test_a_removed_file_is_not_reported_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, path.unlink) == []


async def test_a_change_between_the_load_and_the_first_check_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("one")
    stamps = stat_files([path])
    path.write_text("three")
    reported: asyncio.Queue[set[Path]] = asyncio.Queue()
    task = asyncio.ensure_future(FileWatcher(lambda: [path], reported.put, stamps).run(lambda: None))
    try:
        async with asyncio.timeout(10):
            assert await reported.get() == {path}
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_run_records_the_state_of_the_file_before_it_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
    before = stat_files([path])
    seen: list[object] = []

    def load_while_it_changes(given: ConfigSources) -> Config:
        config = load(given)
        path.write_text("backends: {}")
        return config

    monkeypatch.setattr("gateway.config.loader", load_while_it_changes)
    monkeypatch.setattr("gateway.app.service.run", lambda *_, **options: seen.append(options["stamps"]))
    monkeypatch.setattr("gateway.ops.logging_setup.configure", lambda *_: None)
    monkeypatch.setattr("gateway.cli.run.exit_immediately", lambda _: None)
    done = CliRunner().invoke(cli, ["run", "-c", str(path)])
    assert (done.exit_code, seen) == (0, [before])


async def test_unchanged_files_are_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, lambda: None) == []


async def test_the_names_of_the_files_are_computed_in_a_thread(tmp_path: Path) -> None:
    asked: list[threading.Thread] = []

    def files() -> list[Path]:
        asked.append(threading.current_thread())
        return [tmp_path]

    async def note(_: set[Path]) -> None:
        raise AssertionError

    ready = asyncio.Event()
    task = asyncio.ensure_future(FileWatcher(files, note).run(ready.set))
    await ready.wait()
    task.cancel()
    await asyncio.wait({task})
    assert asked
    assert threading.main_thread() not in asked
