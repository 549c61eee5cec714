import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.docker import ownership_record
from gateway.docker.ownership_record import FILE, OwnershipRecord

UNREADABLE = "the ownership record could not be read, so endpoints of an earlier process are not detached"
UNWRITABLE = "the ownership record cannot be written, so endpoints that are created now might stay after a restart"


def test_the_ownership_record_survives_restarts_and_an_invalid_one_detaches_nothing(tmp_path: Path) -> None:
    ownership = OwnershipRecord(tmp_path)
    assert ownership.adopting
    ownership.adopt({("a", "n")})
    ownership.add("b", "n")
    again = OwnershipRecord(tmp_path)
    assert not again.adopting
    assert again.endpoints == {("a", "n"), ("b", "n")}
    again.retain({"b"})
    assert OwnershipRecord(tmp_path).endpoints == {("b", "n")}
    (tmp_path / "docker.json").write_text("{")
    broken = OwnershipRecord(tmp_path)
    assert (broken.adopting, broken.endpoints) == (False, frozenset())
    assert [text.split(":")[0] for text in broken.problems] == [UNREADABLE]
    assert (tmp_path / "docker.broken").read_text() == "{"


def test_starts_in_another_format_do_not_invalidate_the_ownership_record(tmp_path: Path) -> None:
    record = {"endpoints": [["c", "apps"]], "starts": {"c": "volume"}, "namespaces": ["o"]}
    (tmp_path / "docker.json").write_text(json.dumps(record))
    found = OwnershipRecord(tmp_path)
    assert (found.problems, found.starts, found.namespaces) == ((), {}, frozenset({"o"}))
    assert found.endpoints == {("c", "apps")}


def test_a_failed_write_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = OwnershipRecord(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(ownership_record, "replace_file", Mock(side_effect=OSError(28, "No space left on device")))
        record.add("c", "apps")
    assert record.problems == (f"{UNWRITABLE}: {tmp_path / FILE}: No space left on device",)
    record.retain({"c"})
    assert not record.problems
    assert OwnershipRecord(tmp_path).endpoints == {("c", "apps")}


def test_a_later_write_does_not_clear_the_problem_of_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("{")
    record = OwnershipRecord(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(ownership_record, "replace_file", Mock(side_effect=OSError(28, "No space left on device")))
        record.add("c", "apps")
    assert [text.split(":")[0] for text in record.problems] == [UNREADABLE, UNWRITABLE]
    record.add("d", "apps")
    assert [text.split(":")[0] for text in record.problems] == [UNREADABLE]
    assert str(tmp_path / "docker.broken") in record.problems[0]
