"""Tests of `password_command`: how the program runs, what it inherits, and how long the password is cached."""

import asyncio
import errno
import logging
import os
import re
import stat
import time
from pathlib import Path

import pytest

from gateway.backend_support.password_command import run_password_command
from gateway.backend_support.password_source import PasswordSource
from gateway.backend_support.sql_check_options import SqlCheckOptions, verify
from gateway.backends import EmptyOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.backends.postgres import PostgresBackend
from gateway.config import ConfigSources, load
from gateway.config.referenced_file_checks import check_files
from gateway.contracts.backend import Backend
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.errors import ConfigError, FailureReason, GatewayError, TargetPathError, UnusableTargetError
from gateway.health.probe import probe_once
from gateway.relay.direct_link import DirectLink

TARGET = HostPort("db.internal", 3306)


def script(folder: Path, body: str) -> str:
    path = folder / "token"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


async def failure(*command: str, within: float = 30.0) -> str:
    with pytest.raises(TargetPathError) as caught:
        await run_password_command(command, (), within)
    assert caught.value.reason is FailureReason.AUTH
    return caught.value.detail


async def test_the_output_line_is_the_password_and_no_shell_runs() -> None:
    assert await run_password_command(["printf", "%s\\n", "$HOME; `id` *"], (), 30) == "$HOME; `id` *"


async def test_the_program_inherits_only_permitted_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BACKEND_ORDERS", "mysql://db?check.password=hunter2")
    monkeypatch.setenv("AWS_PROFILE", "production")
    found = await run_password_command(
        [script(tmp_path, "env | cut -d= -f1 | sort | tr '\\n' ' '")], ["AWS_PROFILE"], 30
    )
    names = set(found.split())
    assert {"AWS_PROFILE", "HOME", "PATH"} <= names
    assert "GATEWAY_BACKEND_ORDERS" not in names
    assert names <= {"AWS_PROFILE", "HOME", "PATH", "LANG", "LC_ALL", "TZ", "PWD", "SHLVL", "_", "OLDPWD"}


async def test_the_output_of_the_program_appears_in_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for body, why in (
        ("echo hunter2; exit 3", "token ended with exit code 3"),
        ("echo hunter2; kill -9 $$", "token ended with signal 9"),
        ("echo hunter2; echo hunter2", "token printed several lines, but must print the password as one line"),
        ("true", "token printed nothing, but must print the password as one line"),
        ("printf 'hunter2\\377'", "token printed text that is not UTF-8"),
        ("yes hunter2", "token printed more than 64 KiB"),
    ):
        assert await failure(script(tmp_path, body)) == f"check.password_command: {why}"
    assert (
        await failure("/nonexistent/program")
        == "check.password_command: /nonexistent/program: no such file: correct the path"
    )
    assert "hunter2" not in caplog.text


async def test_the_standard_error_of_the_program_is_logged_as_one_clean_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await failure(script(tmp_path, "printf 'no \\033[31mcredentials\\nat all' >&2; exit 1"))
    (record,) = caplog.records
    assert record.__dict__["stderr"] == "no ?[31mcredentials at all"


async def test_a_child_that_keeps_the_standard_output_open_does_not_delay_the_password(tmp_path: Path) -> None:
    assert await run_password_command([script(tmp_path, "sleep 1000 & echo hunter2")], (), 30) == "hunter2"


async def test_the_password_command_needs_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("gateway.backend_support.password_command.open_pipe", fail)
    with pytest.raises(TargetPathError, match="token cannot be started: Too many open files") as caught:
        await run_password_command([script(tmp_path, "echo hunter2")], (), 30)
    assert caught.value.reason is FailureReason.RESET


async def test_the_program_and_its_children_are_killed_at_the_deadline(tmp_path: Path) -> None:
    mark = tmp_path / "pids"
    body = f"sleep 1000 & echo $! $$ > {mark}; exec sleep 1000"
    for within in (5, 25):
        assert f"did not exit within {within} s" in await failure(script(tmp_path, body), within=within)
        if mark.exists():
            break  # On a slow machine, the timeout can stop the program before it writes the file.
    for pid in mark.read_text().split():
        await gone(int(pid))


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["after the start", "during the start"])
async def test_the_program_and_its_children_are_killed_when_the_gateway_stops(tmp_path: Path, pause: float) -> None:
    mark = tmp_path / "pids"
    asking = asyncio.create_task(
        run_password_command([script(tmp_path, f"sleep 1000 & echo $! $$ > {mark}; exec sleep 1000")], (), 100)
    )
    while not (mark.exists() and mark.read_text().endswith("\n")):
        await asyncio.sleep(0 if pause else 0.02)
        time.sleep(pause)  # noqa: ASYNC251 - Let the program run before the event loop has finished its start.
    asking.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await asking
    for pid in mark.read_text().split():
        await gone(int(pid))


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return True
    return state == "Z"  # In a container without an init process, an orphan stays a zombie after its end.


async def gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        if ended(pid):
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def counting(folder: Path) -> str:
    """Return the path of a program that prints the number of its runs and its arguments."""
    return script(folder, f'echo x >> {folder}/runs; echo "$(wc -l < {folder}/runs) $*"')


