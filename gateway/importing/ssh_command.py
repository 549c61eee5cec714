"""Parses the command lines of ssh(1), autossh(1) and sshpass(1)."""

import re
from collections.abc import Sequence

from gateway.errors import UsageError
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import SshCommandContext
from gateway.importing.ssh_host_config import SshHostConfig
from gateway.importing.ssh_tunnels import add_host, note_unused
from gateway.secret_redaction import redacted

_WITH_VALUE = "BbcDEeFIiJLlmOoPpRSWw"
"""Options of ssh that take a value (ssh(1), "SYNOPSIS")."""
_UNNECESSARY = "4AaCfGgKkMNnqsTtvXxYy"
"""ssh options that take no value. The import uses only `-g`, and skips the others."""
_KEYWORDS = {
    "i": "IdentityFile", "p": "Port", "l": "User", "J": "ProxyJump", "L": "LocalForward", "R": "RemoteForward",
    "D": "DynamicForward", "c": "Ciphers", "m": "MACs",
}  # fmt: skip
_PROGRAMS = ("ssh", "autossh")
_PREFIXES = {
    "sudo": "CDghpRrTtUu", "doas": "Cu", "env": "Cu", "nice": "n", "nohup": "", "setsid": "", "time": "", "exec": "",
    "sshpass": "dfPp", "timeout": "ks", "gosu": "", "su-exec": "", "tini": "", "dumb-init": "", "flock": "Ew",
    "screen": "cehpStT", "tmux": "ceFfLnSstxy", "runuser": "ugGs", "systemd-run": "EHMpt", "stdbuf": "eio",
    "ionice": "cn",
    "while": "", "until": "", "if": "", "elif": "", "!": "",
}  # fmt: skip
"""Programs and shell keywords that can precede ssh, each with its short options that take a value."""
_WITH_ARGUMENT = ("timeout", "gosu", "su-exec", "flock", "tmux")
"""Programs of `_PREFIXES` that require an argument, such as a duration, before the command."""
_SCHEDULE = re.compile(r"(?:@\w+|[\w*/,-]+(?: [\w*/,-]+){4})(?= |$)")
"""Matches the schedule in a line of crontab(5)."""


def ssh_program(words: Sequence[str]) -> int | None:
    """Return the index of the word `ssh` or `autossh`; None if the command runs another program.

    Args:
        words: The words of the command, or of a line of crontab(5).
    """
    start = schedule_length(words)
    if start and program_index(words, _PROGRAMS) is None and has_forward(words):
        start += 1  # the word after the schedule can be a user, as in /etc/crontab
    return program_index(words, _PROGRAMS, start)


def program_index(words: Sequence[str], programs: Sequence[str], start: int | None = None) -> int | None:
    """Return the index of the word for one of `programs`, after prefixes such as `sudo`; None if there is none.

    Args:
        words: The words of the command, or of a line of crontab(5).
        programs: The names of the programs, without a directory.
        start: The index of the first word to consider; None for the first word after the crontab(5) schedule.
    """
    prefix, arguments = "", 0
    start = schedule_length(words) if start is None else start
    rest = iter(enumerate(words[start:], start))
    for index, word in rest:
        name = word.rpartition("/")[2]
        if prefix and word.startswith("-"):
            if _takes_next(word, _PREFIXES[prefix]):
                next(rest, None)
        elif arguments:
            arguments -= 1
        elif name in programs:
            return index
        elif name in _PREFIXES:
            prefix, arguments = name, int(name in _WITH_ARGUMENT)
        elif not re.match(r"[A-Za-z_]\w*=", word):
            return None
    return None


def schedule_length(words: Sequence[str]) -> int:
    """Return the number of words in the crontab(5) schedule before a command; 0 if there is no schedule."""
    match = _SCHEDULE.match(" ".join(words[:6]))
    return len(match[0].split()) if match is not None and re.match(r"[@*\d]", words[0]) else 0


def _takes_next(word: str, with_value: str) -> bool:
    """Return whether the value of an option is the next word.

    Args:
        word: A word with one or more short options, or a long option.
        with_value: The short options that take a value.
    """
    at = next((index for index, letter in enumerate(word) if letter in with_value), 0)
    return not word.startswith("--") and at == len(word) - 1 > 0


