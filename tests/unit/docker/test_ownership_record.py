from pathlib import Path

from gateway.docker.ownership_record import FILE, OwnershipRecord


def test_the_warning_names_the_consequence_of_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    record = OwnershipRecord(tmp_path / "state")
    assert record.warning is None
    record.adopt({("network", "container")})  # fails, because the folder does not exist
    assert record.warning
    assert "cannot be written, so endpoints created now may not be detached after a restart" in record.warning
    (tmp_path / FILE).write_text("{")
    damaged = OwnershipRecord(tmp_path)
    assert damaged.warning
    assert "cannot be used, so endpoints of an earlier process are not detached" in damaged.warning
    damaged.adopt(set())
    assert damaged.warning  # a successful write does not restore the lost record
