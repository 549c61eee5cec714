"""Imports the docker, ssh and mount commands in shell scripts, command lines and systemd units."""

import re
from itertools import takewhile

from gateway.importing.compose_interpolation import interpolated
from gateway.importing.compose_value_parsers import words_of
from gateway.importing.docker_command_parser import Volumes, import_docker
from gateway.importing.env_file import EnvFileReader
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer, SshCommandContext
from gateway.importing.network_mounts import import_mount_command
from gateway.importing.shell_parser import ShellCommand, read_script
from gateway.importing.ssh_command import has_forward, import_command, schedule_length, ssh_program
from gateway.secret_redaction import redacted

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_SHELLS = frozenset({
    "sh", "bash", "dash", "ash", "zsh", "su", "sudo", "runuser", "flock", "screen", "tmux", "nohup", "setsid",
})  # fmt: skip
"""Programs that can run a command line from one of their arguments, as in `sh -c 'ssh …'`."""


def import_unit(text: str, source: str, read_env_file: EnvFileReader, result: ImportResult) -> Volumes:
    """Import the docker, ssh and mount commands in a systemd unit (systemd.service(5)).

    Args:
        text: The content of the unit.
        source: The prefix of notes about the unit, such as `app.service: `; can be empty.
        read_env_file: A function that reads an env file of a container or of the unit.
        result: The imported configuration, to which the function adds the tunnels, forwards, containers and notes
            from the commands.

    Returns:
        The driver options of each volume that the commands create, by volume name.

    Raises:
        UsageError: A command is not valid.
    """
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines()]
    starts = [line.partition("=")[2].lstrip("-@:+!") for line in lines if line.startswith("ExecStart=")]
    variables = _unit_variables(lines, read_env_file)
    starts = [interpolated(each, lambda name: variables.get(name, "")) for each in starts]
    others = [_unit_line(line) for line in lines if line and not line.startswith(("ExecStart=", "#", ";", "["))]
    result.add_note(f"{source}not imported, because the gateway has its own unit: {'; '.join(others)}")
    return import_script("\n".join(starts), source, read_env_file, result)


def _unit_variables(lines: list[str], read_env_file: EnvFileReader) -> dict[str, str]:
    """Return the variables of a unit. `EnvironmentFile=` overrides `Environment=` (systemd.exec(5))."""
    own: dict[str, str] = {}
    from_files: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        if key == "Environment":
            own |= {name: text for name, _, text in (word.partition("=") for word in words_of(value, key))}
        elif key == "EnvironmentFile":
            from_files |= read_env_file(value.removeprefix("-")) or {}
    return own | from_files


def _unit_line(line: str) -> str:
    """Format a line of a systemd unit for a note. Omit the values of variables, because they can be secrets."""
    key, _, value = line.partition("=")
    names = re.findall(r"""(?:^|[\s"'])([A-Za-z_]\w*)=""", value)
    return f"Environment {', '.join(names)}" if key == "Environment" else line


def import_script(
    text: str, source: str, read_env_file: EnvFileReader, result: ImportResult, form: str = ""
) -> Volumes:
    """Import the docker, ssh and mount commands in a script or a command line. Add notes on other commands.

    Args:
        text: The script or command line.
        source: The prefix of notes about the script, such as `backup.sh: `; can be empty.
        read_env_file: A function that reads an env file of a container.
        result: The imported configuration, to which the function adds the tunnels, forwards, containers and notes
            from the commands.
        form: `ssh` if an ssh command without a local forward is an error. Empty if such a command only causes a note.

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
                container.parts |= _schedule(words)
                for name in _pass_variables(container, docker, result):
                    unused.pop(name, None)
        elif words[start : start + 1] == ["mount"]:
            import_mount_command(words[start + 1 :], f"{source}`{redacted(words)}`", result)
        elif ssh_program(words) is not None:
            destination = next((word for word in words if re.fullmatch(r"[\w.-]+@[\w.${}-]+", word)), "")
            import_command(
                words,
                SshCommandContext(f"{source}ssh {destination}".rstrip()),
                result,
                need_forward=form == "ssh",
            )
        elif line := _command_line(words):
            rest = redacted([word for word in words if word != line])
            result.add_note(f"{source}not needed with the gateway: {rest}")
            volumes |= import_script(line, source, read_env_file, result, form)
        else:
            _note_other(words, source, result)
    if unused:
        result.add_note(f"{source}variables that no command uses: {', '.join(unused)}")
    return volumes


def _schedule(words: list[str]) -> dict[str, str]:
    """Return the schedule of a crontab(5) line as an entry of `ImportedContainer.parts`; empty if there is none."""
    schedule = " ".join(words[: schedule_length(words)])
    return {"schedule": f"schedule {schedule}"} if schedule else {}


def _note_other(words: list[str], source: str, result: ImportResult) -> None:
    if words != ["done"]:
        # Omit the arguments of echo and printf, because they can be secrets, as in `echo SECRET | …`.
        printed = words[0] in ("echo", "printf")
        result.add_note(f"{source}`{f'{words[0]} …' if printed else redacted(words)}`: not imported")


def _command_line(words: list[str]) -> str:
    """Return the command line that a shell, or a program such as tmux, runs from one of its arguments.

    Return an empty string if no argument contains an ssh command with a forward.
    """
    start = schedule_length(words)
    if not any(word.rpartition("/")[2] in _SHELLS for word in words[start : start + 2]):
        return ""
    for word in words[1:]:
        if re.search(r"ssh\s", word) and any(
            ssh_program(each.words) is not None and has_forward(each.words) for each in read_script(word).commands
        ):
            return word
    return ""


def _docker_command(words: list[str], command: ShellCommand) -> ShellCommand | None:
    """Return a docker or podman command without its prefix. Return None for any other command.

    The prefix can be a crontab(5) schedule, `sudo`, and assignments. The result contains the assigned variables.
    """
    rest = words[schedule_length(words) :]
    rest = rest[1:] if rest[:1] == ["sudo"] else rest
    own = [word.partition("=") for word in takewhile(_ASSIGNMENT.match, rest)]
    rest = rest[len(own) :]
    if rest[:1] not in (["docker"], ["podman"]):
        return None
    variables = {name: value for name, _, value in own}
    return ShellCommand(rest, command.variables | variables, command.exported | variables.keys())


def _pass_variables(container: ImportedContainer, command: ShellCommand, result: ImportResult) -> list[str]:
    """Set the variables of options `-e NAME` to the values from the script. Return the names of these variables.

    Add a note for each of these variables that the script does not export.
    """
    names = [name for name, value in container.environment.items() if value == f"${{{name}}}"]
    names = [name for name in names if name in command.variables]
    for name in names:
        container.environment[name] = command.variables[name]
        if name not in command.exported:
            result.add_note(
                f"{container.where}: the script does not export {name}, so `-e {name}` passes no value; add `export`"
            )
    return names
