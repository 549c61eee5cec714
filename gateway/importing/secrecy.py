"""Keeps secrets out of notes."""

import re
import shlex
from collections.abc import Sequence

_SECRET = re.compile(
    r"(?i)(pass(word|wd|phrase)?|pwd|secret|token|private_?key|preshared_?key|api_?key|credential)s?"
)
_URL = re.compile(r"(?<=://)([^:/@\s]*):[^@\s]+(?=@)")
_SETTING = re.compile(r"(?i)(\b[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|_?key)s?)([=:])[^\s,;]+")


def is_secret(name: str) -> bool:
    """Return whether the value of a variable is probably a secret, rather than the path of one."""
    return bool(_SECRET.search(name)) and not re.search(r"(?i)(path|file|location|dir)$", name)


def redacted(words: Sequence[str]) -> str:
    """Return words as a command line, with `***` in place of passwords.

    Args:
        words: The words.
    """
    shown: list[str] = []
    hide = False
    for word in words:
        cleaned = _SETTING.sub(r"\1\2***", _URL.sub(r"\1:***", word))
        shown.append("***" if hide else cleaned)
        hide = bool(re.fullmatch(r"--?[\w-]*(pass(word|wd|phrase)?|pwd|secret|token)", word))
    return " ".join(shlex.quote(word) if re.search(r"\s", word) else word for word in shown)
