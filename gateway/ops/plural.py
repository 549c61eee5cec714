"""Formats a number with a noun in the singular or plural."""


def plural(count: int, noun: str) -> str:
    """Return a number and a noun, such as `1 client` or `2 clients`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
