"""Explains why a file is not valid YAML, and how to correct it. Does no I/O.

The messages contain no values, because an unquoted password can look like an alias or a tag.
"""

import re

import yaml
from yaml.reader import ReaderError

_BRACES = 'quote a value that contains { or }, as in "${NAME}"'
_REMEDIES = (
    (
        r"mapping values are not allowed",
        "quote a value that contains ': ', align the keys, or add the missing colon in the line above",
    ),
    (r"cannot start any token", "indent with spaces instead of tabs, and quote a value that starts with @, ` or %"),
    (r"expected ',' or", "add the missing comma, or close the bracket"),
    (r"could not find expected ':'", "write KEY: VALUE, or quote the text"),
    (r"alias|anchor|tag\b", "quote a value that starts with *, & or !"),
    (r"scanning a quoted scalar|end of stream|document separator", "close the quotation mark"),
    (r"expected <block end>", "start all keys of a mapping, and all items of a list, in the same column"),
    (r"expected the node content", "add a value, or quote it"),
    (r"expected a single document", "remove the line ---: a configuration has only one document"),
    (r"escape", "write a backslash twice, or use single quotation marks"),
)
"""Patterns for the error messages of PyYAML, each with a remedy. The first pattern that matches is used."""
_OTHER = "check the quotation marks, brackets and indentation at this position"


def yaml_error(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    """Return the line and the column of an error, both starting at 1, and a message with the remedy.

    Args:
        error: An error of PyYAML.
        text: The content of the file.
    """
    if isinstance(error, ReaderError):
        before = text[: error.position]
        message = f"not YAML: it contains the control character U+{ord(text[error.position]):04X}: remove it"
        return before.count("\n") + 1, len(before) - before.rfind("\n"), message
    if not isinstance(error, yaml.MarkedYAMLError):
        return 1, 1, f"not YAML: {_OTHER}"
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    words = " ".join(filter(None, (error.context, error.problem)))
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, words)), _OTHER)
    lines = text.splitlines()
    if "expected ',' or" in words and line < len(lines) and re.search(r"\$\{\w", lines[line]):
        remedy = _BRACES
    problem = error.problem or error.context or ""
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    return line + 1, mark.column + 1 if mark else 1, f"not YAML: {_without_content(problem)}: {remedy}"


def _without_content(message: str) -> str:
    """Replace quoted words in a message of PyYAML with `'…'`. Such words come from the file, and can be secrets."""
    return re.sub(r"(?<= )(['\"])(?![<\\])[^'\"\s]{2,}\1", "'…'", message)
