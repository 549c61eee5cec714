"""Asks the questions of `gateway init` on the terminal, and repeats a question after an invalid answer."""

import contextlib
import dataclasses
import getpass
import inspect
import itertools
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from gateway import backends, tunnels
from gateway.cli.init_answers import absolute, new_backend_name, parser, reask_on_error, secret_file, yes_or_no
from gateway.cli.terminal_output import print_text, print_wrapped
from gateway.config import value_parsers
from gateway.config.consistency_validation import conflict
from gateway.config.initial_config import from_urls, problems_of
from gateway.config.schema import type_hints
from gateway.config.sections import OpsSection
from gateway.contracts.config_types import HostPort
from gateway.contracts.secret import Secret

_NONE = "none"
_COMMANDS = ("command",)
"""The configuration keys whose value is a program with its arguments."""
_HINTS = {
    "identity_files": "To create a key: ssh-keygen -t ed25519 -f tunnel_key",
    "known_hosts": "To create the file: ssh-keyscan -p {port} {host} > known_hosts",
}
"""Hints on how to create a file. `gateway init` shows the hint of a key that has no default answer. `{host}` and
`{port}` stand for the answers to `host` and `port`."""
_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


def ask_config(tunnel_urls: tuple[str, ...]) -> dict[str, Any]:
    """Ask for a tunnel and for backends, and return the configuration.

    Args:
        tunnel_urls: The tunnels on the command line, as `NAME=URL`. If there are any, do not ask for a tunnel.

    Raises:
        ConfigError: A URL is not valid.
    """
    config = from_urls(tunnel_urls, ())
    if not tunnel_urls:
        kind = _choose("Kind of the tunnel to the remote network", [*tunnels.KINDS, _NONE], "ssh")
        if kind != _NONE:
            name = click.prompt(
                "Name of the tunnel", default="bastion", value_proc=reask_on_error(value_parsers.name)
            )
            _ask_valid(config, "tunnels", name, lambda before: _tunnel(kind, before))
    while True:
        kind = _choose("Kind of the backend", list(backends.KINDS), "postgres")
        others = config.setdefault("backends", {})
        default = kind
        for number in range(2, len(others) + 2):
            default = f"{kind}-{number}" if default in others else default
        name = click.prompt(
            "Name of the backend", default=default, value_proc=reask_on_error(new_backend_name(others))
        )
        via = list(config.get("tunnels", {}))[-1:]
        taken = [OpsSection().listen, *(value_parsers.listener(each["listen"]) for each in others.values())]
        _ask_valid(config, "backends", name, lambda before: _backend(kind, via, taken, before))  # noqa: B023
        if not click.prompt(
            "Another backend? [y/N]", default="n", show_default=False, value_proc=reask_on_error(yes_or_no)
        ):
            return config


