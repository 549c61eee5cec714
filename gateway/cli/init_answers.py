"""Checks the answers to the questions of `gateway init`, and converts them to values of the configuration."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from gateway.config import value_parsers
from gateway.config.scalar_decoder import SCALARS, broken_rule, one_of
from gateway.config.variable_expansion import expand


def parser(hint: Any, rules: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a function that checks the answer for a configuration key, and converts the answer to a value for YAML.

    Args:
        hint: The type hint of the key.
        rules: The limits of the value, such as a minimum.
    """
    if get_origin(hint) is tuple:
        inner = parser(get_args(hint)[0], rules)
        return lambda text: [inner(each.strip()) for each in text.split(",") if each.strip()]
    if get_origin(hint) is Literal:
        return lambda text: one_of(text, get_args(hint))
    if type(None) in get_args(hint):
        return parser(next(each for each in get_args(hint) if each is not type(None)), rules)
    if hint is Path:
        return _existing_file
    read = SCALARS[hint]

    def parse(text: str) -> Any:
        value = read(text)
        if problem := broken_rule(value, rules):
            raise ValueError(problem)
        return value if hint in (int, bool) else text

    return parse


def reask_on_error(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a `value_proc` for `click.prompt` that calls `parse`.

    If `parse` raises `ValueError` or `OSError`, Click asks again.
    """

    def value(text: str) -> Any:
        try:
            return parse(text.strip()) if text.strip() else ""
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        except OSError as error:
            raise click.BadParameter(f"{text.strip()}: {error.strerror}: choose another path") from error

    return value


def new_backend_name(taken: Collection[str]) -> Callable[[str], str]:
    """Return a function that checks the name of a new backend, and rejects the names in `taken`."""

    def parse(text: str) -> str:
        if text in taken:
            raise ValueError(f"there is already a backend {text}: choose another name")
        return value_parsers.name(text)

    return parse


def yes_or_no(text: str) -> bool:
    """Return whether the answer is yes.

    Raises:
        ValueError: The answer is neither yes nor no.
    """
    if text.lower() not in ("y", "yes", "n", "no"):
        raise ValueError(f"{text!r} is neither yes nor no: write y or n")
    return text.lower() in ("y", "yes")


def _existing_file(text: str) -> str:
    """Return the absolute path of a file or socket. If `text` refers to environment variables, return it unchanged.

    Raises:
        ValueError: The file does not exist, a variable is not set, or the home directory is not known.
    """
    try:
        expanded = expand(text, os.environ)
    except KeyError as error:
        raise ValueError(f"the environment variable {error.args[0]} is not set: set it") from error
    path = absolute(expanded)
    if not (path.is_file() or path.is_socket()):
        raise ValueError(f"{path} is not a file: write the path of an existing file")
    return str(path) if expanded == text else text


def secret_file(text: str) -> str:
    """Return the absolute path of a password file. If it does not exist, ask for a password, and create the file.

    Raises:
        ValueError: The file cannot be created.
    """
    path = absolute(text)
    if path.exists():
        return str(path)
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}: create it, or choose another path")
    secret = click.prompt(f"  {path} does not exist. Password to write to this new file", hide_input=True)
    try:
        create_file(path, f"{secret}\n", 0o600)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: choose another path") from error
    return str(path)


def create_file(path: Path, text: str, mode: int) -> None:
    """Create a file that does not exist yet. If the text cannot be written, remove the file.

    Args:
        path: The path of the file.
        text: The content of the file.
        mode: The mode of the file, which the process's umask restricts.

    Raises:
        OSError: The file cannot be created or written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def absolute(text: str) -> Path:
    """Return `text` as an absolute path. Replace `~` with the home directory.

    Raises:
        ValueError: The path starts with `~`, but the home directory is not known.
    """
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{text}: the home directory is not known: write an absolute path") from error
