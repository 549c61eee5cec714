"""Renders HTML pages of the gateway for tests."""

from collections.abc import Sequence

from gateway.ops.events import StateChange
from gateway.ops.page.page_parts import PageParts
from gateway.ops.page.render import LazyPage, document, render_backend, render_index
from gateway.ops.status_views import BackendView, ConfigText, ServiceView
from tests.support.status_views import NOW


def whole_page(rendering: LazyPage, parts: PageParts) -> str:
    """Return the HTML of a page.

    Args:
        rendering: The page that a function in `gateway.ops.page.render` returned.
        parts: The argument `parts` that the caller passed to that function.
    """
    parts.commit(list(rendering.items))
    return document(rendering.title, "", 0, parts.version, parts.html())


def status_page(
    view: ServiceView,
    events: Sequence[StateChange] = (),
    configuration: ConfigText | None = None,
    now: float = NOW,
    parts: PageParts | None = None,
) -> str:
    """Return the status page as HTML. To render an update of an earlier page, pass the `parts` of that page."""
    parts = parts or PageParts()
    return whole_page(render_index(view, events, configuration or {}, now, parts), parts)


def backend_page(
    view: ServiceView,
    shown: BackendView,
    events: Sequence[StateChange] = (),
    configuration: ConfigText | None = None,
) -> str:
    parts = PageParts()
    return whole_page(render_backend(view, shown, events, configuration or {}, NOW, parts), parts)
