"""Builds a `docker compose` command from the labels that Compose set on an existing container. Does no I/O."""

from collections.abc import Iterable, Mapping

from gateway.docker.grants import PROJECT, SERVICE

FILES = "com.docker.compose.project.config_files"
FOLDER = "com.docker.compose.project.working_dir"
ENVIRONMENT = "com.docker.compose.project.environment_file"
COMPOSE_LABELS = (PROJECT, SERVICE, FILES, FOLDER, ENVIRONMENT)
"""The labels whose values become part of the `docker compose` command. The values are untrusted: the
container's creator sets them."""


def compose_command(
    labels: Mapping[str, str], *, cli: str = "docker", overrides: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return a `docker compose` command for a container's project, without a subcommand.

    The command contains the project directory and the environment files. Without these options, Compose would resolve
    relative paths and variables differently, and create a different container. The words are not quoted for a shell.

    Args:
        labels: The labels of a container.
        cli: The engine's command line client.
        overrides: Paths of Compose files to merge after the project's own files.

    Returns:
        The words of the command; empty if Compose did not create the container, or if Compose read a project file
        from standard input.
    """
    files = _paths(labels, FILES)
    if PROJECT not in labels or SERVICE not in labels or not files or "-" in files:
        return ()
    words = [cli, "compose", "-p", labels[PROJECT]]
    if folder := labels.get(FOLDER):
        words += ["--project-directory", folder]
    for each in _paths(labels, ENVIRONMENT):
        words += ["--env-file", each]
    for each in (*files, *overrides):
        words += ["-f", each]
    return tuple(words)


def _paths(labels: Mapping[str, str], label: str) -> list[str]:
    return [each for each in labels.get(label, "").split(",") if each]
