"""Removes secrets from notes and error messages."""

import re
import shlex
from collections.abc import Sequence

_SECRET = re.compile(
    r"(?i)(pass(word|wd|phrase)?|pwd|secret|token|private_?key|preshared_?key|api_?key|credential)s?"
)
_OPTION = r"--?[\w-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|proxy-auth)"
_END = r"(?=[:)`']*(?:[\s,;]|$))"
"""Matches the end of a secret. Punctuation that a note adds after the secret is not part of the secret."""
_WORD = rf"(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+?{_END})"
_SETTING = r"(?<![\w.-])[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|_?key)s?\d?"


def _after(program: str) -> str:
    """Return a pattern that matches the name of a program and its arguments.

    The arguments do not contain the name again. Otherwise, the time to search a text that repeats the name would grow
    with the square of its length.
    """
    return rf"\b{program}\w*\b(?:(?!\b{program})[^;|&])*?"


_HIDDEN = (
    re.compile(r"()(?:-----BEGIN.*?(?:-----END[^-]*-----|$)|LS0tLS1CRUdJTi[\w+/=]*)", re.DOTALL),
    re.compile(r"(://[^:/@\s]*:)[^@\s]{1,4000}(?=@)"),
    re.compile(r"((?<![\w./%-])[\w.%-]+:)[^\s:/@]+(?=@(?!sha256:))"),  # not the digest of an image
    re.compile(rf"(?i)({_SETTING}(?:=|:(?!/)))(?:\"[^\"]*\"|[^\s,;]+?{_END})"),  # `:/` precedes a path
    re.compile(rf"(?i)((?<!\S){_OPTION}\s+){_WORD}"),
    re.compile(rf"({_after(r'(?:mysql|mariadb)')}\s-p){_WORD}"),
    re.compile(rf"({_after(r'(?:sshpass|login)')}\s-p\s*){_WORD}"),
    re.compile(rf"({_after('curl')}\s(?:-u|--user)\s*){_WORD}"),
    re.compile(r"(?i)(\bauthorization\s*:\s*(?:(?:basic|bearer)\s+)?)[^\s'\"]+"),
)
"""Patterns of secrets: private keys, passwords in URLs, settings, options of common programs. The group of each
pattern matches the text before the secret."""


def is_secret(name: str) -> bool:
    """Return whether a variable's name indicates that the value is a secret, not the path of a file with a secret."""
    return bool(_SECRET.search(name)) and not re.search(r"(?i)(path|file|location|dir)$", name)


def is_private_key(text: str) -> bool:
    """Return whether a text is a private key (PEM, or PEM in base64), not the path of a key file."""
    return "-----BEGIN" in text or text.startswith("LS0tLS1CRUdJTi")


def hide_secrets(text: str) -> str:
    """Return a text in which `***` replaces each part that is probably a secret."""
    for pattern in _HIDDEN:
        text = pattern.sub(r"\1***", text)
    return text


def redacted(words: Sequence[str]) -> str:
    """Return words as a command line in which `***` replaces secrets.

    Args:
        words: The words of a command.
    """
    shown: list[str] = []
    hide = False
    for word in words:
        shown.append("***" if hide else hide_secrets(word))
        hide = bool(re.fullmatch(_OPTION, word, re.IGNORECASE))
    return hide_secrets(" ".join(shlex.quote(word) if re.search(r"\s", word) else word for word in shown))