def _ask_valid(
    config: dict[str, Any], section: str, name: str, ask: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Ask for all keys of a tunnel or backend until the configuration is valid.

    After an error, the previous answers are the defaults.

    Args:
        config: The configuration. This function adds the tunnel or backend to it.
        section: `tunnels` or `backends`.
        name: The name of the tunnel or backend.
        ask: Asks the questions and returns the answers. Its argument contains the previous answers.
    """
    before: dict[str, Any] = {}
    while True:
        config.setdefault(section, {})[name] = before = ask(before)
        problems = problems_of(config)
        if not problems:
            return
        for problem in problems:
            print_wrapped(str(problem), fg="red")
        print_text("Answer again:")


def _tunnel(kind: str, before: dict[str, Any]) -> dict[str, Any]:
    found = tunnels.KINDS[kind]
    keys = [*_required(found.options), *found.init_keys]
    return {"kind": kind, **_ask_keys(found.options, keys, before)}


def _backend(kind: str, via: list[str], taken: Iterable[HostPort], before: dict[str, Any]) -> dict[str, Any]:
    found = backends.KINDS[kind]
    answers: dict[str, Any] = {"kind": kind, **({"via": via[0]} if via else {})}
    target = click.prompt(
        "Address of the server, as host:port",
        default=before.get("targets", [None])[0],
        value_proc=reask_on_error(lambda text: str(value_parsers.host_port(text, found.default_port))),
    )
    answers["targets"] = [target]
    answers |= _ask_keys(found.options, _required(found.options), before)
    server = value_parsers.host_port(target, found.default_port)
    answers["listen"] = click.prompt(
        "Address where clients connect to the gateway",
        default=_free_listener(before.get("listen"), server.port, [*taken, *([] if via else [server])]),
        value_proc=reask_on_error(lambda text: str(value_parsers.listener(text))),
    )
    keys = [*_required(found.check), *found.init_keys]
    needs_user = not found.imports.password_without_user
    if keys:
        print_wrapped("The gateway uses the next answers only to check the backend. Clients log in themselves.")
    check = _ask_keys(found.check, keys, before.get("check", {}), password_needs_user=needs_user)
    return {**answers, **({"check": check} if check else {})}


def _free_listener(answer: str | None, port: int, taken: Collection[HostPort]) -> str:
    """Return the default address of a listener, which conflicts with no address in `taken`.

    The default is the previous answer if possible; otherwise, 127.0.0.1 with the server's port or the next free port.

    Args:
        answer: The previous answer; None if there is none.
        port: The port of the server.
        taken: The addresses that are in use, such as those of other listeners.
    """
    addresses = (f"127.0.0.1:{each}" for each in itertools.chain(range(port, 65536), range(1024, port)))
    return next(
        each
        for each in itertools.chain([answer] if answer else [], addresses)
        if not any(conflict(value_parsers.listener(each), other) for other in taken)
    )


def _required(cls: type) -> list[str]:
    """Return the keys of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return [each.name for each in dataclasses.fields(cls) if each.default is missing is each.default_factory]


def _ask_keys(
    cls: type, keys: Iterable[str | tuple[str, ...]], before: dict[str, Any], *, password_needs_user: bool = False
) -> dict[str, Any]:
    """Ask for the values of some keys, and return the answers. Keys without an answer are absent from the result.

    Args:
        cls: The dataclass that defines the keys.
        keys: The keys. A tuple contains alternative keys: after the user has answered one of them, skip the others.
        before: The answers of the previous attempt, which are the defaults.
        password_needs_user: Whether to skip the key `password` if there is no answer for the key `user`.
    """
    answers: dict[str, Any] = {}
    for group in dict.fromkeys(keys):
        for key in (group,) if isinstance(group, str) else group:
            if key == "password" and password_needs_user and "user" not in answers:
                continue
            name, answer = _ask_key(cls, key, before, answers)
            if answer != "":
                answers[name] = answer
                break
    return answers


def _ask_key(cls: type, key: str, before: dict[str, Any], answers: dict[str, Any]) -> tuple[str, Any]:
    """Ask for the value of one key. Return the key and the value to write to the configuration file.

    Without an answer, the value is an empty string. For a secret such as `password`, the returned key is
    `password_file`, because the configuration file must not contain the secret itself.

    Args:
        cls: The dataclass that defines the key.
        key: The name of the field.
        before: The answers of the previous attempt, which are the defaults.
        answers: The earlier answers of this attempt.
    """
    hint = type_hints(cls)[key]
    secret = Secret in (hint, *get_args(hint))
    name = f"{key}_file" if secret else key
    note = "A file, which is created if it is missing. " if secret else ""
    text = _description(cls, key, all_of_it=key in _COMMANDS or get_origin(hint) is Literal)
    quoting = " Quote words that contain spaces." if key in _COMMANDS else ""
    print_wrapped(f"{name}: {note}{text}{quoting}")
    default = before.get(name, _default(cls, key))
    if key in _HINTS and default is None:
        print_wrapped(_HINTS[key].format_map({"host": "HOST", "port": 22, **answers}), indent="  ")
    rules = next(each.metadata for each in dataclasses.fields(cls) if each.name == key)
    parse = shlex.split if key in _COMMANDS else secret_file if secret else parser(hint, rules)
    answer = click.prompt(
        f"  {name}",
        default=_shown(key, default) if default is not None else (None if key in _required(cls) else ""),
        value_proc=reask_on_error(parse),
    )
    return name, answer


def _default(cls: type, key: str) -> Any:
    """Return the default answer for a key; None if there is none.

    The defaults include existing files in `~/.ssh`, the socket of the SSH agent, and the name of the current user.
    """
    usual = {"identity_files": _KEYS, "known_hosts": ("~/.ssh/known_hosts",)}.get(key, ())
    # Ignore errors: if the home directory is unknown or unreadable, no file in it can be the default answer.
    with contextlib.suppress(ValueError, OSError):
        found = [str(path) for path in map(absolute, usual) if path.is_file()]
        if found:
            return found[:1]
        if key == "agent" and Path(os.environ.get("SSH_AUTH_SOCK", "")).is_socket():
            return "${SSH_AUTH_SOCK}"
    field = next(each for each in dataclasses.fields(cls) if each.name == key)
    if key == "user" and field.default is dataclasses.MISSING:
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # in a container, the user ID may have no account
            return None
    return None if field.default in (dataclasses.MISSING, None, ()) else field.default


def _shown(key: str, default: Any) -> str:
    if key in _COMMANDS and isinstance(default, list):
        return shlex.join(default)
    return ", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _description(cls: type, key: str, *, all_of_it: bool) -> str:
    """Return the description of a key, from the docstring of `cls` or of a base class.

    If the key has no description, return the key itself.

    Args:
        cls: The dataclass that defines the key.
        key: The name of the field.
        all_of_it: Whether to return the complete description instead of its first sentence.
    """
    for each in cls.__mro__:
        found = re.search(rf"^    {key}: (.+(?:\n {{8}}.+)*)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        if found:
            text = " ".join(found[1].split())
            return text if all_of_it else re.split(r"(?<=\.) ", text)[0]
    return key


def _choose(text: str, choices: list[str], default: str) -> str:
    answer: str = click.prompt(text, type=click.Choice(choices), default=default)
    return answer
