import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.app import filewatch
from gateway.app.filewatch import FileWatch, stat_files
from gateway.cli import cli
from gateway.config import Config, Sources, load


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filewatch, "_POLL_INTERVAL", 0.01)


async def watching(path: Path, act: Callable[[], object], expected: int = 0) -> list[set[Path]]:
    """What is told about `path` when `act` is done to it, and `expected` is waited for."""
    told: list[set[Path]] = []

    async def note(changed: set[Path]) -> None:
        told.append(changed)

    ready = asyncio.Event()
    task = asyncio.ensure_future(FileWatch(lambda: [path], note).run(ready.set))
    await ready.wait()
    await asyncio.sleep(0.05)
    act()
    async with asyncio.timeout(5):
        while len(told) < expected:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait({task})
    return told


async def test_a_file_that_is_written_anew_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, lambda: path.write_text("three"), 1) == [{path}]


async def test_a_link_that_is_swapped_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted secret."""
    (tmp_path / "a").write_text("same size")
    (tmp_path / "b").write_text("same-size")
    path = tmp_path / "key"
    path.symlink_to("a")

    def swap() -> None:
        (tmp_path / "new").symlink_to("b")
        (tmp_path / "new").rename(path)

    assert await watching(path, swap, 1) == [{path}]


async def test_a_file_that_goes_away_is_not_told_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, path.unlink) == []


async def test_what_was_written_between_its_reading_and_the_first_look_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("one")
    stamps = stat_files([path])
    path.write_text("three")
    told: asyncio.Queue[set[Path]] = asyncio.Queue()
    task = asyncio.ensure_future(FileWatch(lambda: [path], told.put, stamps).run(lambda: None))
    try:
        async with asyncio.timeout(10):
            assert await told.get() == {path}
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_run_looks_at_the_file_before_it_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
    before = stat_files([path])
    seen: list[object] = []

    def load_while_it_changes(given: Sources) -> Config:
        config = load(given)
        path.write_text("backends: {}")
        return config

    monkeypatch.setattr("gateway.config.load", load_while_it_changes)
    monkeypatch.setattr("gateway.app.service.run", lambda *_, **options: seen.append(options["stamps"]))
    monkeypatch.setattr("gateway.ops.logs.configure", lambda *_: None)
    monkeypatch.setattr("gateway.cli.run._exit", lambda _: None)
    done = CliRunner().invoke(cli, ["run", "-c", str(path)])
    assert (done.exit_code, seen) == (0, [before])


async def test_nothing_is_told_of_files_that_stay(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    assert await watching(path, lambda: None) == []


async def test_the_names_of_the_files_are_always_asked_for_in_a_thread(tmp_path: Path) -> None:
    asked: list[threading.Thread] = []

    def files() -> list[Path]:
        asked.append(threading.current_thread())
        return [tmp_path]

    async def note(_: set[Path]) -> None:
        raise AssertionError

    ready = asyncio.Event()
    task = asyncio.ensure_future(FileWatch(files, note).run(ready.set))
    await ready.wait()
    task.cancel()
    await asyncio.wait({task})
    assert asked
    assert threading.main_thread() not in asked
