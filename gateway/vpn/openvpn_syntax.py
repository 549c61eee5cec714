"""OpenVPN's configuration language: lines, words and blocks as OpenVPN 2.6 finds them (options.c). Pure.

Where OpenVPN reads something that its author can hardly have meant, it is an error here: a long line in two pieces, a
seventeenth word that is dropped, a backslash that begins a comment.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import GatewayError

LONGEST = 254
"""Bytes of a line. OpenVPN reads 255 at a time (OPTION_LINE_SIZE) and takes the rest for another line."""
_MOST_WORDS = 16
"""Words of a line; OpenVPN drops the others (MAX_PARMS)."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_SHOWN = re.compile(r"[a-z]+(-[a-z0-9]+)*")
_LONGEST_NAME = 31
"""Of OpenVPN's own; a key in hexadecimal has 32 digits a line."""
_BARE = re.compile(r"[A-Za-z0-9_.:/@%+=,!?-]+")


@dataclass(frozen=True)
class Directive:
    """One directive, or one block.

    Args:
        line: Where it begins, from 1.
        name: Without leading dashes.
        values: The words after it.
        block: The lines between `<name>` and `</name>`; None: it is not a block.
    """

    line: int
    name: str
    values: tuple[str, ...] = ()
    block: tuple[str, ...] | None = None


def directives(text: str) -> Iterator[Directive]:
    """Read a file.

    Raises:
        GatewayError: With the line that OpenVPN does not read, or reads in another way than it looks.
    """
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    return _directives(enumerate(lines, 1))


def within(block: Directive) -> Iterator[Directive]:
    """The directives of a `<connection>`."""
    return _directives(enumerate(block.block or (), block.line + 1))


def _directives(lines: Iterable[tuple[int, str]]) -> Iterator[Directive]:
    numbered = iter(lines)
    for number, line in numbered:
        with at(number):
            words = words_of(_checked(line))
            if not words:
                continue
            name = words[0].removeprefix("--") if len(words[0]) > 2 else words[0]
            opens = len(words) == 1 and name.startswith("<") and name.endswith(">")
            if opens:
                name = name[1:-1]
                if name.startswith("/"):
                    raise GatewayError("closes a block that is not open: remove it, or add what opens it")
            if not _NAME.fullmatch(name):
                raise GatewayError("does not begin with a directive: correct or remove it")
        block = tuple(_until(f"</{name}>", number, numbered)) if opens else None
        yield Directive(number, name, tuple(words[1:]), block)


def _until(end: str, opened: int, lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    for number, line in lines:
        with at(number):
            if _checked(line).lstrip(" \t").startswith(end):
                return
            yield line.removesuffix("\r")
    with at(opened):
        raise GatewayError(f"<{shown(end[2:-1])}> is not closed: add </{shown(end[2:-1])}>")


class _PlacedError(GatewayError):
    """Says where already."""


@contextmanager
def at(number: int) -> Iterator[None]:
    """Say in which line an error is."""
    try:
        yield
    except _PlacedError:
        raise
    except GatewayError as error:
        raise _PlacedError(f"line {number}: {error}") from None


def _checked(line: str) -> str:
    if len(line.encode(errors="surrogatepass")) > LONGEST:
        why = "which OpenVPN reads as two lines: shorten it, or wrap a key at 64 characters"
        raise GatewayError(f"has more than {LONGEST} bytes, {why}")
    line = line.removesuffix("\r")
    if _CONTROL.search(line):
        raise GatewayError("has a control character: remove it")
    return line


def words_of(line: str) -> list[str]:
    """The words of a line as OpenVPN finds them (`parse_line`).

    A quote counts only where a word begins, and where it closes, the word ends. A backslash takes the next character
    as it is, but for single quotes. A comment begins where a word would.

    Raises:
        GatewayError: OpenVPN does not take it, or drops something of it.
    """
    words: list[str] = []
    position = 0
    while True:
        position += len(line[position:]) - len(line[position:].lstrip(" \t"))
        if line[position : position + 1] in ("", "#", ";"):
            break
        quote = line[position] if line[position] in "\"'" else ""
        word, position = _word(line, position + len(quote), quote)
        if not word.isprintable():
            raise GatewayError("has a character that is not printable: remove it")
        words.append(word)
    if len(words) > _MOST_WORDS:
        raise GatewayError(f"has more than {_MOST_WORDS} words, and OpenVPN drops the others: shorten it")
    return words


def _word(line: str, position: int, quote: str) -> tuple[str, int]:
    word = ""
    while position < len(line):
        character = line[position]
        if character == "\\" and quote != "'":
            character = line[position + 1 : position + 2]
            if character not in ("\\", '"', " ") or (character == " " and not word and not quote):
                raise GatewayError(
                    r"has a \ that OpenVPN does not take: write \\, or put the word into single quotes"
                )
            position += 1
        elif character == quote or (not quote and character in " \t"):
            return word, position + 1
        word += character
        position += 1
    if quote:
        raise GatewayError(f"{quote} is not closed")
    return word, position


def written(directive: Directive) -> list[str]:
    """The lines that OpenVPN reads as this directive.

    Raises:
        GatewayError: A line would be too long.
    """
    if directive.block is not None:
        return [f"<{directive.name}>", *directive.block, f"</{directive.name}>"]
    with at(directive.line):
        return [_checked(" ".join((directive.name, *map(_quoted, directive.values))))]


def _quoted(word: str) -> str:
    if _BARE.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def shown(name: str) -> str:
    """A directive's name, unless it may be part of a key or a password in the wrong place."""
    return name if len(name) <= _LONGEST_NAME and _SHOWN.fullmatch(name) else "it"
