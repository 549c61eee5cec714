"""Suggests known names for misspelled ones. Does no I/O."""

import difflib
from collections.abc import Iterable

_MAX_COMPARED = 500
"""Maximum number of known names to compare with a misspelled one. With more names, there is no suggestion."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a suffix for an error message about an unknown name.

    If a known name is similar, the suffix is `; did you mean …?`. Otherwise, the suffix lists all known names. The
    suffix is empty if there are no known names, or more than `_MAX_COMPARED`.
    """
    names = list(known)
    if len(names) > _MAX_COMPARED:
        return ""
    return similar(name, names) or (f": use one of {', '.join(sorted(names))}" if names else "")


def similar(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` if a known name is similar; otherwise, return an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def backend_hint(backends: Iterable[str]) -> str:
    """Return a suffix for an error message about an unknown backend, with advice for the operator.

    Args:
        backends: The names of the configured backends.
    """
    names = ", ".join(sorted(backends))
    return f"; use one of the configured backends ({names})" if names else "; add it to the section `backends`"
