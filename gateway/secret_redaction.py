"""Recognizes secrets in strings and command lines, and replaces them."""

import re
import shlex
from collections.abc import Sequence

_NAME = r"pass(?:word|wd|phrase)?|pwd|secret|token|master_?auth|cli_auth|proxy-auth|(?:api|preshared)[_.-]?key"
_SECRET = re.compile(rf"(?i)(?:{_NAME}|private[_.-]?key|credential)s?")
"""Matches the part of a setting's name that indicates a secret value, such as `password`."""
_OPTION = rf"--?[\w-]*(?:{_NAME}|(?:secret|access|account)[_-]?key)(?:-command)?"
_END = r"(?=[:)`']*(?:[\s,;]|$))"
"""Matches the position where a secret ends. Punctuation that follows the secret is not part of it."""
_WORD = rf"(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+?{_END})"
_SETTING = rf"(?<![\w.-])[\w.-]*(?:{_NAME}|_?key)s?\d?"
_SECRET_NAME = re.compile(rf"(?i){_SETTING}")
"""Matches the whole name of a setting whose value is a secret."""
_HEADER = r"[\w-]{0,60}(?:key|token|auth|secret|password|cookie)[\w-]{0,60}\s{0,9}:"
_OPTIONS_OF_PROGRAMS = (
    ("mysql|mariadb", "-p"),
    ("sshpass|login|cqlsh", r"-p\s*"),
    (r"mongo(?:sh|dump|restore|export|import|(?=\s))", r"-p\s*"),
    ("redis-cli|valkey-cli", r"-a\s*"),
    ("sqlcmd|bcp|mosquitto_pub|mosquitto_sub|zip|unzip", r"-P\s*"),
    ("ldap", r"-w\s*"),
    ("plink|pscp|psftp", r"-pw\s+"),
    ("smbclient|rpcclient", r"-U\s*[^\s%'\"]*%"),
    ("lftp", r"-u\s*[^\s,'\"]*,"),
    ("curl", r"(?:-u|--user)\s*"),
)
"""Pairs of patterns. The first pattern matches the names of programs. The second pattern matches an option of these
programs up to the secret. For example, it matches `-u USER,` in `-u USER,SECRET`."""


def _after(program: str) -> str:
    """Return a pattern that matches a program's name and the arguments after it.

    The match ends before the next occurrence of the name. Otherwise, the search of a string that repeats the name
    would take quadratic time.
    """
    return rf"\b{program}\w*\b(?:(?!\b{program})[^;|&])*?"


_HIDDEN = (
    re.compile(
        r"()(?:-----BEGIN.*?(?:-----END[^-]*-----|$)|(?:LS0tLS1CRUdJTi|b3BlbnNzaC1rZXktdj)[\w+/=]*)", re.DOTALL
    ),
    re.compile(r"(://[^:/@\s]*:)[^@\s]{1,4000}(?=@)"),
    re.compile(r"((?<![\w./%-])[\w.%-]+:)[^\s:/@]+(?=@(?!sha256:))"),  # a tag before `@sha256:` is not a secret
    re.compile(rf"(?i)({_SETTING}(?:=|:(?!/)))(?:\"[^\"]*\"|[^\s,;]+?{_END})"),  # `:/` begins a path, not a secret
    re.compile(rf"(?i)((?<!\S){_OPTION}\s+){_WORD}"),
    re.compile(rf"(?i)((?<!\S)--auth[_-]?key[=\s]\s*)(?!-){_WORD}"),
    re.compile(r"((?<!\S)--(?:auth|user)[=\s]\s*(['\"])[^\s:'\"]+:)(?:(?!\2).)+"),
    re.compile(
        # Do not hide `1000:1000` or `name:name`, which are a user and a group, not a user and a password.
        rf"((?<!\S)--(?:auth|user)[=\s]\s*(?!\d+:\d+(?!\S))(?!([^\s:]+):\2(?!\S))[^\s:'\"]+:){_WORD}"
    ),
    *(re.compile(rf"({_after(f'(?:{name})')}\s{option}){_WORD}") for name, option in _OPTIONS_OF_PROGRAMS),
    re.compile(rf"(\bhtpasswd\s+-\w*b\w*\s+\S+\s+\S+\s+){_WORD}"),
    re.compile(rf"(\bvault\s+login\s+(?:-\S+\s+)*)(?!-){_WORD}"),
    re.compile(rf"(\bmc\s+alias\s+set\s+\S+\s+\S+\s+\S+\s+){_WORD}"),
    re.compile(rf"(\bconfigure\s+set\s+\S{{0,60}}(?:secret|token|password)\S{{0,60}}\s+){_WORD}"),
    re.compile(rf"(?i)(\buser(?:name)?=[^\s,%]*%)[^\s,;]+?{_END}"),
    re.compile(rf"(?i)(['\"]{_HEADER}\s(?:(?:basic|bearer|token)\s+)?)[^'\"]+"),
    re.compile(rf"(?i)(\s(?:-H\s*|--header[\s=]){_HEADER}\s*)[^\s'\"]+"),
    re.compile(r"(?i)(\bauthorization\s*:\s*(?:(?:basic|bearer|token)\s+)?)[^\s'\"]+"),
)
"""Patterns that match private keys, passwords in URLs, and secrets in settings, program options and HTTP headers.
The capturing group of each pattern matches the characters before the secret."""


