"""Stores an HTML page as parts, so that clients can request only the parts that have changed. Does no I/O."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import escape

_FIRST_BITS = 48
"""Number of bits of the first version number. The first version number is random, so that a new process does not
accept version numbers of the previous process."""
_MAX_DIGITS = 16


@dataclass(frozen=True)
class PagePart:
    """A part of a page: one HTML element with an ID. If a part changes, the script of the page replaces its element.

    Args:
        id: The ID of the element.
        content: The values from which the HTML was rendered. Equal values produce equal HTML.
        html: The HTML of the element.
        version: The version of the page in which the HTML last changed.
    """

    id: str
    content: object
    html: str
    version: int
    placeholder: str = field(init=False)
    """An empty `template` element with the ID of the part. If a client already has the part, the response contains
    the `template` element instead. HTML permits `template` elements inside lists and tables."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "placeholder", f'<template id="{escape(self.id)}"></template>'
        )  # a frozen dataclass does not permit a normal assignment


PageItem = str | PagePart
"""A part of a page, or the start or end tag of a wrapper element. A wrapper element has an ID and the attribute
`data-parts`. It contains only parts and other wrapper elements."""


class PageParts:
    """The parts of one page, and the version of the page. Rendering the page again can change both."""

    def __init__(self) -> None:
        self._first = self._version = secrets.randbits(_FIRST_BITS)
        self._parts: dict[str, PagePart] = {}
        self._items: Sequence[PageItem] = ()
        self._order: list[str] = []

    @property
    def version(self) -> int:
        """The current version of the page. It increases each time the content changes."""
        return self._version

    def get(self, part_id: str, content: object, render: Callable[[], str]) -> PagePart:
        """Return a part. Render it only if its content has changed since the last call.

        Args:
            part_id: The ID of the element.
            content: Everything on which the HTML depends.
            render: Renders the element.
        """
        known = self._parts.get(part_id)
        if known is None or known.content != content:
            html = render()
            version = known.version if known is not None and known.html == html else self._version + 1
            known = self._parts[part_id] = PagePart(part_id, content, html, version)
        return known

    def commit(self, items: Sequence[PageItem]) -> None:
        """Set the content of the page. If it has changed, increase the version. Forget the parts not in `items`.

        Args:
            items: The parts of the page, and the tags of its wrapper elements, in order.
        """
        self._parts = {each.id: each for each in items if isinstance(each, PagePart)}
        order = [each if isinstance(each, str) else each.id for each in items]
        if order != self._order or any(each.version > self._version for each in self._parts.values()):
            self._version += 1
        self._items, self._order = items, order

    def known_version(self, text: str) -> int | None:
        """Parse the version in a client's request; return None if the page never had this version."""
        version = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None
        return version if version is not None and self._first < version <= self._version else None

    def html(self, since: int | None = None) -> str:
        """Return the HTML of the page, with placeholders for parts that the client already has.

        Args:
            since: The client's version, from `known_version`; None to return all parts. For the current version, the
                result is empty.
        """
        if since is None:
            return "".join(each if isinstance(each, str) else each.html for each in self._items)
        if since == self._version:
            return ""
        return "".join(
            each if isinstance(each, str) else each.html if each.version > since else each.placeholder
            for each in self._items
        )
