r"""Converts octal escapes, such as `\040` for a space, in fstab(5), exports(5) and Linux's mount tables."""

import re

_ESCAPE = re.compile(r"\\([0-7]{3})")


def unescaped(field: str) -> str:
    """Return a field with the characters that its escapes represent."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)


def escaped(field: str, characters: str = r"\s#\\") -> str:
    """Return a field with escapes.

    Args:
        field: The field.
        characters: The characters to escape, as in a set of a regular expression. The default is for fstab(5).
    """
    return re.sub(rf"[{characters}]", lambda found: f"\\{ord(found[0]):03o}", field)