def has_forward(words: Sequence[str]) -> bool:
    """Return whether an ssh command has an option for a local, remote or dynamic forward."""
    return any(re.match(r"-\w*[LRD]|(-o)?LocalForward", word) for word in words)


def import_command(
    words: list[str], context: SshCommandContext, result: ImportResult, *, need_forward: bool = True
) -> None:
    """Convert an ssh command to tunnels and local forwards.

    Args:
        words: The command line, with or without the name of the program.
        context: The environment in which the command runs.
        result: The imported configuration, to which the function adds the tunnels and forwards.
        need_forward: Whether a command without a local forward is an error.

    Raises:
        UsageError: The command is not valid, or `need_forward` is set and the command has no local forward.
    """
    config, where = SshHostConfig(), context.where
    skipped: list[str] = []
    words = _without_prefix(words, config, skipped, result, where)
    while words:
        word = words.pop(0)
        if word == "--":
            continue
        if word.startswith("-") and len(word) > 1:
            words = _option(word, words, config, skipped)
        elif not config.destination:
            config.destination = word
        else:
            result.add_note(
                f"{where}: the gateway runs no commands on the server, so it ignores {redacted([word, *words])}"
            )
            break
    if not config.destination:
        raise UsageError(f"{where}: the command contains no server: add one, as in user@host")
    if skipped:
        result.add_note(f"{where}: not needed with the gateway: {' '.join(skipped)}")
    if "localforward" in config.keywords:
        add_host(config, context, result)
    elif need_forward:
        raise UsageError(f"{where}: {config.destination}: there is no local forward: add one (-L, LocalForward)")
    else:
        result.add_note(f"{where}: not imported: the ssh command to {config.destination} has no local forward (-L)")
        config.unused.pop("passwordfile", None)
        note_unused(config, context.where, "NAME", result)


def _without_prefix(
    words: list[str], config: SshHostConfig, skipped: list[str], result: ImportResult, where: str
) -> list[str]:
    """Return the arguments of ssh. Import the password file of sshpass; skip other prefixes, such as `nohup`."""
    words = list(words)
    program = ssh_program(words)
    prefix = words[: program or 0]
    if "sshpass" in (word.rpartition("/")[2] for word in prefix):
        path = prefix[prefix.index("-f") + 1] if "-f" in prefix[:-1] else "/run/secrets/ssh_password"
        config.add("PasswordFile", path)
        result.add_note(f"{where}: sshpass: write the password to {path}")
    else:
        skipped += prefix
    rest = words if program is None else words[program + 1 :]
    if program is not None and words[program].endswith("autossh"):
        skipped.append("autossh")
        if rest[:1] == ["-M"]:
            skipped += rest[:2]
            rest = rest[2:]
        elif rest and re.fullmatch(r"-M\d+", rest[0]):
            skipped.append(rest.pop(0))
    return rest


def _option(word: str, words: list[str], config: SshHostConfig, skipped: list[str]) -> list[str]:
    """Parse a word with one or more ssh options, such as `-NL`. Return the words that are still to be parsed.

    Args:
        word: The word, with its dash.
        words: The words after `word`. The first of them can be the value of the last option in `word`.
        config: The settings, to which the function adds the option.
        skipped: The list to which the function adds options that need no equivalent in the gateway's configuration.

    Raises:
        UsageError: ssh does not have the option, or its value is missing.
    """
    letter, rest = word[1], word[2:]
    if letter not in _WITH_VALUE:
        # autossh also accepts -M PORT after other options.
        if letter == "M" and words and re.fullmatch(r"\d+(:\d+)?", words[0]):
            skipped += ["-M", words[0]]
            return words[1:]
        if letter not in _UNNECESSARY and letter != "6":
            raise UsageError(f"-{letter} is not an option of ssh: remove it")
        if letter == "g":
            config.add("GatewayPorts", "yes")
        else:
            skipped.append(f"-{letter}")
        return _option(f"-{rest}", words, config, skipped) if rest else words
    if not rest and not words:
        raise UsageError(f"-{letter} needs a value: write the value after the option, or remove the option")
    value, words = (rest, words) if rest else (words[0], words[1:])
    if letter == "o":
        key, _, setting = re.sub(r"\s*=\s*|\s+", " ", value.strip(), count=1).partition(" ")
        config.add(key, setting)
    else:
        config.add(_KEYWORDS.get(letter, f"-{letter}"), value)
    return words
