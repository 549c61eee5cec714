"""Keeps the parts of a page with the version in which each of them changed. Does no I/O."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import escape

_FIRST_BITS = 48
"""Versions start at a random number of this size, so that versions of another process are unknown."""
_MAX_DIGITS = 16


@dataclass(frozen=True)
class Part:
    """A part of a page: one element with an ID, which the script of the page replaces as a whole.

    Args:
        id: The ID of the element.
        content: Everything on which the HTML depends, in a form that can be compared.
        html: The element.
        version: The version of the page in which the HTML changed.
    """

    id: str
    content: object
    html: str
    version: int
    placeholder: str = field(init=False)
    """Represents the part in a response to a client that already has it. HTML permits this element everywhere."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "placeholder", f'<template id="{escape(self.id)}"></template>')  # bypasses `frozen`


PageItem = str | Part
"""A part of a page, or the start or end of an element around parts. Such an element has an ID and the attribute
`data-parts`, and all its children are parts or such elements."""


class PageParts:
    """The parts of one page, which is rendered repeatedly."""

    def __init__(self) -> None:
        self._first = self._version = secrets.randbits(_FIRST_BITS)
        self._parts: dict[str, Part] = {}
        self._items: Sequence[PageItem] = ()
        self._order: list[str] = []

    @property
    def version(self) -> int:
        """The current version, which increases when the content of the page changes."""
        return self._version

    def get(self, part_id: str, content: object, render: Callable[[], str]) -> Part:
        """Return a part. Render it only if its content has changed.

        Args:
            part_id: The ID of the element.
            content: Everything on which the HTML depends. If it equals that of the last call, so does the HTML.
            render: Renders the element.
        """
        known = self._parts.get(part_id)
        if known is None or known.content != content:
            html = render()
            version = known.version if known is not None and known.html == html else self._version + 1
            known = self._parts[part_id] = Part(part_id, content, html, version)
        return known

    def commit(self, items: Sequence[PageItem]) -> None:
        """Set the items of the page, in order. Forget all other parts."""
        self._parts = {each.id: each for each in items if isinstance(each, Part)}
        order = [each if isinstance(each, str) else each.id for each in items]
        if order != self._order or any(each.version > self._version for each in self._parts.values()):
            self._version += 1
        self._items, self._order = items, order

    def known_version(self, text: str) -> int | None:
        """Return the version that a client has sent; None if the page never had this version."""
        version = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None
        return version if version is not None and self._first < version <= self._version else None

    def html(self, since: int | None = None) -> str:
        """Return the HTML of the page, with placeholders for the parts that have not changed after a version.

        Args:
            since: A known version. The result is empty if this is the current version. None: all parts.
        """
        if since is None:
            return "".join(each if isinstance(each, str) else each.html for each in self._items)
        if since == self._version:
            return ""
        return "".join(
            each if isinstance(each, str) else each.html if each.version > since else each.placeholder
            for each in self._items
        )
