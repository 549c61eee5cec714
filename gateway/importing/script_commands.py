"""Imports the docker, ssh and mount commands in shell scripts, command lines and systemd units."""

import re
from itertools import takewhile

from gateway.importing.docker_run import Volumes, import_docker
from gateway.importing.env_file import EnvFileReader
from gateway.importing.import_result import ImportResult
from gateway.importing.model import ImportedContainer, SshCommandContext
from gateway.importing.shell_parser import ShellCommand, read_script
from gateway.importing.ssh_command import import_command, ssh_program
from gateway.importing.volumes import import_mount_command
from gateway.secret_redaction import redacted

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def import_unit(text: str, source: str, read_env_file: EnvFileReader, result: ImportResult) -> Volumes:
    """Convert the commands in a systemd unit (systemd.service(5)).

    Args:
        text: The content of the unit.
        source: The prefix that names the unit in notes.
        read_env_file: Reads an env file of a container.
        result: Receives the tunnels, forwards, containers and notes from the commands.

    Returns:
        The driver options of each volume that the commands create, by volume name.

    Raises:
        UsageError: A command is not valid.
    """
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines()]
    starts = [line.partition("=")[2].lstrip("-@:+!") for line in lines if line.startswith("ExecStart=")]
    others = [_unit_line(line) for line in lines if line and not line.startswith(("ExecStart=", "#", ";", "["))]
    result.add_note(f"{source}not imported, because the gateway has its own unit: {'; '.join(others)}")
    return import_script("\n".join(starts), source, read_env_file, result)


def _unit_line(line: str) -> str:
    """Return a line of a unit for a note, without the values of variables, which can be secrets."""
    key, _, value = line.partition("=")
    names = re.findall(r"""(?:^|[\s"'])([A-Za-z_]\w*)=""", value)
    return f"Environment {', '.join(names)}" if key == "Environment" else line


def import_script(
    text: str, source: str, read_env_file: EnvFileReader, result: ImportResult, form: str = ""
) -> Volumes:
    """Convert the commands in a script or a command line.

    Args:
        text: The script or command line.
        source: The prefix that names the script in notes.
        read_env_file: Reads an env file of a container.
        result: Receives the tunnels, forwards, containers and notes from the commands.
        form: `ssh` if each ssh command must have a local forward.

    Returns:
        The driver options of each volume that the commands create, by volume name.

    Raises:
        UsageError: A command is not valid.
    """
    script = read_script(text)
    for note in script.notes:
        result.add_note(f"{source}{note}")
    unused = dict.fromkeys(script.variables)
    volumes: Volumes = {}
    for command in script.commands:
        words = [word for word in command.words if word]
        docker = _docker_command(words, command)
        start = 1 if words[:1] == ["sudo"] else 0
        if docker is not None:
            unused |= dict.fromkeys(name for name in docker.variables if name not in command.variables)
            first = len(result.containers)
            volumes |= import_docker(docker.words, source, read_env_file, result)
            for container in result.containers[first:]:
                for name in _pass_variables(container, docker, result):
                    unused.pop(name, None)
        elif words[start : start + 1] == ["mount"]:
            import_mount_command(words[start + 1 :], f"{source}`{redacted(words)}`", result)
        elif ssh_program(words) is not None:
            destination = next((word for word in words if re.fullmatch(r"[\w.-]+@[\w.${}-]+", word)), "")
            import_command(
                words, SshCommandContext(f"{source}ssh {destination}".rstrip()), result, need_forward=form == "ssh"
            )
        elif words != ["done"]:
            printed = words[0] in ("echo", "printf")  # its words can be a secret for the next command of a pipe
            result.add_note(f"{source}`{f'{words[0]} …' if printed else redacted(words)}`: not imported")
    if unused:
        result.add_note(f"{source}variables that no command uses: {', '.join(unused)}")
    return volumes


def _docker_command(words: list[str], command: ShellCommand) -> ShellCommand | None:
    """Return a docker command without `sudo` and without the variables before it; None for another command."""
    rest = words[1:] if words[:1] == ["sudo"] else words
    own = [word.partition("=") for word in takewhile(_ASSIGNMENT.match, rest)]
    rest = rest[len(own) :]
    if rest[:1] not in (["docker"], ["podman"]):
        return None
    variables = {name: value for name, _, value in own}
    return ShellCommand(rest, command.variables | variables, command.exported | variables.keys())


def _pass_variables(container: ImportedContainer, command: ShellCommand, result: ImportResult) -> list[str]:
    """Set the variables that a container inherits from the script (`-e NAME`). Return their names."""
    names = [name for name, value in container.environment.items() if value == f"${{{name}}}"]
    names = [name for name in names if name in command.variables]
    for name in names:
        container.environment[name] = command.variables[name]
        if name not in command.exported:
            result.add_note(
                f"{container.where}: the script does not export {name}, so `-e {name}` passes no value; add `export`"
            )
    return names
