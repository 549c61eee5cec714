"""Parses OpenVPN's configuration files into directives, as OpenVPN 2.6 does (options.c). Does no I/O.

The parser rejects input that OpenVPN would parse in an unexpected way. For example, OpenVPN splits long lines, and
ignores the seventeenth word of a line and all words after it.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import GatewayError

_MAX_LINE = 254
"""Maximum length of a line, in bytes. OpenVPN reads at most 255 bytes (OPTION_LINE_SIZE), and parses the remaining
bytes as a new line."""
_MAX_WORDS = 16
"""Maximum number of words in a line. OpenVPN ignores further words (MAX_PARMS)."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_PRINTABLE_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)*")
_MAX_NAME = 31
"""Length of OpenVPN's longest directive name, in characters. Error messages omit longer words, because they
can be lines of a key (32 hexadecimal digits)."""
_UNQUOTED = re.compile(r"[A-Za-z0-9_.:/@%+=,!?-]+")


@dataclass(frozen=True)
class OpenVpnDirective:
    """A directive or a block of an OpenVPN configuration file.

    Args:
        line: Number of the first line of the directive, starting at 1.
        name: Name of the directive, without leading dashes.
        values: The words after the name.
        block: The lines between `<name>` and `</name>`; None if the directive is not a block.
    """

    line: int
    name: str
    values: tuple[str, ...] = ()
    block: tuple[str, ...] | None = None


def parse_directives(text: str) -> Iterator[OpenVpnDirective]:
    """Yield the directives in a configuration file.

    Args:
        text: The content of the file.

    Raises:
        GatewayError: A line is not valid, or OpenVPN would parse it in an unexpected way. The message contains the
            line number.
    """
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    return _parse_lines(enumerate(lines, 1))


def connection_directives(block: OpenVpnDirective) -> Iterator[OpenVpnDirective]:
    """Yield the directives in a `<connection>` block.

    Args:
        block: The block.

    Raises:
        GatewayError: A line of the block is not valid, or OpenVPN would parse it in an unexpected way. The message
            contains the line number.
    """
    return _parse_lines(enumerate(block.block or (), block.line + 1))


def _parse_lines(lines: Iterable[tuple[int, str]]) -> Iterator[OpenVpnDirective]:
    numbered = iter(lines)
    for number, line in numbered:
        with located(number):
            words = split_words(_check_line(line))
            if not words:
                continue
            name = words[0].removeprefix("--") if len(words[0]) > 2 else words[0]
            is_block = len(words) == 1 and name.startswith("<") and name.endswith(">")
            if is_block:
                name = name[1:-1]
                if name.startswith("/"):
                    raise GatewayError("closes a block that is not open: remove the line, or add the block's start")
            if not _NAME.fullmatch(name):
                raise GatewayError("does not begin with a directive: correct or remove the line")
        block = tuple(_block_lines(f"</{name}>", number, numbered)) if is_block else None
        yield OpenVpnDirective(number, name, tuple(words[1:]), block)


def _block_lines(end: str, first: int, lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Yield the lines of a block, up to its end tag."""
    for number, line in lines:
        with located(number):
            if _check_line(line).lstrip(" \t").startswith(end):
                return
            yield line.removesuffix("\r")
    with located(first):
        name = printable_name(end[2:-1])
        raise GatewayError(f"<{name}> is not closed: add the line </{name}>")


class _LocatedError(GatewayError):
    """A `GatewayError` whose message already contains the line number."""


@contextmanager
def located(line: int) -> Iterator[None]:
    """If the `with` block raises a `GatewayError` without a line number, add the line number to the message."""
    try:
        yield
    except _LocatedError:
        raise
    except GatewayError as error:
        raise _LocatedError(f"line {line}: {error}") from None


def _check_line(line: str) -> str:
    """Return a line without a final carriage return. Refuse a line that is too long or has control characters."""
    if len(line.encode(errors="surrogatepass")) > _MAX_LINE:
        why = "which OpenVPN reads as two lines: shorten the line, or wrap a key at 64 characters"
        raise GatewayError(f"has more than {_MAX_LINE} bytes, {why}")
    line = line.removesuffix("\r")
    if _CONTROL.search(line):
        raise GatewayError("contains a control character: remove it")
    return line


def split_words(line: str) -> list[str]:
    """Split a line into words, as OpenVPN's `parse_line` does.

    Only a quotation mark at the start of a word quotes the word, and the closing quotation mark ends the word. A
    backslash escapes the next character, except in single quotes. A comment can begin only where a word can begin.

    Args:
        line: One line.

    Raises:
        GatewayError: OpenVPN rejects the line, or ignores a part of it.
    """
    words: list[str] = []
    position = 0
    while True:
        position += len(line[position:]) - len(line[position:].lstrip(" \t"))
        if line[position : position + 1] in ("", "#", ";"):
            break
        quote = line[position] if line[position] in "\"'" else ""
        word, position = _read_word(line, position + len(quote), quote)
        if not word.isprintable():
            raise GatewayError("contains a character that is not printable: remove it")
        words.append(word)
    if len(words) > _MAX_WORDS:
        raise GatewayError(f"has more than {_MAX_WORDS} words, and OpenVPN ignores the rest: shorten the line")
    return words


def _read_word(line: str, position: int, quote: str) -> tuple[str, int]:
    """Return the word that starts at a position, and the position after the word."""
    word = ""
    while position < len(line):
        character = line[position]
        if character == "\\" and quote != "'":
            character = line[position + 1 : position + 2]
            if character not in ("\\", '"', " ") or (character == " " and not word and not quote):
                raise GatewayError(r"has a \ that OpenVPN rejects: write \\, or put the word into single quotes")
            position += 1
        elif character == quote or (not quote and character in " \t"):
            return word, position + 1
        word += character
        position += 1
    if quote:
        raise GatewayError(f"{quote} is not closed: add the closing quotation mark")
    return word, position


def to_lines(directive: OpenVpnDirective) -> list[str]:
    """Convert a directive to lines of a configuration file. Quote its values if necessary.

    Args:
        directive: The directive.

    Raises:
        GatewayError: The line is too long.
    """
    if directive.block is not None:
        return [f"<{directive.name}>", *directive.block, f"</{directive.name}>"]
    with located(directive.line):
        return [_check_line(" ".join((directive.name, *map(_quote, directive.values))))]


def _quote(word: str) -> str:
    if _UNQUOTED.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def printable_name(name: str) -> str:
    """Return `name`, or an ellipsis if `name` does not look like the name of a directive.

    Messages contain the result instead of `name`, because `name` can be part of a misplaced secret.
    """
    return name if len(name) <= _MAX_NAME and _PRINTABLE_NAME.fullmatch(name) else "…"
