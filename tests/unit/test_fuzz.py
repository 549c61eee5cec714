"""Tests whether the fuzzers accept all saved inputs, and detect injected defects. See docs/testing.md."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from asyncssh.constants import MSG_CHANNEL_DATA

from gateway.relay.send_buffer import SendBuffer
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.flow_control import ReceiveWindow
from gateway.ssh.send_queue import SendQueue
from gateway.ssh.ssh_connection import SshConnection
from tests.fuzz import fixed, run
from tests.fuzz.findings import failure, file_name, minimize, name_of
from tests.fuzz.ssh.script import LONGEST, Op, Script, Step, decode, encode, mutate
from tests.fuzz.ssh.seal import OracleError
from tests.fuzz.targets import ssh_receive

INPUTS = [(name, path) for name in run.TARGETS for path in sorted((fixed.CORPUS / name).iterdir())]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_a_saved_input_passes(name: str, path: Path) -> None:
    importlib.import_module(f"tests.fuzz.targets.{name}").check(path.read_bytes())


def test_the_corpus_is_small_and_complete() -> None:
    assert {name for name, _ in INPUTS} == set(run.TARGETS)
    assert sum(path.stat().st_size for _, path in INPUTS) < 200_000


# Tests that the fuzzer ssh_receive detects injected defects.

OPEN = (Step(Op.OPEN), Step(Op.CONFIRM, b=5))
FULL = Step(Op.DATA, b=12)
SOME = Step(Op.DATA, b=4)
REKEYING = (Step(Op.OUR_REKEY), Step(Op.STALL, a=1))
Mutation = Callable[[pytest.MonkeyPatch], None]


def one_less(patch: pytest.MonkeyPatch) -> None:
    append = SendBuffer.append
    patch.setattr(SendBuffer, "append", lambda self, data: append(self, data[:-1]))


def a_grant_too_much(patch: pytest.MonkeyPatch) -> None:
    grant = ReceiveWindow.grant
    patch.setattr(ReceiveWindow, "grant", lambda self, *rest: grant(self, *rest) + 1)


def no_grant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AsyncsshRelay, "_consumed", lambda *_: None)


def an_end_that_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AsyncsshRelay, "eof_received", lambda _: True)


def no_close(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AsyncsshRelay, "_send_close", lambda _: None)


def an_exception(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    patch.setattr(AsyncsshRelay, "data_received", fail)


def data_between_keys(patch: pytest.MonkeyPatch) -> None:
    def update_may_send(self: Any) -> None:
        self.may_send = not self.blocked

    def send_packet(self: Any, kind: int, *rest: bytes, handler: Any = None) -> None:
        complete, self._kex_complete = self._kex_complete, self._kex_complete or kind == MSG_CHANNEL_DATA
        send(self, kind, *rest, handler=handler)
        self._kex_complete = complete

    send = SshConnection.send_packet
    patch.setattr(SendQueue, "update_may_send", update_may_send)
    patch.setattr(SshConnection, "send_packet", send_packet)


@pytest.mark.parametrize(
    ("mutation", "steps", "message"),
    [
        (one_less, (*OPEN, FULL), "received wrong bytes at offset"),
        (a_grant_too_much, (*OPEN, FULL, *[Step(Op.READ, b=9)] * 3), "buffered bytes and"),
        (no_grant, (*OPEN, FULL), "asyncssh, channel 0: .* bytes are granted"),
        (an_end_that_is_lost, (*OPEN, SOME, Step(Op.EOF)), "asyncssh, channel 0: the client saw no end"),
        (no_close, (*OPEN, Step(Op.HALF_CLOSE), Step(Op.EOF)), "asyncssh, channel 0: the channel is not closed"),
        (an_exception, (*OPEN, SOME), "ZeroDivisionError"),
        (data_between_keys, (*OPEN, *REKEYING, *[Step(Op.SEND, b=4)] * 2), "between KEXINIT and NEWKEYS"),
    ],
)
def test_an_injected_defect_is_detected(mutation: Mutation, steps: tuple[Step, ...], message: str) -> None:
    script = encode(Script(wired=True, steps=steps))
    ssh_receive.check(script)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OracleError, match=message):
        mutation(patch)
        ssh_receive.check(script)


# Tests of how the fuzzers encode, minimize, replay and save inputs.


def test_scripts_survive_encoding_and_mutation() -> None:
    script = Script(
        wired=True, unix=True, window=16384, end=2, steps=(*OPEN, Step(Op.DATA, 3, hold=True, illegal=True, a=63))
    )
    assert decode(encode(script)) == script
    data = b""
    for seed in range(500):
        data = mutate(data, LONGEST, seed)
        assert decode(encode(decode(data))) == decode(data)
    assert len(data) <= LONGEST


def test_a_failing_input_is_minimized_and_keeps_its_name() -> None:
    def check(data: bytes) -> None:
        if b"ab" in data and b"z" in data:
            raise ValueError(f"{len(data)} bytes")

    data = b"H" + bytes(range(100, 140)) + b"abz" + bytes(200)
    error = failure(check, data)
    assert error is not None
    least = minimize(check, data, name_of(error), unit=1, head=1)
    assert sorted(least) == sorted(b"Habz")
    assert file_name(name_of(error)).startswith("valueerror-n-bytes-")
    assert failure(check, b"") is None


def test_an_input_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input"
    path.write_bytes(encode(Script(steps=OPEN)))
    monkeypatch.setattr("sys.argv", ["run", "--target", "ssh_receive", "--replay", str(path)])
    assert run.main() == 0
    assert "confirm(0, a=0, b=5, c=0)\npasses" in capsys.readouterr().out


def test_a_fixed_run_keeps_the_inputs_that_fail_and_the_input_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Mock()
    monkeypatch.setattr(fixed, "faulthandler", timer)

    def check(data: bytes) -> None:
        if b"end" in data:
            raise SystemExit
        if b"z" in data:
            raise ValueError

    target = ModuleType("target")
    vars(target).update(check=check, describe=repr, LONGEST=10, UNIT=1, HEAD=0)
    fixed.run(target, [b"a", b"xz", b"yz"], tmp_path, count=3)
    failing, described = sorted(tmp_path.iterdir())
    assert failing.read_bytes() == b"z"
    assert described.read_text().startswith("ValueError")
    with pytest.raises(SystemExit):
        fixed.run(target, [b"a", b"the end"], tmp_path, count=2)
    assert (tmp_path / "current").read_bytes() == b"the end"
    # `fixed.run` must cancel its timer. Otherwise, the timer would end this process later.
    assert [call[0] for call in timer.method_calls[-2:]] == ["dump_traceback_later", "cancel_dump_traceback_later"]
