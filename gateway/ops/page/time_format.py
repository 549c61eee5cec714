"""Formats times for the HTML pages, in UTC. The script of the page converts them to the browser's time zone."""

from datetime import UTC, datetime

_DAY = 86400.0


def clock_time(seconds: float, now: float) -> str:
    """Return a time in UTC. If it is not within a day of `now`, include the date.

    Args:
        seconds: Seconds since the epoch.
        now: The current time in seconds since the epoch.
    """
    pattern = "%H:%M:%S UTC" if is_recent(seconds, now) else "%Y-%m-%d %H:%M UTC"
    return datetime.fromtimestamp(seconds, UTC).strftime(pattern)


def is_recent(seconds: float, now: float) -> bool:
    """Return whether a time is within a day of `now`. `clock_time` then omits the date.

    Args:
        seconds: Seconds since the epoch.
        now: The current time in seconds since the epoch.
    """
    return abs(now - seconds) < _DAY
