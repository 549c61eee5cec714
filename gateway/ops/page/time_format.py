"""Formats times on the HTML pages, in UTC. With scripts, the browser converts them to its time zone."""

from datetime import UTC, datetime

_DAY = 86400.0


def clock_time(seconds: float, now: float) -> str:
    """Return a time in UTC, with the date if it is more than a day before `now`.

    Args:
        seconds: Seconds since the epoch.
        now: The current time in seconds since the epoch.
    """
    pattern = "%H:%M:%S UTC" if abs(now - seconds) < _DAY else "%Y-%m-%d %H:%M UTC"
    return datetime.fromtimestamp(seconds, UTC).strftime(pattern)