async def test_the_password_is_cached_and_requested_again_after_a_refused_login(tmp_path: Path) -> None:
    passwords = PasswordSource()
    check = SqlCheckOptions(user="u", password_command=(counting(tmp_path), "{host}:{port}", "--user={user}"))
    assert await passwords.get(check, TARGET, PhaseTimer()) == "1 db.internal:3306 --user=u"
    assert await passwords.get(check, TARGET, PhaseTimer()) == "1 db.internal:3306 --user=u"
    assert await passwords.get(check, HostPort("other", 1), PhaseTimer()) == "2 other:1 --user=u"
    passwords.report(check, TARGET, UnusableTargetError(FailureReason.TIMEOUT, "no"))
    passwords.report(check, TARGET, None)
    assert (await passwords.get(check, TARGET, PhaseTimer())).startswith("1 ")
    passwords.report(check, TARGET, UnusableTargetError(FailureReason.AUTH, "no"))
    assert (await passwords.get(check, TARGET, PhaseTimer())).startswith("3 ")
    assert (await passwords.get(check, HostPort("other", 1), PhaseTimer())).startswith("2 ")


@pytest.mark.parametrize(
    "backend",
    [
        MysqlBackend(EmptyOptions(), MysqlCheckOptions(user="u", password_command=("/bin/false",))),
        PostgresBackend(EmptyOptions(), SqlCheckOptions(user="u", password_command=("/bin/false",))),
    ],
    ids=["mysql", "postgres"],
)
async def test_a_failing_password_command_makes_the_target_down(backend: Backend) -> None:
    result = await probe_once(backend, DirectLink(), HostPort("127.0.0.1", 1), 30)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.AUTH)
    assert result.detail == "check.password_command: false ended with exit code 1"


async def test_an_old_password_is_requested_again(tmp_path: Path) -> None:
    passwords = PasswordSource()
    check = SqlCheckOptions(user="u", password_command=(counting(tmp_path),), password_cache=Duration(0.0))
    found = [await passwords.get(check, TARGET, PhaseTimer()) for _ in range(2)]
    assert [each[0] for each in found] == ["1", "2"]
    script(tmp_path, "exit 1")
    with pytest.raises(TargetPathError):
        await passwords.get(check, TARGET, PhaseTimer())
    assert not passwords._cache


async def test_a_check_that_ends_first_leaves_the_program_running_for_the_next(tmp_path: Path) -> None:
    passwords, phases, go = PasswordSource(), PhaseTimer(), tmp_path / "go"
    slow = script(tmp_path, f"echo x >> {tmp_path}/runs; while ! test -e {go}; do sleep 0.05; done; echo token")
    check = SqlCheckOptions(user="u", password_command=(slow,), password_timeout=Duration(60.0))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(passwords.get(check, TARGET, phases), 0.3)
        assert phases.timeout_hint == "password_command is still running"
    go.touch()
    assert await passwords.get(check, TARGET, phases) == "token"
    assert (tmp_path / "runs").read_text().count("x") == 1


def test_password_command_and_password_exclude_each_other() -> None:
    with pytest.raises(
        ValueError, match=r"^password_command: is set together with password_file: remove one of them"
    ):
        SqlCheckOptions(password=Secret(path=Path("/x")), password_command=("y",))
    with pytest.raises(ValueError, match=r"^password_command: is set together with password: remove one of them"):
        SqlCheckOptions(password=Secret("x"), password_command=("y",))


def test_a_world_writable_program_is_not_run(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o711)  # Other users can access the directory, as with /usr/local/bin.
    path = Path(script(tmp_path, "echo hunter2"))
    link = tmp_path / "link"
    link.symlink_to(path)
    path.chmod(0o777)
    for name in (path, link):
        assert "everybody can change it (mode 0777): chmod o-w" in asyncio.run(failure(str(name)))
        with pytest.raises(GatewayError, match="everybody can change it"):
            verify(EmptyOptions(), SqlCheckOptions(user="u", password_command=(str(name),)))
    path.chmod(0o755)
    tmp_path.chmod(0o777)
    assert f"everybody can replace it in {tmp_path}" in asyncio.run(failure(str(path)))
    tmp_path.chmod(0o1777)  # With the sticky bit, users can replace only their own files.
    assert asyncio.run(run_password_command([str(path)], (), 30)) == "hunter2"


def test_a_placeholder_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^password_command: \{hostname\} is not a placeholder \(use \{host\}, "):
        SqlCheckOptions(password_command=("token", "--host={hostname}"))
    SqlCheckOptions(password_command=("sh", "-c", "echo ${x} { y } {host}:{port}"))


@pytest.mark.parametrize(
    ("check", "reported"),
    [
        (
            "password_command: '/x/pgpass.sh {host} > x'",
            "3:29: backends.a.check.password_command: .*write .program, arg",
        ),
        ("password_command: [/absent/token]", r"3:29: .*password_command: /absent/token: no such file"),
        ("password_command: [/etc]", r"3:29: .*password_command: /etc: cannot be executed"),
        ("password_command: [absent-token]", r"3:29: .*password_command: absent-token is not installed"),
        (
            "password_command: [t], password: x",
            "3:29: backends.a.check.password_command: is set together with password: ",
        ),
        (
            "tls: {mode: verify, ca_file: /etc/hostname}",
            r"3:\d\d: backends.a.check.tls.ca_file: /etc/hostname: contains no",
        ),
    ],
)
def test_validate_names_the_key_and_what_to_do(tmp_path: Path, check: str, reported: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"backends:\n  a: {{kind: postgres, targets: db,\n  check: {{{check}}}}}\n")
    file.chmod(0o600)
    try:
        problems = check_files(load(ConfigSources(file, environment={})))
    except ConfigError as error:
        problems = error.problems
    (line,) = (str(each).removeprefix(f"{file}:") for each in problems)
    assert re.match(reported, line), line
