"""Reads the file of saved events, which contains one JSON object per line. Skips damaged lines."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gateway.ops.events import EventSubject, StateChange, SubjectType
from gateway.text_sanitizer import one_line

_MAX_BYTES = 4 << 20
"""Maximum number of bytes to read, from the end of the file. The gateway does not write a larger file."""
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_CLOCK_ERROR = 86400.0
"""An event's ID contains a time. This time may be up to `_CLOCK_ERROR` seconds in the future, because the clock might
have been set back after the event."""


def parse(text: str, now: float) -> Iterator[StateChange]:
    """Yield the events in an events file. Skip damaged lines, and events whose IDs are not in ascending order.

    Args:
        text: The content of the file.
        now: The current time in seconds since the epoch. A line counts as damaged if the time in its ID is more than
            a day in the future.
    """
    events = []
    for line in text.splitlines():
        with suppress(*_DAMAGED):
            events.append(_event(json.loads(line), int((now + _CLOCK_ERROR) * 1000)))
    last = 0
    for event, following in zip_longest(events, events[1:]):
        # Skip an event whose ID is not smaller than the next ID. Otherwise, one ID that is too large would exclude
        # all later events.
        if event.id > last and (following is None or event.id < following.id):
            last = event.id
            yield event


def _event(body: dict[str, Any], largest: int) -> StateChange:
    """Convert a JSON object to an event.

    Args:
        body: The object.
        largest: The largest valid ID of an event.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError: The object is not an event.
    """
    if type(body["id"]) is not int or not 0 < body["id"] <= largest:
        raise ValueError

    def text(key: str) -> str | None:
        return None if body[key] is None else one_line(body[key])

    return StateChange(
        id=body["id"],
        at=datetime.fromisoformat(body["time"]).timestamp(),
        subject=EventSubject(SubjectType(body["type"]), text("name"), text("target")),
        state=one_line(body["state"]),
        previous=text("previous"),
        reason=text("reason"),
        detail=one_line(body["detail"]),
    )


def read_events(path: Path) -> list[StateChange]:
    """Return the events in a file, oldest first. The call blocks.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - _MAX_BYTES))
        text = file.read(_MAX_BYTES).decode(errors="replace")
    # Use the current time or the file's modification time, whichever is later. After a boot without a real-time
    # clock, the current time can be too early.
    return list(parse(text, max(time.time(), status.st_mtime)))
