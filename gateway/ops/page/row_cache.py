"""Keeps the rows of the status page that do not change from one page to the next. Does no I/O."""

from collections.abc import Callable, Collection


class RowCache:
    """The HTML of the rows of the last page, by the name of the backend."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[object, str]] = {}

    def get(self, name: str, content: object, render: Callable[[], str]) -> str:
        """Return the HTML of a row.

        Args:
            name: The name of the backend.
            content: Everything on which the HTML depends. If it equals that of the last page, so does the HTML.
            render: Renders the row.
        """
        known = self._rows.get(name)
        if known is None or known[0] != content:
            known = self._rows[name] = content, render()
        return known[1]

    def forget_others(self, names: Collection[str]) -> None:
        """Remove the rows of backends that are not in `names`."""
        for name in self._rows.keys() - names:
            del self._rows[name]
