"""Defines and encodes the events of the audit log. Does no I/O."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

MAX_TEXT = 500
"""Maximum number of characters of a string in an event, such as a command. Callers must shorten longer strings."""
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


@lru_cache(maxsize=2)
def _date_and_time(second: int) -> str:
    """Convert seconds since the epoch to a UTC time in the format of RFC 3339, without the suffix `Z`.

    The result is cached, because many events occur in the same second.
    """
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class AuditLogEvent(NamedTuple):
    """One event of the audit log, such as a closed connection.

    Args:
        at: Time in seconds since the epoch.
        name: The kind of event, such as `connection`.
        fields: The other fields of the line. JSON must be able to represent the values.
    """

    at: float
    name: str
    fields: dict[str, Any]


def encode_line(event: AuditLogEvent, instance: str) -> bytes:
    """Encode `event` as one line of printable ASCII, so that no value can add a line or control a terminal.

    Args:
        event: The event.
        instance: This gateway's name.
    """
    second, part = divmod(event.at, 1)
    time = f"{_date_and_time(int(second))}.{int(part * 1000):03d}Z"
    text = _encode({"time": time, "event": event.name, "instance": instance, **event.fields})
    # Escape DEL (U+007F), which is the only ASCII control character that the JSON encoder does not escape.
    return text.replace("\x7f", "\\u007f").encode() + b"\n"
