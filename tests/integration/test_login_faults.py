"""Tests whether an SSH login leaks resources if the login fails or is cancelled at any `await`."""

import asyncio
import os
import subprocess
from collections.abc import Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.server_process import find
from gateway.demo.sshd import Bastion
from gateway.errors import FailureReason, TunnelError
from gateway.relay.direct_link import DirectLink
from gateway.ssh import asyncssh_internals
from gateway.ssh.options import SshOptions
from gateway.ssh.pooled_connection import PooledConnection
from gateway.tunnels.ssh import SshTunnel
from tests.support.requirements import need, need_sshd
from tests.support.ssh_sessions import options, until_engines_are_idle

pytestmark = pytest.mark.integration


class FaultInjector:
    """An awaitable that runs a coroutine, and injects a fault when the coroutine waits for a future.

    Args:
        inner: The coroutine to run.
        at: How many times the coroutine waits without a fault before the test injects the fault.
        fault: The kind of fault. `cancelled` cancels the future. `late` cancels the coroutine when the future is
            done. `failed` throws `OSError` into the coroutine when the future is done. `expired` makes the newest
            deadline expire.
        deadlines: The `asyncio.timeout` objects that the coroutine has created.
    """

    def __init__(
        self, inner: Coroutine[Any, Any, Any], at: int, fault: str, deadlines: list[asyncio.Timeout]
    ) -> None:
        self.struck = False
        self._inner = inner
        self._at = at
        self._fault = fault
        self._deadlines = deadlines

    def __await__(self) -> Generator[Any, None, Any]:
        step, thrown = 0, None
        while True:
            try:
                waits = self._inner.send(None) if thrown is None else self._inner.throw(thrown)
            except StopIteration as done:
                return done.value
            thrown = None
            if step == self._at:
                self.struck = True
                if self._fault == "cancelled" and waits is not None:
                    waits.cancel()
                elif self._fault == "expired":
                    self._deadlines[-1].reschedule(0)
            try:
                yield waits
            except BaseException as error:  # noqa: BLE001 - the error is thrown into the coroutine
                thrown = error
            if step == self._at and thrown is None and self._fault != "expired":
                thrown = OSError("a fault") if self._fault == "failed" else asyncio.CancelledError()
            step += 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    need_sshd()
    bastion = Bastion(tmp_path_factory.mktemp("faults") / "bastion").start()
    yield bastion
    bastion.stop()


@pytest.fixture(scope="module")
def agent(server: Bastion) -> Iterator[Path]:
    need(find("ssh-agent") is not None, "ssh-agent (package openssh-client)")
    path = server.folder / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the agent prints a line as soon as its socket exists
            environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", server.client_key], env=environment, check=True, timeout=10)
            yield path
        finally:
            process.kill()


def open_things() -> tuple[int, int, int, int]:
    """Return the numbers of file descriptors, relay handlers, files in asyncio's selector, and tasks."""
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    return (
        len(list(Path("/proc/self/fd").iterdir())),
        len(selector._handlers),
        len(selector.get_map()),
        len(asyncio.all_tasks()),
    )


def connecting(chosen: SshOptions) -> Coroutine[Any, Any, PooledConnection]:
    return SshTunnel(chosen)._connect(DirectLink(), None, lambda *_: None)


@pytest.mark.parametrize(
    ("fault", "plane"),
    [
        *((fault, "native") for fault in ("cancelled", "late", "failed", "expired")),
        # This list omits `failed`, because asyncssh's own `connect` waits for a future that cannot fail.
        *((fault, "another asyncssh") for fault in ("cancelled", "late", "expired")),
    ],
)
async def test_a_fault_at_any_await_of_a_login_leaks_nothing(
    server: Bastion, agent: Path, monkeypatch: pytest.MonkeyPatch, fault: str, plane: str
) -> None:
    if plane != "native":
        monkeypatch.setattr(asyncssh_internals, "SUPPORTED_VERSIONS", ())
    chosen = options(server, identity_files=(), agent=agent)
    await (await connecting(chosen)).close()  # the first login opens descriptors of the native engine that stay open
    await until_engines_are_idle()
    before = await until_no_more(open_things(), server)
    made: list[asyncio.Timeout] = []
    original = asyncio.timeout

    def noted(delay: float | None) -> asyncio.Timeout:
        made.append(original(delay))
        return made[-1]

    for at in range(100):
        monkeypatch.setattr(asyncio, "timeout", noted)
        struck = FaultInjector(connecting(chosen), at, fault, made)
        (outcome,) = await asyncio.gather(struck, return_exceptions=True)
        if isinstance(outcome, PooledConnection):
            await outcome.close()
            if not struck.struck:
                break
        else:
            assert struck.struck
            assert isinstance(outcome, (asyncio.CancelledError, OSError, TunnelError))
            assert fault != "expired" or (
                isinstance(outcome, TunnelError) and outcome.reason is FailureReason.TIMEOUT
            )
        monkeypatch.setattr(asyncio, "timeout", original)
        before = await until_no_more(before, server)
    else:
        pytest.fail("the login has too many suspensions")
    assert at > 4


async def until_no_more(before: tuple[int, ...], server: Bastion) -> tuple[int, ...]:
    """Wait until neither this process nor the server has more resources than before the login.

    Returns:
        The numbers of resources now. They can be smaller: descriptors of earlier tests can be closed late.
    """
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        now = open_things()
        if not server.sessions() and all(count <= limit for count, limit in zip(now, before, strict=True)):
            return now
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"left behind: {now} instead of {before} (descriptors, handlers, files, tasks)")
        await asyncio.sleep(0.005)
