"""Tests how the gateway decodes and sanitizes the summaries of untrusted members."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.summary import decode_summary

VALID: dict[str, Any] = {
    "instance": "a", "version": "1", "status": "ready", "started_at": "2026-01-01T00:00:00Z", "clients": 3,
    "warnings": 0, "reload_successful": True, "tunnels": {"up": 1}, "backends": {"up": 2, "down": 1},
    "problems": [{"name": "backend b", "state": "down", "reason": "refused", "detail": "no"}],
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_a_valid_answer_is_decoded() -> None:
    found = decode_summary(json.dumps(VALID).encode())
    assert (found.instance, found.clients, found.backends) == ("a", 3, {"up": 2, "down": 1})
    assert found.problems[0].detail == "no"
    # Older versions of the gateway do not send `since` and `effects`.
    assert (found.problems[0].since, found.problems[0].effects) == ("", "")


def test_texts_become_one_short_line() -> None:
    hostile = "\x1b[2J\nforged\u202e" + "x" * 5000
    answer = {**VALID, "instance": hostile, "problems": [{"name": hostile, "detail": hostile}] * 50}
    found = decode_summary(json.dumps(answer).encode())
    for text in (found.instance, found.problems[0].name, found.problems[0].detail):
        assert text.isprintable()
        assert len(text) <= 300
    assert len(found.problems) == 10


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [
        ("2026-01-01T01:00:00.5+01:00", "2026-01-01T00:00:00.500Z"), ("2026-01-01T00:00:00", ""), ("soon", ""),
        (5, ""), (None, ""), ("9999-12-31T23:59:59Z", ""),
        ("9999-12-31T23:59:59-23:59", ""), ("0001-01-01T00:00Z", ""),
    ],
)  # fmt: skip
def test_a_time_that_is_not_valid_is_empty(sent: object, decoded: str) -> None:
    problem = {**VALID["problems"][0], "since": sent, "effects": "3 backends blocked"}
    (found,) = decode_summary(json.dumps({**VALID, "problems": [problem]}).encode()).problems
    assert (found.since, found.effects) == (decoded, "3 backends blocked")


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b'{"backends": []}', b"[" * 50000])
def test_other_answers_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the response is not"):
        decode_summary(body)


@given(st.dictionaries(st.sampled_from(sorted(VALID)), JSON))
def test_values_of_any_type_are_accepted_or_ignored(replaced: dict[str, Any]) -> None:
    found = decode_summary(json.dumps({**VALID, **replaced, "backends": {}}).encode())
    assert found.clients >= 0
    assert all(count >= 0 for count in found.tunnels.values())
    assert found.instance.isprintable()
