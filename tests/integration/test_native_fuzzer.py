"""Tests whether the fuzzer of the native engine detects injected defects.

Each test injects one defect into the source code, builds the fuzzer, and runs the saved inputs. The fuzzer must
report the expected error.
"""

import subprocess
from pathlib import Path

import pytest

from tests.fuzz.native import run as native
from tests.fuzz.native.build import ENGINE, Build
from tests.support.requirements import need, need_data_plane
from tools.newest_program import newest_program

pytestmark = pytest.mark.integration


def replay(program: Path) -> str:
    """Run the fuzzer's program with all saved inputs; return its error, or an empty string."""
    inputs = sorted(map(str, native.CORPUS.iterdir()))
    done = subprocess.run(
        [program, *inputs], capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need(newest_program("gcc") is not None, "gcc")
    need_data_plane()  # the fuzzer needs OpenSSL's headers, like the native engine
    build = Build(tmp_path_factory.mktemp("native"), replay=True, sanitize=False)
    assert replay(build.run()) == ""
    return build


@pytest.mark.parametrize(
    ("name", "code", "defect", "message"),
    [
        ("channel.c", "window_remaining += grant;", "window_remaining += grant + 1;", "a window of"),
        ("channel.c", "    conn->growth_available += c->growth;", "", "the growth of windows is not accounted"),
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
        ("receive.c", "conn->recv_seq = 0;", ";", "a legal server is accused"),
        ("client.c", "c->peer_window -= count;", "", "bytes for a window of"),
        (
            "client.c",
            "send_short(c->connection, MSG_CHANNEL_EOF, c->peer, NULL);",
            "",
            "the end of the client's stream",
        ),
        (
            "send.c",
            "conn->blocked || conn->paused || conn->closed",
            "conn->blocked || conn->closed",
            "in a key exchange",
        ),
        ("turns.c", "        if (!c->ended)\n            client_update_mask(c);", "", "waits for"),
        ("chunks.c", "c->sent += count;", "c->sent += count + (count > 100);", "wrong bytes"),
        ("queue.c", "        close_client_of(&header);", ";", "descriptors are not closed"),
        ("liveness.c", "    e->liveness_scan_due = 0;", "", "does not become idle"),
        ("client.c", "    c->liveness.watched = false;", "", "a closed socket is watched"),
        ("listener.c", "l->accepted < l->permitted && !withdrawn(l)", "!withdrawn(l)", "clients are accepted"),
        ("listener.c", "= !withdrawn(l) && allowed", "= allowed", "after the rule was withdrawn"),
        ("listener.c", ">> (8 - rest)", ">> (9 - rest)", "a forbidden address"),
        ("pending.c", "            give_back(p, true);", "", "in a wrong state is pending"),
        ("dial.c", "    set_options(l, fd);", "", "options are set before the dial"),
        ("dial.c", "!is_self_connected(d->fd, &d->pending.listener->setup->address) && ", "", "not a connection"),
        ("dial.c", "    if (d->watched)", "    if (0)", "a pair in a wrong state"),
        ("dial.c", "    close(d->fd);", "", "a dialed socket is lost"),
        ("pending.c", "dial_close((struct dial *)p->owner);", ";", "a dialed socket is lost"),
        ("side.c", "    if (fin_missing(s)) {", "    if (0) {", "a reset is passed on as an end of stream"),
        (
            "side.c",
            "    pipe_release(s->pair->engine, &s->pipe);\n}\n\n/* Forward the end",
            "}\n\n/* Forward the end",
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
        ("served.c", "< l->setup->min_responses", "< 0", "whether the end of a client is reported"),
        ("served.c", "    listener_permit_returned(l);", "", "a listener with permits waits"),
        ("pending.c", "            schedule_slow_scan(e, l->permit_due);", ";", "waits for a permit too long"),
        ("served.c", "->at + SOON <= now", "->at + 2 * SOON <= now", "a client is not reported"),
        ("ending.c", "        slot_release(c->engine, c->token);", "        ;", "is not free"),
        ("connection.c", "    joined_report_lost(e, conn->token);", "", "whose loss was reported before"),
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
