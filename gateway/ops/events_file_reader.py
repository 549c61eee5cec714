"""Reads the events in the events file, one JSON object per line. Skips damaged lines."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gateway.ops.events import EventSubject, EventType, Transition
from gateway.text_sanitizer import one_line

_MAX_BYTES = 4 << 20
"""Only this part at the end of a file is read. A complete file is smaller."""
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_CLOCK_ERROR = 86400.0
"""Seconds. An ID is a time, and can be later than the present by this much, because a clock can be set back."""


def parse(text: str, now: float) -> Iterator[Transition]:
    """Yield the events in the text of a file. Skip damaged lines, and lines that are not in order.

    Args:
        text: The text.
        now: The present time in seconds since the epoch. A line with an ID that is over a day later is damaged.
    """
    events = []
    for line in text.splitlines():
        with suppress(*_DAMAGED):
            events.append(_event(json.loads(line), int((now + _CLOCK_ERROR) * 1000)))
    last = 0
    for event, following in zip_longest(events, events[1:]):
        # An ID that is too large must not exclude all events after it.
        if event.id > last and (following is None or event.id < following.id):
            last = event.id
            yield event


def _event(body: dict[str, Any], largest: int) -> Transition:
    """Return the event in a JSON object.

    Args:
        body: The object.
        largest: The largest ID that an event can have.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError: The object is not an event.
    """
    if type(body["id"]) is not int or not 0 < body["id"] <= largest:
        raise ValueError

    def text(key: str) -> str | None:
        return None if body[key] is None else one_line(body[key])

    return Transition(
        id=body["id"],
        at=datetime.fromisoformat(body["time"]).timestamp(),
        subject=EventSubject(EventType(body["type"]), text("name"), text("target")),
        state=one_line(body["state"]),
        previous=text("previous"),
        reason=text("reason"),
        detail=one_line(body["detail"]),
    )


def read_events(path: Path) -> list[Transition]:
    """Return the events in a file, oldest first. Blocks.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - _MAX_BYTES))
        text = file.read(_MAX_BYTES).decode(errors="replace")
    # After a boot without a real-time clock, the present time can be earlier than that of the file.
    return list(parse(text, max(time.time(), status.st_mtime)))
