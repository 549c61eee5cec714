"""Formats times on the HTML pages, in UTC. With scripts, the browser converts them to its time zone."""

from datetime import UTC, datetime

_DAY = 86400.0


def clock_time(seconds: float, now: float) -> str:
    """Return a time in UTC, with the date if it is more than a day before `now`.

    Args:
        seconds: Seconds since the epoch.
        now: The current time in seconds since the epoch.
    """
    pattern = "%H:%M:%S UTC" if is_recent(seconds, now) else "%Y-%m-%d %H:%M UTC"
    return datetime.fromtimestamp(seconds, UTC).strftime(pattern)


def is_recent(seconds: float, now: float) -> bool:
    """Return whether a time is shown without its date. The arguments are those of `clock_time`."""
    return abs(now - seconds) < _DAY
