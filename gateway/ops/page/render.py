"""Renders the HTML pages: status, backend, fleet and login. Does no I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gateway.fleet.fleet_state import FleetState
from gateway.ops.diagnosis import diagnose
from gateway.ops.events import StateChange
from gateway.ops.fleet_severity import fails, member_level, worst_first
from gateway.ops.page import status_content
from gateway.ops.page.page_part_renderer import END_SECTION, SHORTEST_SCALE, PagePartRenderer, macros
from gateway.ops.page.page_parts import PageItem, PageParts
from gateway.ops.page.templates import TEMPLATES, age
from gateway.ops.severity import DisplaySeverity
from gateway.ops.status_views import BackendView, ConfigText, ServiceView
from gateway.ops.tunnel_root_causes import path_tunnels, with_outer_tunnels

_LARGE = 100
"""Maximum number of targets, and of consumers, on a status page with all details. If the service has more targets,
the page omits details to stay below 300 KB."""
_MAX_CHANGES = 100
"""Maximum number of recent changes on the page of a backend."""
_INDEX, _BACKEND, _FLEET = map(macros, ("index.html", "backend.html", "fleet.html"))
_END_MAIN = "</main>\n"


@dataclass(frozen=True)
class LazyPage:
    """A page that renders its items one after another, while the caller iterates over them.

    Args:
        title: The title of the page.
        items: The content of the page, in order. Empty strings between slow steps give the caller an opportunity to
            yield to the event loop.
    """

    title: str
    items: Iterator[PageItem]


def render_index(
    view: ServiceView, events: Sequence[StateChange], configuration: ConfigText, now: float, parts: PageParts
) -> LazyPage:
    """Render the status page.

    Args:
        view: The state of the service.
        events: The latest events, oldest first.
        configuration: The configuration without its backends.
        now: The current time in seconds since the epoch.
        parts: The parts from the last rendering. Parts that have not changed are reused.
    """
    diagnosis, renderer = diagnose(view), PagePartRenderer(parts, now, "")
    targets = [target for backend in view.backends for target in backend.targets]
    large = len(targets) > _LARGE
    # The longest probe sets the scale of the bars that show probe phases. Large pages do not contain these bars.
    durations = (each.last_duration or 0.0 for each in targets if each.last_phases)
    longest = None if large else max(durations, default=0.0)

    def items() -> Iterator[PageItem]:
        yield renderer.part("top", (view.instance, view.version, view.started_at), _INDEX.top, view, now)
        yield from renderer.start()
        yield renderer.part("verdict", diagnosis, _INDEX.verdict, diagnosis, now)
        yield END_SECTION
        notices = status_content.notices(view)
        if notices.exist:
            yield renderer.part("notices", notices, _INDEX.notices_section, notices, now)
        groups = status_content.groups(view)
        yield ""
        for group in groups:
            yield from renderer.group(group, _INDEX.path, longest=longest)
        if groups and not large:
            yield renderer.part("legend", None, _INDEX.legend)
        consumers = list(status_content.consumer_rows(view.backends))
        if consumers:
            yield '<section id="consumers" aria-label="Containers" data-parts>\n'
            yield renderer.part("consumers-heading", None, _INDEX.consumers_heading)
            yield from renderer.consumers(consumers, _LARGE // 4 if large else _LARGE)
            yield END_SECTION
        yield from renderer.changes(
            (each.event, status_content.some(each.names)) for each in status_content.changes(events)
        )
        yield renderer.part("configuration", configuration, _INDEX.configuration_section, configuration)
        yield _END_MAIN

    return LazyPage(f"{diagnosis.title} \N{EN DASH} {view.instance}", items())


def render_backend(
    view: ServiceView,
    backend: BackendView,
    events: Sequence[StateChange],
    configuration: ConfigText,
    now: float,
    parts: PageParts,
) -> LazyPage:
    """Render the page of one backend.

    Args:
        view: The state of the service.
        backend: The backend.
        events: The latest events, oldest first.
        configuration: The configuration of the backend.
        now: The current time in seconds since the epoch.
        parts: The parts from the last rendering. Parts that have not changed are reused.
    """
    renderer = PagePartRenderer(parts, now, "../")
    longest = max(SHORTEST_SCALE, *(target.last_duration or 0.0 for target in backend.targets))

    def items() -> Iterator[PageItem]:
        yield renderer.part("top", view.instance, _BACKEND.top, view)
        yield from renderer.start()
        causes = [each for each in diagnose(view).causes if each.concerns(backend.name)]
        yield renderer.part("verdict", (backend, causes), _BACKEND.verdict, backend, causes, now)
        yield END_SECTION
        tunnels = with_outer_tunnels({tunnel.name: tunnel for tunnel in view.tunnels}, path_tunnels(backend))
        content = backend, tunnels, view.accepting
        yield renderer.part("path", content, _BACKEND.path, view, backend, tunnels, now)
        for number, target in enumerate(backend.targets, 1):
            arguments = number, backend, target, longest, now
            shown = target, backend.remedy, longest
            yield renderer.part(f"target-{number}", shown, _BACKEND.target_section, *arguments)
        yield '<section id="traffic" aria-label="Traffic" data-parts>\n'
        yield renderer.part("traffic-counters", backend, _BACKEND.traffic, backend)
        consumers = list(status_content.consumer_rows([backend]))
        if consumers:
            yield from renderer.consumers(consumers, len(consumers))
        yield END_SECTION
        own = [each for each in reversed(events) if each.subject.name == backend.name][:_MAX_CHANGES]
        yield from renderer.changes((each, each.subject.target or backend.name) for each in own)
        yield renderer.part("configuration", configuration, _BACKEND.configuration_section, configuration)
        yield _END_MAIN

    return LazyPage(f"{backend.name} is {backend.state} \N{EN DASH} {view.instance}", items())


def render_fleet(view: ServiceView, fleet: FleetState, now: float, parts: PageParts) -> LazyPage:
    """Render the page of the fleet.

    Args:
        view: The state of this service.
        fleet: The gateways of the fleet.
        now: The current time in seconds since the epoch.
        parts: The parts from the last rendering. Parts that have not changed are reused.
    """
    renderer, members = PagePartRenderer(parts, now, ""), worst_first(fleet.members)

    def items() -> Iterator[PageItem]:
        yield renderer.part("top", view.instance, _FLEET.top, view)
        yield from renderer.start()
        level = member_level(members[0]) if members else DisplaySeverity.WARNING
        counts = sum(bool(each.error) for each in members), sum(map(fails, members))
        yield renderer.part("verdict", (fleet, counts), _FLEET.verdict, fleet, level, *counts)
        yield END_SECTION
        if members:
            yield '<section id="members" aria-label="Gateways" data-parts>\n<div id="members-table" class="wide"'
            yield ' tabindex="0" role="region" aria-label="Table of gateways" data-parts>\n'
            yield '<table id="members-rows" data-parts>\n'
            yield renderer.part("members-head", None, _FLEET.members_head)
            for each in members:
                row = f"member-{each.member.scheme}-{each.member.name}"
                yield renderer.part(row, (each, age(each, now)), _FLEET.member_rows, row, each, now)
            yield "</table></div>\n</section>\n"
        yield _END_MAIN

    return LazyPage(f"Fleet \N{EN DASH} {view.instance}", items())


def document(title: str, root: str, event: int, version: object, content: str, *, whole: bool = True) -> str:
    """Return a page as an HTML document.

    Args:
        title: The title.
        root: The URL of `/`, relative to the page.
        event: The ID of the latest event that the page contains; 0 if there is none.
        version: Identifies the content of the page. The client sends it back to request only changes.
        content: The HTML of the parts.
        whole: Whether to include the style, the script and the footer. False for an update of a page that a browser
            already shows.
    """
    return TEMPLATES.get_template("base.html").render(
        title=title, root=root, event=event, version=version, whole=whole,
        content=Markup(content),  # noqa: S704 - the templates escaped all values
    )  # fmt: skip


def render_login(root: str) -> str:
    """Return the page for clients without authorization. It contains no data, and prompts for a token.

    Args:
        root: The URL of `/`, relative to the page.
    """
    return document("Gateway", root, 0, "login", TEMPLATES.get_template("login.html").render())


def render_missing(root: str) -> str:
    """Return the page for a backend that does not exist.

    Args:
        root: The URL of `/`, relative to the page.
    """
    return document("Not found", root, 0, "missing", TEMPLATES.get_template("missing.html").render(root=root))
