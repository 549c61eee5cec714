"""Text from outside, made fit for a terminal, a log and a page. Pure.

A server may send anything as an error message, a version or a name: escape sequences that a terminal obeys, line ends
that forge a line of a log, characters that change the direction of what follows or cannot be seen, or megabytes.
"""

_MOST = 500
_LOOKED_AT = 8
"""Times the limit: what is cut off anyway is not looked at, however long it is."""
_RANGES = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
)  # fmt: skip
_UNSEEN = frozenset(chr(code) for first, last in _RANGES for code in range(first, last + 1))
"""What `str.isprintable` lets pass although it shows nothing: the rest of Unicode's Default_Ignorable_Code_Point, and
the empty pattern of Braille."""


def printable(text: str) -> str:
    """`text` with each character that does not show, except line ends, replaced by a question mark."""
    if text.isprintable() and _UNSEEN.isdisjoint(text):
        return text
    return "".join(each if each == "\n" or _shows(each) else "?" for each in text.replace("\t", " "))


def one_line(text: str, most: int = _MOST) -> str:
    """`text` on one line of at most `most` characters, each of which shows; a cut one ends with an ellipsis."""
    seen = text[: _LOOKED_AT * most]
    line = printable(" ".join(seen.split()))
    if len(line) <= most and seen == text:
        return line
    return line[: most - 1].rstrip() + "…"


def _shows(character: str) -> bool:
    return character.isprintable() and character not in _UNSEEN
