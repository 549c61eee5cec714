"""Chooses a name that is not in use."""

from collections.abc import Container


def unique_name(name: str, taken: Container[str]) -> str:
    """Return a name that is not in `taken`: `name` itself, or `name` with a number appended."""
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate
