"""Formats values, such as times and durations, for the output of commands. Does no I/O."""

from datetime import UTC, datetime
from typing import Any


def format_reason(part: dict[str, Any]) -> str:
    """Return the reason and the detail of a state; an empty string if the state has neither.

    Args:
        part: A tunnel, backend or target of `/api/v1/status`, or another dictionary with `reason` and `detail`.
    """
    if part["reason"] in (None, "tunnel"):  # omit the reason `tunnel`: the detail names the failed tunnel
        return str(part["detail"])
    return f"{part['reason']}: {part['detail']}"


def format_ms(seconds: float | None) -> str:
    """Return a duration in milliseconds; `-` for None."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f}ms"


def plain_commands(text: str) -> str:
    """Return `text` without the backquotes that mark commands on the status page."""
    return text.replace("`", "")


def format_clock(time: str | None) -> str:
    """Return an RFC 3339 timestamp as a local time; `-` for None. Include the date if it is not today."""
    if time is None:
        return "-"
    moment = datetime.fromisoformat(time).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def format_age(time: str) -> str:
    """Return the age of an RFC 3339 timestamp, rounded down to a single unit, such as `3d`, `5h`, `10m` or `42s`."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
