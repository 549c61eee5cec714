"""Renders the HTML pages (status, backends, fleet, login) from templates, with automatic escaping."""

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gateway.fleet.summary import MemberProblem
from gateway.fleet.view import FleetView, MemberView
from gateway.ops.diagnosis import (
    MAX_CAUSES,
    Level,
    backend_level,
    chain,
    diagnose,
    plural,
    tunnel_level,
    ways,
)
from gateway.ops.events import Transition
from gateway.ops.fleet_severity import fails, member_level, worst_first
from gateway.ops.page import model
from gateway.ops.page.charts import PHASES, WIDTH, Chart, history_chart, milliseconds, phases_chart
from gateway.ops.page.row_cache import RowCache
from gateway.ops.page.time_format import clock_time
from gateway.ops.reason_descriptions import state_name, without_remedy
from gateway.ops.status_json import iso
from gateway.ops.status_views import BackendView, ConfigText, ServiceView, TargetView
from gateway.text_sanitizer import format_bytes

_LARGE = 100
"""Number of targets above which the page shows fewer details of each, so that it stays below 300 KB. Also the maximum
number of consumers on other pages."""
_COARSE = 20
"""Number of columns of a history chart on such a page."""
_SHORTEST_SCALE = 0.005
"""Minimum duration, in seconds, of a check whose bar has the full width."""


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
    """Return a text of this project as HTML, with code for what is in backquotes."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped


def _heading(group: model.TunnelGroup) -> str:
    return f"Through {' or '.join(group.ways)}" if group.ways else "Without a tunnel"


def _used_ways(backend: BackendView) -> str:
    return f"via {', '.join(way.tunnel for way in backend.ways if way.in_use) or 'no tunnel'}"


def _facts(backend: BackendView, target: TargetView) -> str:
    return ", ".join(filter(None, (fact.text(target.facts.get(fact)) for fact in backend.facts)))


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in found.items())


def _age(member: MemberView, now: float) -> str:
    """Return the time since the last answer, in the largest fitting unit."""
    seconds = max(0, round(now - (member.answered_at or now)))
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _notes(member: MemberView) -> list[str]:
    """Return why a member does not respond, and whether its last reload failed."""
    reload_failed = member.summary is not None and not member.summary.reload_successful
    return [*filter(None, [member.error]), *(["the last reload failed"] if reload_failed else [])]


def _problems(member: MemberView) -> Iterator[tuple[MemberProblem, float | None]]:
    """Yield each problem of a member, and when it began in seconds since the epoch; None if this is not known."""
    for each in member.summary.problems if member.summary else ():
        yield each, datetime.fromisoformat(each.since).timestamp() if each.since else None


def _history(target: TargetView, columns: int = WIDTH) -> Chart:
    return history_chart(target.history, columns)


_templates = Environment(
    loader=PackageLoader("gateway.ops", "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals.update(
    style=Markup(_STYLE),  # noqa: S704 - a file of this package
    script=Markup(_SCRIPT),  # noqa: S704 - as above
    iso=iso,
    clock_time=clock_time,
    plural=plural,
    backend_level=backend_level,
    tunnel_level=tunnel_level,
    milliseconds=milliseconds,
    bytes=format_bytes,
    event_level=model.event_level,
    history=_history,
    width=WIDTH,
    coarse=_COARSE,
    phases_chart=phases_chart,
    some=model.some,
    state_name=state_name,
    without_remedy=without_remedy,
    facts=_facts,
    with_code=_with_code,
    phase_names=PHASES,
    heading=_heading,
    used_ways=_used_ways,
    age=_age,
    counts=_counts,
    notes=_notes,
    problems=_problems,
    member_level=member_level,
    max_causes=MAX_CAUSES,
)
_INDEX, _BACKEND = _templates.get_template("index.html"), _templates.get_template("backend.html")
_FLEET = _templates.get_template("fleet.html")
_backend_row = _templates.get_template("parts.html").module.backend_row  # type: ignore[attr-defined]


def render_index(
    view: ServiceView, events: Sequence[Transition], configuration: ConfigText, now: float, rows: RowCache
) -> Iterator[str]:
    """Yield the parts of the status page. Some parts are empty: they separate slow steps.

    Args:
        view: The state of the service.
        events: The latest events, oldest first.
        configuration: The configuration without its backends.
        now: The time in seconds since the epoch.
        rows: The rows of the previous page, which are updated.
    """
    targets = [target for backend in view.backends for target in backend.targets]
    large = len(targets) > _LARGE
    # Pages with many targets do not show phases.
    durations = () if large else (each.last_duration or 0.0 for each in targets if each.last_phases)
    longest = max(durations, default=0.0)
    rows.forget_others({backend.name for backend in view.backends})

    def row(backend: BackendView) -> str:
        content = model.row_content(backend, now), large, longest
        return rows.get(
            backend.name, content, lambda: _backend_row(backend, large, max(longest, _SHORTEST_SCALE), now)
        )

    yield ""
    diagnosis = diagnose(view)
    yield ""
    groups = model.groups(view)
    yield ""
    yield from _INDEX.generate(
        **_common(view, events, now, ""),
        diagnosis=diagnosis,
        groups=groups,
        large=large,
        row=row,
        consumers=list(model.consumer_rows(view.backends)),
        max_consumers=_LARGE // 4 if large else _LARGE,
        changes=model.changes(events),
        configuration=configuration,
    )


def render_backend(
    view: ServiceView, backend: BackendView, events: Sequence[Transition], configuration: ConfigText, now: float
) -> Iterator[str]:
    """Yield the parts of the page of one backend.

    Args:
        view: The state of the service.
        backend: The backend.
        events: As for `render_index`.
        configuration: The configuration of the backend.
        now: As for `render_index`.
    """
    longest = max((target.last_duration or 0.0 for target in backend.targets), default=0.0)
    tunnels = {tunnel.name: tunnel for tunnel in view.tunnels}
    yield from _BACKEND.generate(
        **_common(view, events, now, "../"),
        backend=backend,
        tunnels=chain(tunnels, ways(backend)),
        causes=[each for each in diagnose(view).causes if each.concerns(backend.name)],
        phase=lambda name, seconds: phases_chart({name: seconds}, max(longest, _SHORTEST_SCALE)),
        consumers=list(model.consumer_rows([backend])),
        changes=[each for each in reversed(events) if each.subject.name == backend.name],
        configuration=configuration,
    )


def render_fleet(view: ServiceView, fleet: FleetView, events: Sequence[Transition], now: float) -> Iterator[str]:
    """Yield the parts of the page of the fleet.

    Args:
        view: The state of this service.
        fleet: The members.
        events: As for `render_index`.
        now: As for `render_index`.
    """
    members = worst_first(fleet.members)
    yield from _FLEET.generate(
        **_common(view, events, now, ""),
        fleet=fleet,
        members=members,
        level=member_level(members[0]) if members else Level.WARNING,
        unreachable=sum(bool(each.error) for each in members),
        failing=sum(map(fails, members)),
    )


def render_login(root: str) -> str:
    """Return the page for clients without authorization, which contains no data.

    Args:
        root: The relative URL of `/`.
    """
    return _templates.get_template("login.html").render(root=root, event=0, title="Gateway")


def render_missing(root: str) -> str:
    """Return the page for a backend that does not exist. The argument is that of `render_login`."""
    return _templates.get_template("missing.html").render(root=root, event=0, title="Not found")


def _common(view: ServiceView, events: Sequence[Transition], now: float, root: str) -> dict[str, Any]:
    return {"view": view, "root": root, "event": events[-1].id if events else 0, "now": now}
