"""Loads the Jinja templates of the HTML pages, and defines the functions that the templates call."""

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Iterator
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gateway.facts import texts
from gateway.fleet.fleet_state import MemberState
from gateway.fleet.summary import MemberProblem
from gateway.ops.diagnosis import MAX_CAUSES
from gateway.ops.fleet_severity import member_level
from gateway.ops.page import status_content
from gateway.ops.page.charts import PHASES, WIDTH, Chart, history_chart, milliseconds, phases_chart
from gateway.ops.page.time_format import clock_time
from gateway.ops.plural import plural
from gateway.ops.severity import backend_severity, tunnel_severity
from gateway.ops.state_descriptions import state_name, without_remedy
from gateway.ops.status_json import iso
from gateway.ops.status_views import BackendView, TargetView, TunnelView
from gateway.text_sanitizer import format_bytes

_COARSE = 20
"""Number of columns of a history chart on a page with many targets."""


def _read(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _read("page.css"), _read("page.js")
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'", f"style-src {_hash(_STYLE)}", f"script-src {_hash(_SCRIPT)}", "connect-src 'self'",
        "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
"""The Content-Security-Policy of all pages. It permits only the style and the script of this package."""


def _with_code(text: str) -> Markup:
    """Escape text for HTML, and convert words in backquotes to `<code>` elements."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - the text is escaped


def _used_paths(backend: BackendView) -> str:
    return f"via {', '.join(path.tunnel for path in backend.paths if path.in_use) or 'no tunnel'}"


def _facts(backend: BackendView, target: TargetView) -> str:
    return ", ".join(texts(backend.facts, target.facts))


def _tunnel_facts(tunnel: TunnelView) -> list[str]:
    return texts(tunnel.facts, tunnel.fact_values)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in found.items())


def age(member: MemberState, now: float) -> str:
    """Return the time since a fleet member's last response, in one unit, such as `5 min`."""
    seconds = max(0, round(now - (member.answered_at or now)))
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _notes(member: MemberState) -> list[str]:
    """Return messages about problems of a fleet member: the member does not respond, or its last reload failed."""
    reload_failed = member.summary is not None and not member.summary.reload_successful
    return [*filter(None, [member.error]), *(["the last reload failed"] if reload_failed else [])]


def _problems(member: MemberState) -> Iterator[tuple[MemberProblem, float | None]]:
    """Yield each problem of a member, with its start time in seconds since the epoch.

    The start time is None if the member does not report it.
    """
    for each in member.summary.problems if member.summary else ():
        yield each, datetime.fromisoformat(each.since).timestamp() if each.since else None


def _history(target: TargetView, columns: int = WIDTH) -> Chart:
    return history_chart(target.history, columns)


TEMPLATES = Environment(
    loader=PackageLoader("gateway.ops", "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The Jinja environment of the pages. Most templates define one macro for each part of a page."""
TEMPLATES.globals.update(
    style=Markup(_STYLE),  # noqa: S704 - trusted, because it is a file of this package
    script=Markup(_SCRIPT),  # noqa: S704 - trusted, because it is a file of this package
    iso=iso,
    clock_time=clock_time,
    plural=plural,
    backend_severity=backend_severity,
    tunnel_severity=tunnel_severity,
    milliseconds=milliseconds,
    bytes=format_bytes,
    event_level=status_content.event_level,
    history=_history,
    width=WIDTH,
    coarse=_COARSE,
    phases_chart=phases_chart,
    state_name=state_name,
    without_remedy=without_remedy,
    facts=_facts,
    tunnel_facts=_tunnel_facts,
    with_code=_with_code,
    phase_names=PHASES,
    heading=status_content.heading,
    used_paths=_used_paths,
    age=age,
    counts=_counts,
    notes=_notes,
    problems=_problems,
    member_level=member_level,
    max_causes=MAX_CAUSES,
)
