"""Tests the limits of YAML documents and files that users pass."""

import io
import time
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from gateway import input_size_limits
from gateway.input_size_limits import TooManyValuesError, load_yaml, read_limited, read_stream

EXPANDING = "a0: &a0 [1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 30)
)
MERGING = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 30)
)
NUMBERS = [
    "1" * 5000, "0x" + "f" * 6000, "1." + "0" * 400, "!!int 1" + ":1" * 500_000, "!!float 1" + ":1" * 500 + ".5",
]  # fmt: skip
TAGS = ("int", "float", "bool", "timestamp")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: &x [1, 2]\nb: *x\n", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}\n", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        (
            "[0, -7, 1_000, 010, 0x1F, 0b101, 1.5, .5, -1., 1e3, 1.0e+3]",
            [0, -7, 1000, 8, 31, 5, 1.5, 0.5, -1.0, "1e3", 1000.0],
        ),
        ("[22:22, 1:1.5, 2026-02-28]", ["22:22", "1:1.5", date(2026, 2, 28)]),
    ],
)
def test_a_document_is_read_with_its_aliases(text: str, value: Any) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize("text", [EXPANDING, MERGING])
def test_a_document_with_too_many_values_is_refused(text: str) -> None:
    began = time.process_time()
    with pytest.raises(TooManyValuesError, match="has more than 100000 values"):
        load_yaml(text)
    assert time.process_time() - began < 60


def test_a_list_with_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_size_limits, "MAX_VALUES", 1000)
    assert len(load_yaml("[" + "1," * 990 + "]")) == 990
    with pytest.raises(TooManyValuesError, match="has more than 1000 values"):
        load_yaml("[" + "1," * 1001 + "]")


def test_the_parser_stops_at_twice_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_size_limits, "MAX_VALUES", 1000)
    monkeypatch.setattr(input_size_limits, "_count", Mock(side_effect=AssertionError))
    with pytest.raises(TooManyValuesError):
        load_yaml("[" + "1," * 2001 + "]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [*x]", "contains itself"),
        ("a: 2026-02-31", "does not exist"),
        *((f"a: {number}", "more than 100 characters") for number in NUMBERS),
        *((f"a: !!{tag} {text}", "does not match its tag") for tag in TAGS for text in ("''", "x")),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError, match=words):
        load_yaml(text)


def test_large_files_and_streams_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(4 << 20))
    assert len(read_limited(file)) == 4 << 20
    with pytest.raises(OSError, match="larger than 4 MiB"):
        read_stream(io.BytesIO(bytes((4 << 20) + 1)))
