"""Draws the charts of the status page as SVG paths. Does no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from gateway.contracts.states import HealthState
from gateway.ops.status_views import CheckHistoryEntry

WIDTH = 100
"""Width of a chart in SVG units. A history chart needs one unit for each check result in the history."""
PHASES = ("dns", "channel", "tcp", "greeting", "tls", "auth", "query", "rpc")
"""The phases of a probe that have their own color in `page.css`."""


@dataclass(frozen=True)
class Chart:
    """A chart as SVG paths, with a text alternative.

    Args:
        label: The content of the chart as text.
        paths: For each path, its CSS class and its path data (attribute `d`).
    """

    label: str
    paths: list[tuple[str, str]]


def history_chart(checks: Sequence[CheckHistoryEntry], columns: int = WIDTH) -> Chart:
    """Return a chart of check results, oldest first. The worse the result, the taller the column.

    Args:
        checks: The check results, oldest first. There are at most `WIDTH` results.
        columns: Maximum number of columns. With `WIDTH` columns, each column shows one result. With fewer columns,
            each column shows the worst of several results.
    """
    return _draw_history(bytes([_RESULTS[each.state] for each in checks]), columns)


_CLASSES = ("ok", "warn", "blocked", "fail")
_WORDS = ("succeeded", "degraded", "blocked", "failed")
"""For each class in `_CLASSES`, the word that a chart's label uses."""
_RESULTS = {
    HealthState.UP: 0,
    HealthState.DEGRADED: 1,
    HealthState.PAUSED: 1,
    HealthState.UNKNOWN: 1,
    HealthState.BLOCKED: 2,
    HealthState.DOWN: 3,
}
"""For each check result, the index of its class in `_CLASSES`."""


@lru_cache(maxsize=1024)  # most targets have the same results, and therefore the same chart
def _draw_history(results: bytes, columns: int) -> Chart:
    """Return a history chart. `results` contains each check result as an index in `_CLASSES`."""
    per_column = -(-WIDTH // columns)
    groups = bytes(max(results[at : at + per_column]) for at in range(0, len(results), per_column))
    paths: dict[str, str] = {}
    at = WIDTH - len(groups) * per_column
    for result, run in groupby(groups):
        length = len(list(run)) * per_column
        name = _CLASSES[result]
        paths[name] = f"{paths.get(name, '')}M{at} 5h{length}"
        at += length
    return Chart(_label(results), list(paths.items()))


def _label(results: bytes) -> str:
    """Return the text alternative of a history chart: how often each check result occurs, worst first."""
    if not results:
        return "not checked yet"
    counts = [(results.count(at), word) for at, word in enumerate(_WORDS)]
    found = [(count, word) for count, word in reversed(counts) if count]
    if len(found) == 1:
        return f"all {len(results)} checks {found[0][1]}"
    bad = ", ".join(f"{count} {word}" for count, word in found if word != _WORDS[0])
    return f"of {len(results)} checks: {bad}"


def phases_chart(phases: dict[str, float], longest: float) -> Chart:
    """Return a bar with one segment for each phase of one probe. The length of a segment shows the phase's duration.

    Args:
        phases: The duration of each phase in seconds.
        longest: The total duration, in seconds, that the full width of the chart represents.
    """
    at, paths = 0.0, []
    for name, seconds in phases.items():
        length = min(WIDTH - at, seconds / longest * WIDTH) if longest > 0 else 0.0
        paths.append((f"p-{name}" if name in PHASES else "p-other", f"M{at:.4g} 5h{length:.3g}"))
        at += length
    return Chart(", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in phases.items()), paths)


def milliseconds(seconds: float) -> str:
    """Return a duration in milliseconds, to three significant digits, for example `1.23 ms`."""
    ms = seconds * 1e3
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms:.0f} ms"
