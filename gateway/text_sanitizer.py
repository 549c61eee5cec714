"""Sanitizes strings from outside the gateway for terminals, logs and HTML pages. Does no I/O.

Strings from a server, such as error messages and versions, can contain terminal escape sequences, line breaks that
forge log lines, bidirectional or invisible characters, or megabytes of data.
"""

_MAX_LENGTH = 500
_MAX_CUT_WORD = 40
"""`one_line` drops an incomplete last word with fewer characters than this."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SCAN_FACTOR = 8
"""`one_line` reads at most `max_length * _SCAN_FACTOR` input characters, to limit the time for long input."""
_RANGES = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
)  # fmt: skip
_INVISIBLE = frozenset(chr(code) for first, last in _RANGES for code in range(first, last + 1))
"""Invisible characters for which `str.isprintable` is true: those with the Unicode property
Default_Ignorable_Code_Point, and the blank Braille pattern."""


def printable(text: str) -> str:
    """Replace each control character and invisible character with a question mark, and each tab with a space.

    Newlines are kept.
    """
    if text.isprintable() and _INVISIBLE.isdisjoint(text):
        return text
    return "".join(each if each == "\n" or _is_visible(each) else "?" for each in text.replace("\t", " "))


def one_line(text: str, max_length: int = _MAX_LENGTH) -> str:
    """Return `text` as one line of at most `max_length` visible characters.

    If the text is shortened, the result ends with an ellipsis. The cut is between two words, unless the word at the
    cut is long.
    """
    head = text[: _SCAN_FACTOR * max_length]
    line = printable(" ".join(head.split()))
    if len(line) <= max_length and head == text:
        return line
    cut = line[: max_length - 1]
    words, _, rest = cut.rpartition(" ")
    ends_in_word = len(line) > len(cut) and line[len(cut)] != " "
    return (words if words and ends_in_word and len(rest) < _MAX_CUT_WORD else cut).rstrip() + "…"


def error_text(error: Exception) -> str:
    """Return the message of an error. Omit the error number and the file name of an `OSError`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def format_bytes(count: float) -> str:
    """Return a number of bytes with a binary unit, such as `1.5GiB`."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f}{_UNITS[unit]}" if unit else f"{count:.0f}B"


def _is_visible(character: str) -> bool:
    return character.isprintable() and character not in _INVISIBLE
