"""Parses docker command lines, such as `docker run` and `docker volume create`."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

from gateway.errors import UsageError
from gateway.importing.docker_run_options import read_bind, read_mount, read_options
from gateway.importing.env_file import EnvFileReader
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer, ImportedMount
from gateway.secret_redaction import redacted

_ENGINE_OPTIONS = {"--context", "-c", "--host", "-H", "--connection", "--url"}
"""The global options of docker and podman that select an engine."""
_OPTIONS_WITH_VALUE = _ENGINE_OPTIONS | {
    "--config", "--log-level", "-l", "--tlscacert", "--tlscert", "--tlskey", "--identity", "--root", "--runroot",
    "--runtime", "--runtime-flag", "--storage-driver", "--storage-opt", "--cgroup-manager", "--conmon",
    "--events-backend", "--hooks-dir", "--imagestore", "--module", "--network-cmd-path", "--network-config-dir",
    "--out", "--ssh", "--tmpdir", "--volumepath", "--cdi-spec-dir",
}  # fmt: skip
_LOCAL_ENGINE = re.compile(r"default|unix://.*")
Volumes = dict[str, dict[str, str]]
"""The driver options of each volume, by volume name."""


def import_docker(words: list[str], source: str, read_env_file: EnvFileReader, result: ImportResult) -> Volumes:
    """Import a docker command: the container that it runs, and the volumes that it creates.

    Args:
        words: The words of the command. The first word is `docker` or `podman`.
        source: The prefix of notes and errors, such as `deploy.sh: `; can be empty.
        read_env_file: A function that reads an env file of the container.
        result: The imported configuration, to which the function adds the container and notes.

    Returns:
        The driver options of each volume that the command creates, by volume name.

    Raises:
        UsageError: The command is not valid.
    """
    program, *rest = words
    rest, engine = _without_global_options(rest)
    if engine:
        result.add_note(f"{source}`{program} {redacted(engine)}`: run the gateway where this engine runs")
    if rest[:1] == ["container"]:
        rest = rest[1:]
    match rest[:2]:
        case ["run" | "create", *_]:
            return _run(rest[1:], source, f"{program} {rest[0]}", read_env_file, result)
        case ["service", "create"]:
            return _run(rest[2:], source, f"{program} service create", read_env_file, result)
        case ["volume", "create"]:
            return _volume(rest[2:], f"{source}{program} volume create", result)
    result.add_note(f"{source}`{redacted(words)}`: not imported, because it does not affect connections to backends")
    return {}


def _without_global_options(words: list[str]) -> tuple[list[str], list[str]]:
    """Split off the options before the subcommand.

    Returns:
        The words from the subcommand on, and those options that select another engine, with their values.
    """
    engine: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = [rest.pop(0)]
        name, equals, value = option[0].partition("=")
        if not name.startswith("--") and len(name) > 2:  # a short option with its value, such as -Htcp://…
            name, value = option[0][:2], option[0][2:]
        elif name in _OPTIONS_WITH_VALUE and not equals and rest:
            option.append(value := rest.pop(0))
        if name in _ENGINE_OPTIONS and not _LOCAL_ENGINE.fullmatch(value):
            engine += option
    return rest, engine


def _run(words: list[str], source: str, command: str, read_env_file: EnvFileReader, result: ImportResult) -> Volumes:
    notes: list[str] = []
    options, rest = read_options(words, notes, f"{source}{command}")
    named = next((value for name, value in options if name == "name"), "")
    if not rest:
        raise UsageError(
            f"{source}{command} {named}".rstrip() + ": the command has no image: add the image to the command"
        )
    where = f"{source}{command} {named or rest[0]}"
    container = ImportedContainer(where, named, image=rest[0], command=rest[1:])
    container.parts["image"] = f"image {rest[0]}"
    if rest[1:]:
        container.parts["command"] = f"command {redacted(rest[1:])}"
    for note in notes:
        result.add_note(note)
    misplaced = [word for word in rest[1:] if re.match(r"-[evp]$|--(env|volume|publish|network|name|mount)\b", word)]
    if misplaced:
        result.add_note(
            f"{where}: the program in the container receives {', '.join(misplaced)}, because all words after the"
            f" image are arguments of this program: if these are options of {command}, put them before {rest[0]}"
        )
        options += [("env", word) for flag, word in pairwise(rest) if flag in ("-e", "--env") and "=" in word]
    volumes: Volumes = {}
    driver: dict[str, str] = {}
    # Apply the env files first, in their order, because a later file overrides earlier ones, and --env overrides all.
    for name, value in sorted(options, key=lambda option: option[0] != "env-file"):
        if name in ("opt", "o"):
            driver.update([value.partition("=")[::2]])
        else:
            volumes |= _apply(container, name, value, read_env_file, result)
    if driver:
        volumes |= _intended_options(container, driver, result)
    result.containers.append(container)
    return volumes


def _apply(
    container: ImportedContainer, name: str, value: str, read_env_file: EnvFileReader, result: ImportResult
) -> Volumes:
    """Apply one option of `docker run` to an imported container.

    Return the driver options of each volume that the option creates, by volume name.
    """
    match name:
        case "env" | "env-file":
            _apply_variables(container, name, value, read_env_file)
        case "volume":
            mount = read_bind(value)
            container.mounts.append(mount)
            container.parts[f"mount.{mount.target}"] = f"-v {value}"
        case "mount":
            mount, options, fields = read_mount(value)
            container.mounts.append(mount)
            container.parts[f"mount.{mount.target}"] = f"--mount {value}"
            kind = fields.get("type", "volume")
            if kind not in ("bind", "volume", "tmpfs", "image", "npipe", "cluster"):
                container.mounts.remove(mount)
                options, mount = _intended_volume(container, kind, mount, result)
                container.mounts.append(mount)
                container.use(f"mount.{mount.target}")
            if options and kind != "bind":
                return {mount.source or f"{container.name or 'container'}-volume": options}
        case "network" | "network-alias" | "publish":
            _apply_network(container, name, value)
        case "link":
            container.add_link(value)
        case "name":
            pass
        case _:
            shown = f"--{name}" if len(name) > 1 else f"-{name}"
            container.parts[f"{name} {value}"] = f"{shown} {redacted([value])}" if value else shown
    return {}


def _apply_variables(container: ImportedContainer, name: str, value: str, read_env_file: EnvFileReader) -> None:
    if name == "env":
        key, equals, text = value.partition("=")
        container.environment[key] = text if equals else f"${{{key}}}"
        container.parts[f"environment.{key}"] = f"-e {key}"
        return
    variables = read_env_file(value)
    for key, setting in (variables or {}).items():
        container.environment[key] = setting
        container.parts[f"environment.{key}"] = f"{value}: {key}"
    if variables is None:
        container.parts[f"env-file.{value}"] = f"--env-file {value} (not read: pass it as another source)"


def _apply_network(container: ImportedContainer, name: str, value: str) -> None:
    container.parts[f"{name}.{value}"] = f"-p {value}" if name == "publish" else f"--{name} {value}"
    if name == "publish":
        container.published += list(published(value))
    elif name == "network-alias":
        container.aliases.append(value)
    elif value.startswith(("container:", "service:")) or value in ("host", "none"):
        container.network = value


def _intended_volume(
    container: ImportedContainer, kind: str, mount: ImportedMount, result: ImportResult
) -> tuple[dict[str, str], ImportedMount]:
    """Convert a mount of an invalid type, such as `--mount type=nfs`, to a mount of a volume.

    Add a note with the correct option. Return the driver options of the volume, and the mount.
    """
    server, _, export = mount.source.rpartition(":")
    name = export.rstrip("/").rpartition("/")[2] or "volume"
    options = {"type": kind, "device": f":{export}" if server else mount.source}
    if server:
        options["o"] = f"addr={server},{'ro' if mount.read_only else 'rw'}"
    shown = ",".join(f'"volume-opt={key}={value}"' for key, value in options.items())
    result.add_note(
        f"{container.where}: type={kind} is not valid for --mount; use --mount 'type=volume,source={name},"
        f"target={mount.target},volume-driver=local,{shown}'"
    )
    return options, ImportedMount(name, mount.target, read_only=mount.read_only)


def _intended_options(container: ImportedContainer, driver: dict[str, str], result: ImportResult) -> Volumes:
    """Use the values of `--opt` as driver options of the container's volume. `docker run` has no such option.

    Add a note with the correct command. Return the driver options, by volume name.
    """
    name = next((mount.source for mount in container.mounts if mount.source and "/" not in mount.source), "volume")
    options = " ".join(f"--opt {shlex.quote(f'{key}={value}')}" for key, value in driver.items())
    container.parts = {
        key: text for key, text in container.parts.items() if not key.startswith(("volume-driver ", "driver "))
    }
    result.add_note(
        f"{container.where}: --opt is an option of docker volume create, not of docker run; remove --volume-driver"
        f" and --opt, and first create the volume: docker volume create --driver local {options} {name}"
    )
    return {name: driver}


def published(text: str) -> Iterator[tuple[int, int]]:
    """Yield the container port and the host port in a value of `-p`. Yield nothing for port ranges and UDP."""
    ports = re.fullmatch(r"(?:.*:)?(\d{1,5}):(\d{1,5})(?:/tcp)?", text)
    if ports:
        yield int(ports[2]), int(ports[1])


def _volume(words: list[str], where: str, result: ImportResult) -> Volumes:
    options: dict[str, str] = {}
    name, rest = "", list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if key in ("--opt", "-o", "--driver", "-d", "--name", "--label", "--label-add"):
            if not equals and not rest:
                raise UsageError(f"{where}: {word} needs a value")
            value = value if equals else rest.pop(0)
            if key in ("--opt", "-o"):
                option, _, setting = value.partition("=")
                options[option] = setting
            elif key == "--name":
                name = value
            elif value != "local":
                result.add_note(f"{where}: {key} {value}: not imported")
        elif word.startswith("-"):
            result.add_note(f"{where}: {word}: not imported")
        else:
            name = word
    return {name or "volume": options}
