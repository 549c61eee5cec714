"""Tests how the gateway sanitizes text from outside, such as error messages of servers."""

import asyncio
import logging
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState, TunnelState
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.errors import DialError, FailureReason
from gateway.facts import IDENTITY, VERSION
from gateway.health.probe import probe_once
from gateway.ops import logging_setup
from gateway.processes.child_process import ChildProcess
from gateway.relay.direct_link import DirectLink, DirectLinkFactory
from gateway.supervision.uplink import Uplink
from gateway.text_sanitizer import one_line, printable

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202egpj.exe\u200b \u3164\ufeff\x9b31m\r\n\x00\ud800"
anything = st.text(st.characters(exclude_categories=()) | st.sampled_from(HOSTILE), max_size=2000)


@given(anything, st.integers(1, 600))
@example(HOSTILE, 500)
@example("a" * 100_000, 500)
@example(" " * 100_000 + "a", 500)
def test_one_line_is_printable_bounded_and_idempotent(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert line == line.strip()
    assert "  " not in line
    assert one_line(line, most) == line
    assert not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in line)
    line.encode()  # This call fails if the line contains a lone surrogate.


@given(anything)
@example(HOSTILE)
def test_printable_keeps_newlines(text: str) -> None:
    shown = printable(text)
    assert shown.count("\n") == text.count("\n")
    assert all(line.isprintable() for line in shown.split("\n"))
    assert printable(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40).filter(str.isascii))
def test_harmless_text_is_unchanged(word: str) -> None:
    assert one_line(f"{word} {word}") == f"{word} {word}"


@pytest.mark.parametrize("text", ["Zugriff verweigert für Jörg", "доступ запрещён", "アクセスが拒否されました"])
def test_other_languages_are_unchanged(text: str) -> None:
    assert one_line(text) == text


def test_truncated_text_ends_with_an_ellipsis() -> None:
    assert one_line("a" * 501) == "a" * 499 + "…"
    assert one_line("a" + " " * 10_000) == "a…"  # `one_line` reads only the first 4000 characters.
    assert one_line("refused by the server", 14) == "refused by…"
    assert one_line("refused by " + "x" * 100, 100) == "refused by " + "x" * 88 + "…"


# Tests that other modules sanitize text from outside.


@pytest.mark.parametrize(
    "error",
    [
        DialError(FailureReason.REFUSED, "db: " + HOSTILE * 100),
        EngineError(EngineErrorKind.FAILED, "db: " + HOSTILE * 100),
    ],
)
def test_error_details_are_one_line(error: Exception) -> None:
    assert str(error).startswith("db: ?[2J?]0;owned? ?gpj.exe?")
    assert str(error).isprintable()
    assert len(str(error)) <= 500


async def test_a_tunnels_detail_is_one_line() -> None:
    uplink = Uplink("bastion", DirectLinkFactory(), quiet=True)
    uplink._progress(TunnelState.SUSPECT, FailureReason.TIMEOUT, f"it says {HOSTILE}")
    assert uplink.detail.startswith("it says ?[2J")
    assert uplink.detail.isprintable()


async def test_each_line_of_a_child_process_is_sanitized() -> None:
    heard: list[str] = []
    child = await ChildProcess.start(["printf", f"first {HOSTILE[:20]}\\nsecond\\n"], "coreutils", heard.append)
    async with asyncio.timeout(20):
        await child.wait()
        await child.stop()
    assert heard[-1] == "second"
    assert heard[0].startswith("first ?[2J?]0;owned?")
    assert all(line.isprintable() for line in heard)


class Saying:
    """A backend whose probe returns or raises the given value."""

    def __init__(self, said: ProbeResult | Exception) -> None:
        self.said = said

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (ValueError(HOSTILE), HealthState.DOWN),
        (OSError(HOSTILE), HealthState.DOWN),
        (ProbeResult(unusable=(FailureReason.LAG, HOSTILE)), HealthState.DOWN),
        (ProbeResult(degraded=(FailureReason.LAG, HOSTILE)), HealthState.DEGRADED),
        (ProbeResult(facts={VERSION: HOSTILE, IDENTITY: HOSTILE}), HealthState.UP),
    ],
)
async def test_check_results_are_one_line(said: ProbeResult | Exception, state: HealthState) -> None:
    result = await probe_once(Saying(said), DirectLink(), HostPort("db", 1), 5.0)
    assert result.state is state
    found = result.probe_result or ProbeResult()
    texts = [str(text) for text in (result.detail, *found.facts.values()) if text]
    assert "?[2J?]0;owned?" in texts[0]
    assert all(text.isprintable() for text in texts)


def test_the_text_log_has_one_line_per_event(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    logging_setup.configure("info", "text")
    log = logging.getLogger("gateway.test")
    log.error("it says %s", HOSTILE, extra={"detail": HOSTILE})
    try:
        int(HOSTILE)
    except ValueError as error:
        error.add_note(HOSTILE)
        log.exception("it fails")
    logging.captureWarnings(capture=False)
    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert lines[0].count("?[2J?]0;owned?") == 2
    assert "it fails" in lines[1]
    assert lines[2] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)