def is_secret(name: str) -> bool:
    """Return whether a variable's name indicates a secret: `DB_PASSWORD` does, but `DB_PASSWORD_FILE` does not."""
    return bool(_SECRET.search(name)) and not re.search(r"(?i)(path|file|location|dir)$", name)


def is_private_key(text: str) -> bool:
    """Return whether a string is a private key (PEM, PEM in base64, or only the body of PEM) rather than a path."""
    return "-----BEGIN" in text or text.startswith(("LS0tLS1CRUdJTi", "b3BlbnNzaC1rZXktdj", "MII"))


def hide_secrets(text: str) -> str:
    """Return the string with `***` in place of each part that is probably a secret."""
    for pattern in _HIDDEN:
        text = pattern.sub(r"\1***", text)
    return text


def redacted(words: Sequence[str]) -> str:
    """Return a command line with `***` in place of secrets.

    Args:
        words: The words of the command line.
    """
    shown: list[str] = []
    hide = False
    for word in words:
        shown.append("***" if hide else hide_secrets(_without_spaced_secrets(word)))
        hide = bool(re.fullmatch(_OPTION, word, re.IGNORECASE))
    return hide_secrets(_joined(shown))


def _without_spaced_secrets(word: str) -> str:
    """Hide the values of secret settings in one word that contains white space.

    `hide_secrets` alone would hide such a value only up to the white space.
    """
    if not re.search(r"\s", word):
        return word
    first, equals, value = word.partition("=")
    if equals and _SECRET_NAME.fullmatch(first):
        return f"{first}=***"  # hide the whole value, because it can contain a comma
    option, _, inner = value.partition("=")
    if first.startswith("--") and _SECRET_NAME.fullmatch(option) and inner:
        return f"{first}={option}=***"
    parts = [part.partition("=") for part in word.split(",")]
    return ",".join(
        f"{name}=***" if sign and _SECRET_NAME.fullmatch(name) else f"{name}{sign}{text}"
        for name, sign, text in parts
    )


def has_secrets(words: Sequence[str]) -> bool:
    """Return whether the words of a command probably contain a secret, or a name that indicates a secret.

    Args:
        words: Options and arguments of a command.
    """
    # A boolean option is not a secret, even if its name contains `pass`, as in Traefik's `passhostheader=true`.
    words = [each for each in words if not re.search(r"(?i)=(?:true|false)$", each)]
    return any(_SECRET.search(word) for word in words) or redacted(words) != _joined(words)


def _joined(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) if re.search(r"\s", word) else word for word in words)
