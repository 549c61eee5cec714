"""Tests that each saved input of the fuzzers passes, and that the oracles detect defects; see docs/testing.md."""

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asyncssh.constants import MSG_CHANNEL_DATA

from gateway.relay.send_buffer import SendBuffer
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.flow_control import ReceiveWindow
from gateway.ssh.send_queue import SendQueue
from gateway.ssh.ssh_connection import SshConnection
from tests.fuzz import fixed, run
from tests.fuzz.findings import failure, file_name, minimize, name_of
from tests.fuzz.native import run as native
from tests.fuzz.native.build import ENGINE, Build
from tests.fuzz.ssh.script import LONGEST, Op, Script, Step, decode, encode, mutate
from tests.fuzz.ssh.seal import OracleError
from tests.fuzz.targets import ssh_receive
from tests.support.requirements import need, need_data_plane
from tools.newest_program import newest_program

INPUTS = [(name, path) for name in run.TARGETS for path in sorted((fixed.CORPUS / name).iterdir())]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_a_saved_input_passes(name: str, path: Path) -> None:
    importlib.import_module(f"tests.fuzz.targets.{name}").check(path.read_bytes())


def test_the_corpus_is_small_and_complete() -> None:
    assert {name for name, _ in INPUTS} == set(run.TARGETS)
    assert sum(path.stat().st_size for _, path in INPUTS) < 200_000


# The oracles of ssh_receive: for each injected defect, a script makes an oracle fail.

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


# The oracles of the engine in C: for each injected defect, a saved input makes an oracle fail.


def replay(program: Path) -> str:
    """Run the saved inputs of the engine. Return the error, or an empty string."""
    inputs = sorted(map(str, native.CORPUS.iterdir()))
    done = subprocess.run(
        [program, *inputs], capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need(newest_program("gcc") is not None, "gcc")
    need_data_plane()  # it needs OpenSSL's headers, like the harness
    build = Build(tmp_path_factory.mktemp("native"), replay=True, sanitize=False)
    assert replay(build.run()) == ""
    return build


@pytest.mark.parametrize(
    ("name", "code", "defect", "message"),
    [
        ("channel.c", "window_remaining += grant;", "window_remaining += grant + 1;", "a window of"),
        ("channel.c", "    w->growth_available += c->growth;", "", "the growth of windows is not accounted"),
        ("delivery.c", "*total += *sent_of_first", "*total += offered", "a window of"),
        ("receive.c", "if (c->window_remaining < 0)", "if (0)", "a negative window"),
        ("rpc.c", "s->is_continuation = !(mark & LAST_FRAGMENT);", "", "a message that has not arrived"),
        ("rpc.c", "get_u32(s->header + 4)", "0", "a message has a wrong header"),
        ("rpc.c", "length - rest > MAX_FRAGMENT", "length - rest > 150", "RPC are reported"),
        (
            "delivery.c",
            "for (int at = rest; at != NO_INDEX && c->observer.tap;",
            "for (int at = rest; 0;",
            "is not reported",
        ),
        (
            "receive.c",
            "get_u32(p.body + header - 4) : 0;\n\n    if (p.size < header || ",
            "get_u32(p.body + header - 4) : ~0u;\n\n    if (",
            "an allocation of",
        ),
        ("receive.c", "w->recv_seq = 0;", ";", "a legal server is accused"),
        ("client.c", "c->peer_window -= count;", "", "bytes for a window of"),
        ("client.c", "send_short(c->wire, MSG_CHANNEL_EOF, c->peer, NULL);", "", "the end of the client's stream"),
        ("send.c", "w->blocked || w->paused || w->closed", "w->blocked || w->closed", "in a key exchange"),
        ("turns.c", "        if (!c->ended)\n            client_update_mask(c);", "", "waits for"),
        ("chunks.c", "c->sent += count;", "c->sent += count + (count > 100);", "wrong bytes"),
        ("queue.c", "        close_client_of(&header);", ";", "descriptors are not closed"),
        ("latency.c", "    e->stall_scan_due = 0;", "", "does not become idle"),
        ("client.c", "        c->stall.since = 0;", "", "descriptor -1 is closed"),
        ("listener.c", "l->accepted < l->permitted && !withdrawn(l)", "!withdrawn(l)", "clients are accepted"),
        ("listener.c", "= !withdrawn(l) && allowed", "= allowed", "after the rule was withdrawn"),
        ("listener.c", ">> (8 - rest)", ">> (9 - rest)", "a forbidden address"),
        ("pending.c", "            give_back(p);", "", "in a wrong state is pending"),
        ("dial.c", "    set_options(l, fd);", "", "options are set before the dial"),
        ("dial.c", "!is_self_connected(d->fd, &d->pending.listener->setup->address) && ", "", "not a connection"),
        ("dial.c", "    if (d->watched)", "    if (0)", "a pair in a wrong state"),
        ("dial.c", "    close(d->fd);", "", "a dialed socket is lost"),
        ("pending.c", "dial_close((struct dial *)p->owner);", ";", "a dialed socket is lost"),
        ("side.c", "    if (fin_missing(s)) {", "    if (0) {", "a reset is passed on as an end of stream"),
        (
            "side.c",
            "    pipe_release(s->pair->engine, &s->pipe);\n}\n\n/* Pass the end",
            "}\n\n/* Pass the end",
            "a pipe without data",
        ),
        ("side.c", "data + sent, size - (size_t)sent", "data, size - (size_t)sent", "an end gets wrong bytes"),
        ("side.c", "e->cannot_splice = count < 0", "e->cannot_splice = 0", "is reset without a reason"),
        ("side.c", "!s->pair->observer.tap && !s->discarding &&", "!s->discarding &&", "the tap"),
        ("pair.c", "    if (!e->pairs)\n        pipes_close(e);", "", "pipes are kept without pairs"),
        ("pair.c", "    else if (s->discarding)\n        lingering = s->fd;", "", "gets no reset"),
        (
            "pending.c",
            "    if (l->stopped && !l->pending)\n        listener_free(l);",
            "",
            "without clients is not freed",
        ),
        ("served.c", "l->served_to_backend += atomic", "l->served_to_backend = atomic", "a wrong sum of clients"),
        ("served.c", "    report_served(l);\n    report", "    report", "is not reported before the listener stops"),
        ("served.c", "j->previous->next = j->next;", ";", "a client in a wrong state"),
        ("served.c", "--l->accepted", "l->accepted", "clients are accepted"),
        ("served.c", "->at + SOON <= now", "->at + 2 * SOON <= now", "a client is not reported"),
        ("ending.c", "        slot_release(c->engine, c->token);", "        ;", "is not free"),
        ("wire.c", "    joined_report_lost(e, w->token);", "", "whose loss was reported before"),
    ],
)
def test_an_injected_defect_of_the_engine_is_detected(
    name: str, code: str, defect: str, message: str, harness: Build
) -> None:
    original = ENGINE / name
    source = original.read_text()
    assert code in source
    changed = harness.folder / name
    changed.write_text(source.replace(code, defect, 1))
    try:
        assert message in replay(harness.replace(changed))
    finally:
        harness.replace(original)


# Tests of the tools of the fuzzers.


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


def test_a_fixed_run_keeps_the_inputs_that_fail_and_the_input_that_ends_the_process(tmp_path: Path) -> None:
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
