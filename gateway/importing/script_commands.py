"""Imports the docker, ssh and mount commands in shell scripts, command lines and systemd units."""

import re

from gateway.backends import file_system_of_device
from gateway.importing.docker_command_parser import Volumes, import_docker
from gateway.importing.env_file import EnvFileReader
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer, SshCommandContext
from gateway.importing.network_mounts import import_mount, import_mount_command
from gateway.importing.shell_parser import ShellCommand, read_script
from gateway.importing.ssh_command import has_forward, import_command, program_index, schedule_length, ssh_program
from gateway.importing.systemd_unit import MountUnit, SystemdUnit
from gateway.secret_redaction import redacted

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_ENGINES = ("docker", "podman")
_SHELLS = frozenset({
    "sh", "bash", "dash", "ash", "zsh", "su", "sudo", "runuser", "flock", "screen", "tmux", "nohup", "setsid",
})  # fmt: skip
"""Programs that can run a command line from one of their arguments, as in `sh -c 'ssh …'`."""


def import_unit(text: str, name: str, source: str, read_env_file: EnvFileReader, result: ImportResult) -> Volumes:
    """Import the docker, ssh and mount commands in a systemd unit (systemd.service(5)), or what a mount unit mounts.

    Args:
        text: The content of the unit.
        name: The name of the unit's file; empty if it is not known.
        source: The prefix of notes about the unit, such as `app.service: `; can be empty.
        read_env_file: A function that reads an env file of a container or of the unit.
        result: The imported configuration, to which the function adds the tunnels, forwards, containers and notes
            from the commands.

    Returns:
        The driver options of each volume that the commands create, by volume name.

    Raises:
        UsageError: A command is not valid.
    """
    # The name of a drop-in file says nothing about the unit, but the name of its directory does.
    folder, _, file = name.rpartition("/")
    unit = SystemdUnit(text, folder.rpartition("/")[2].removesuffix(".d") if folder.endswith(".d") else file)
    commands = unit.commands(read_env_file)
    for mount in unit.mounts():
        _import_mount_unit(mount, f"{source}{mount.folder}", result)
    if others := "; ".join(unit.other_settings()):
        reason = ", because the gateway has its own unit" if unit.has_commands else ""
        result.add_note(f"{source}not imported{reason}: {others}")
    if unit.unknown:
        result.add_note(
            f"{source}systemd replaces {', '.join(unit.unknown)} in the unit, but the import does not"
            " know the values: write them in the result"
        )
    return import_script("\n".join(commands), source, read_env_file, result)


def _import_mount_unit(mount: MountUnit, where: str, result: ImportResult) -> None:
    kind = mount.file_system or file_system_of_device(mount.device)
    import_mount(mount.device, mount.folder, kind, mount.options, where, result)
    if any(client.where == where for client in result.clients):
        result.add_note(
            f"{where}: this mount unit would override the new line of /etc/fstab: delete the file of the unit, and"
            " run systemctl daemon-reload; for an automount unit, add noauto,x-systemd.automount to the new line"
        )


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
        mount, ssh = program_index(words, ("mount",)), ssh_program(words)
        if docker is not None:
            unused |= dict.fromkeys(name for name in docker.variables if name not in command.variables)
            first = len(result.containers)
            volumes |= import_docker(docker.words, source, read_env_file, result)
            for container in result.containers[first:]:
                container.parts |= _schedule(words)
                for name in _pass_variables(container, docker, result):
                    unused.pop(name, None)
        elif mount is not None:
            import_mount_command(words[mount + 1 :], f"{source}`{redacted(words)}`", result)
        elif ssh is not None:
            # Skip the words before ssh: a password of sshpass can look like `user@host`.
            destination = next((word for word in words[ssh:] if re.fullmatch(r"[\w.-]+@[\w.${}-]+", word)), "")
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
    if words and words != ["done"]:
        # Omit the arguments of echo, printf and send (expect), because they can be secrets, as in `echo SECRET | …`.
        printed = words[0] in ("echo", "printf", "send")
        result.add_note(f"{source}`{f'{words[0]} …' if printed else redacted(words)}`: not imported")


def _command_line(words: list[str]) -> str:
    """Return the command line that a shell, or a program such as tmux, runs from one of its arguments.

    Return an empty string if no argument contains an ssh command with a forward, or a docker or mount command.
    """
    start = schedule_length(words)
    if not any(word.rpartition("/")[2] in _SHELLS for word in words[start : start + 2]):
        return ""
    for word in words[1:]:
        if re.search(r"(?:ssh|docker|podman|mount)\s", word) and any(
            map(_is_imported, (each.words for each in read_script(word).commands))
        ):
            return word
    return ""


def _is_imported(words: list[str]) -> bool:
    if ssh_program(words) is not None:
        return has_forward(words)
    return program_index(words, (*_ENGINES, "mount")) is not None


def _docker_command(words: list[str], command: ShellCommand) -> ShellCommand | None:
    """Return a docker or podman command without its prefix. Return None for any other command.

    The prefix can contain a crontab(5) schedule, a program such as `sudo`, and assignments of variables. In the
    result, the first word is `docker` or `podman` without a directory, and the variables include the assigned ones.
    """
    start = program_index(words, _ENGINES)
    if start is None:
        return None
    prefix = words[schedule_length(words) : start]
    variables = {
        name: value for name, _, value in (word.partition("=") for word in prefix if _ASSIGNMENT.match(word))
    }
    rest = [words[start].rpartition("/")[2], *words[start + 1 :]]
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
