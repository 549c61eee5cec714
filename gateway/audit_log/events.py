"""Events of the audit log, and the lines that they become. Pure."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

MOST_TEXT = 500
"""Characters of a text that comes from outside and may have any length, such as a path that somebody asked for."""
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """RFC 3339 without a fraction; many events share a second."""
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class Event(NamedTuple):
    """One event.

    Args:
        at: When, in seconds since the epoch.
        name: What kind of event, such as `connection`.
        fields: The rest; values that JSON can hold.
    """

    at: float
    name: str
    fields: dict[str, Any]


def line(event: Event, instance: str) -> bytes:
    """`event` as one line of ASCII, with its line end: nothing in it controls a terminal or forges another line."""
    second, part = divmod(event.at, 1)
    time = f"{_date(int(second))}.{int(part * 1000):03d}Z"
    text = _encode({"time": time, "event": event.name, "instance": instance, **event.fields})
    return text.replace("\x7f", "\\u007f").encode() + b"\n"  # DEL is the only control that JSON leaves as it is
