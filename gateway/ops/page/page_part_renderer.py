"""Renders the HTML elements of the pages, such as groups of backends. Reuses elements that have not changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from markupsafe import escape

from gateway.ops.events import StateChange
from gateway.ops.page import status_content
from gateway.ops.page.page_parts import PageItem, PagePart, PageParts
from gateway.ops.page.templates import TEMPLATES

SHORTEST_SCALE = 0.005
"""Minimum number of seconds that the full width of a chart of probe phases represents."""
END_SECTION = "</section>\n"
_PERIOD = 3600.0
"""Maximum age, in seconds, of a rendered part whose data has not changed. An older part is rendered again, because
the format of times depends on the current time. Only a time that is more than a day ago has a date."""


def macros(template: str) -> Any:
    """Return the macros of a template as functions."""
    return TEMPLATES.get_template(template).module


_MACROS = macros("parts.html")


class PagePartRenderer:
    """Renders the parts of one page. Parts that have not changed since the last rendering are reused.

    Args:
        parts: The parts of the page from the last rendering.
        now: The current time in seconds since the epoch.
        root: The URL of `/`, relative to the page.
    """

    def __init__(self, parts: PageParts, now: float, root: str) -> None:
        self._parts = parts
        self._now = now
        self._root = root

    def part(self, part_id: str, content: object, macro: Callable[..., str], *arguments: object) -> PagePart:
        """Return a part of the page. Render it only if its content has changed.

        Args:
            part_id: The ID of the HTML element.
            content: Everything on which the HTML depends, except the time.
            macro: Renders the element.
            arguments: The arguments of `macro`.
        """
        return self._parts.get(part_id, (self._now // _PERIOD, content), lambda: macro(*arguments))

    def start(self) -> Iterator[PageItem]:
        """Yield the start tags of the main content and of the diagnosis.

        The diagnosis is a live region (role `status`), so that screen readers announce its changes.
        """
        yield '<main id="main" data-parts>\n'
        yield '<section id="diagnosis" role="status" aria-label="Diagnosis" data-parts>\n'

    def group(
        self, group: status_content.TunnelGroup, path: Callable[..., str], *, longest: float | None
    ) -> Iterator[PageItem]:
        """Yield the section of a group of backends.

        Args:
            group: The group.
            path: The function that renders the heading and the tunnels of the group.
            longest: The duration of the longest probe on the page, in seconds. None for a page with many targets,
                which shows fewer details.
        """
        names, label = ",".join(group.paths), escape(status_content.heading(group))
        yield f'<section id="via-{escape(names)}" class="group" aria-label="{label}" data-parts>\n'
        part_id, content = f"path-{names}", (group.tunnels, bool(group.backends))
        yield self.part(part_id, content, path, part_id, group, self._now)
        if group.backends:
            yield f'<ul id="backends-{escape(names)}" class="backends" data-parts>\n'
            large, scale = longest is None, max(longest or 0.0, SHORTEST_SCALE)
            for each in group.backends:
                row = f"row-{each.name}"
                yield self.part(row, (each, longest), _MACROS.backend_row, row, each, large, scale, self._now)
            yield "</ul>\n"
        yield END_SECTION

    def consumers(self, rows: Sequence[status_content.ConsumerRow], limit: int) -> Iterator[PageItem]:
        """Yield the table of consumers.

        Args:
            rows: The consumers.
            limit: Maximum number of rows that the table shows.
        """
        yield '<div id="consumers-table" class="wide" tabindex="0" role="region" aria-label="Table of containers"'
        yield ' data-parts>\n<table id="consumers-rows" data-parts>\n'
        yield self.part("consumers-head", None, _MACROS.consumers_head)
        for each in rows[:limit]:
            row = f"consumer-{each.name}/{each.backend}"
            yield self.part(row, each, _MACROS.consumer_row, row, each, self._root)
        yield "</table></div>\n"
        if len(rows) > limit:
            yield self.part(
                "consumers-more", len(rows) - limit, _MACROS.consumers_more, len(rows) - limit, self._root
            )

    def changes(self, changes: Iterable[tuple[StateChange, str]]) -> Iterator[PageItem]:
        """Yield the section of recent changes.

        Args:
            changes: The events, latest first, each with the names of the affected backends, targets or tunnels.
        """
        yield '<section id="changes" aria-label="Recent changes" data-parts>\n'
        found = list(changes)
        yield self.part("changes-heading", bool(found), _MACROS.changes_heading, bool(found))
        if found:
            yield '<ol id="changes-lines" data-parts>\n'
            for event, names in found:
                line = f"change-{event.id}"
                yield self.part(line, (event, names), _MACROS.change_line, line, event, names, self._now)
            yield "</ol>\n"
        yield END_SECTION
