"""Reads the lines of an audit log."""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def lines(path: Path, event: str | None = None, **fields: object) -> list[Line]:
    """Return the lines of the log with this event and these field values. Skip a line that is only partly written."""
    text = path.read_text() if path.exists() else ""
    found = [json.loads(each) for each in text.splitlines(keepends=True) if each.endswith("\n")]
    return [
        each
        for each in found
        if event in (None, each["event"]) and all(each[name] == value for name, value in fields.items())
    ]
