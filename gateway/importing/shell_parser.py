"""Splits shell scripts into commands. Handles quotes, comments, line continuations and variables (POSIX sh)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.errors import UsageError

_OPERATOR = re.compile(r"&&|\|\||;;|[;&|()\n]|\d*(?:<<-|[<>]+)[&|]?")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_UNQUOTED, _LITERAL, _SPLIT = "\x01", "\x02", "\x03"
"""Markers in words: `_UNQUOTED` precedes `$` outside quotation marks, `_LITERAL` replaces `$` that does not begin a
variable, and `_SPLIT` separates the fields in the value of a variable outside quotation marks."""
_VARIABLE = re.compile(rf"({_UNQUOTED}?)\$(?:(\w+)|\{{(\w+)(?::?-([^}}]*))?\}})")
_PREFIXES = frozenset({"do", "then", "else", "!", "{", "exec", "nohup", "sudo", "time", "command", "export"})
"""Shell keywords and programs that can precede a command on the same line."""


@dataclass(frozen=True)
class ShellCommand:
    """One command of a shell script.

    Args:
        words: The words. References to the script's variables, such as `$NAME`, are replaced with the values.
        variables: The variables that the script has set before the command.
        exported: The names of the variables that the script has exported before the command.
    """

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    exported: frozenset[str] = frozenset()


@dataclass
class ShellScript:
    """The commands of a shell script, with notes on mistakes and skipped parts.

    Args:
        commands: The commands.
        notes: The notes. A note on a mistake says how to correct it.
        variables: The variables that the script sets but never refers to.
    """

    commands: list[ShellCommand] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def read_script(text: str) -> ShellScript:
    """Split a script or a command line into commands. Replace references to variables that the script sets.

    Args:
        text: The script or command line.

    Raises:
        UsageError: A quotation mark is not closed.
    """
    script = ShellScript()
    used: set[str] = set()
    values: dict[str, str] = {}
    exported: set[str] = set()

    def value(match: re.Match[str]) -> str:
        name = match[2] or match[3]
        if name in values:
            used.add(name)
            return re.sub(r"\s+", _SPLIT, values[name]) if match[1] else values[name]
        return match[4] if match[4] is not None else f"${{{name}}}"

    def fields(word: str) -> list[str]:
        """Expand the variables in a word, and split the result into fields (POSIX, section 2.6.5)."""
        if _ASSIGNMENT.fullmatch(word):
            word = word.replace(_UNQUOTED, "")  # values of assignments are not split
        expanded = _plain(_VARIABLE.sub(value, word))
        return [field for field in expanded.split(_SPLIT) if field] or [""]

    for words in _commands(_joined_lines(text, script.notes), script.notes):
        expanded = [field for word in words for field in fields(word)]
        if expanded[:1] == ["export"]:
            exported |= {word.partition("=")[0] for word in expanded[1:]}
            expanded = [word for word in expanded if "=" in word]
        while expanded and expanded[0] in _PREFIXES - {"sudo", "nohup"} and expanded[1:2] not in (["-v"], ["-V"]):
            expanded = expanded[1:]
        assigned = [_ASSIGNMENT.fullmatch(word) for word in expanded]
        if expanded and all(assigned):
            values |= {match[1]: match[2] for match in assigned if match}
        elif expanded:
            script.commands.append(ShellCommand(expanded, dict(values), frozenset(exported)))
    script.variables = {name: text for name, text in values.items() if name not in used}
    return script


def _joined_lines(text: str, notes: list[str]) -> str:
    """Join continuation lines. Correct mistakes, such as a space after a backslash, and add a note on each."""
    joined: list[str] = []
    continued = False
    for number, line in enumerate(text.splitlines(), 1):
        if continued and line.lstrip().startswith("#"):
            notes.append(
                f"line {number}: a comment between continuation lines ends the command; remove `{line.strip()}`"
            )
            continue
        broken = re.search(r"\\[ \t]+(#.*)?$", line)
        if broken:
            found = f"`{broken[1]}`" if broken[1] else "the white space"
            notes.append(
                f"line {number}: in a shell, {found} after the backslash ends the command; remove {found}, so that"
                " the backslash is the last character"
            )
            line = line[: broken.start()] + "\\"  # noqa: PLW2901 - continue with the corrected line
        continued = line.endswith("\\") and not line.endswith("\\\\")
        joined.append(line[:-1] + " " if continued else line + "\n")
    return "".join(joined)


def _commands(text: str, notes: list[str]) -> Iterator[list[str]]:
    words: list[str] = []
    for token in _tokens(text, notes):
        if token is None:
            if words:
                yield words
            words = []
        else:
            words.append(token)
    if words:
        yield words


def _tokens(text: str, notes: list[str]) -> Iterator[str | None]:
    """Yield the words of all commands, with markers (see `_word`), and None where a command ends.

    Skip redirections and here-documents, and add a note on each here-document.
    """
    position = 0
    delimiters: list[str] = []
    while position < len(text):
        if text[position] in " \t":
            position += 1
        elif text[position] == "#":
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        elif match := _OPERATOR.match(text, position):
            position = match.end()
            if "<" not in match[0] and ">" not in match[0]:
                yield None
                if match[0] == "\n":
                    position = _after_here_documents(text, position, delimiters, notes)
                    delimiters = []
                continue
            while text[position : position + 1] in (" ", "\t"):
                position += 1
            word, position = _word(text, position)
            if match[0] in ("<<", "<<-"):
                delimiters.append((r"\t*" if match[0] == "<<-" else "") + re.escape(_plain(word)))
        else:
            word, position = _word(text, position)
            yield word


def _after_here_documents(text: str, position: int, delimiters: list[str], notes: list[str]) -> int:
    """Return the position after the here-documents that follow a line (POSIX, section 2.7.4).

    Args:
        text: The script.
        position: The position after this line.
        delimiters: For each here-document, a pattern that matches the line with its delimiter.
        notes: The list to which the function adds a note on each here-document.
    """
    line = text[:position].rstrip("\n").rpartition("\n")[2].strip()
    for delimiter in delimiters:
        end = re.compile(rf"^{delimiter}$\n?", re.MULTILINE).search(text, position)
        if end is not None:
            notes.append(f"`{line}`: the here-document is not imported")
            position = end.end()
    return position


def _word(text: str, position: int) -> tuple[str, int]:
    """Return the word at a position, without quotation marks, and the position after the word.

    The word contains the markers `_UNQUOTED` and `_LITERAL`.

    Raises:
        UsageError: A quotation mark is not closed.
    """
    parts: list[str] = []
    while position < len(text) and text[position] not in " \t\n;&|<>()":
        letter = text[position]
        if letter == "\\":
            parts.append(text[position + 1 : position + 2].replace("$", _LITERAL))
            position += 2
        elif text.startswith("$(", position):
            end = text.find(")", position)
            end = len(text) if end < 0 else end + 1
            parts.append(text[position:end])
            position = end
        elif letter in "'\"":
            match = re.compile(r"'([^']*)'" if letter == "'" else r'"((?:\\.|[^"\\])*)"', re.DOTALL).match(
                text, position
            )
            if match is None:
                line = text.count("\n", 0, position) + 1
                raise UsageError(f"the quotation mark {letter} in line {line} is not closed")
            parts.append(match[1].replace("$", _LITERAL) if letter == "'" else _unescaped(match[1]))
            position = match.end()
        else:
            parts.append(f"{_UNQUOTED}$" if letter == "$" else letter)
            position += 1
    return "".join(parts), position


def _unescaped(text: str) -> str:
    """Return the text between double quotation marks without the backslashes before special characters."""
    return re.sub(r'\\(["\\$`])', lambda match: _LITERAL if match[1] == "$" else match[1], text)


def _plain(word: str) -> str:
    """Return a word without the markers `_UNQUOTED` and `_LITERAL`."""
    return word.replace(_UNQUOTED, "").replace(_LITERAL, "$")
