"""Creates `UnavailableContainer` objects, with the command that starts or recreates the container. Does no I/O."""

import shlex

from gateway.docker.compose_command_line import compose_command
from gateway.docker.grants import SERVICE
from gateway.docker.snapshot import Container
from gateway.docker.start_failure import StartFailureCause
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer
from gateway.text_sanitizer import one_line

_MAX_COMMAND = 4000
"""The maximum length of a command in the status, in characters."""


def unavailable_container(
    container: Container,
    cause: StartFailureCause,
    detail: str,
    state: RevivalStatus,
    message: str = "",
    command: str = "",
) -> UnavailableContainer:
    """Create an `UnavailableContainer` for a container. `UnavailableContainer` describes the arguments."""
    return UnavailableContainer(container.name, container.id, cause, detail, state, message, command)


def safe_command(command: str) -> str:
    """Return `command`; an empty string if `command` is too long to show, or if it contains control characters."""
    return command if one_line(command, _MAX_COMMAND) == command else ""


def unavailable_container_to_recreate(
    container: Container, cause: StartFailureCause, detail: str
) -> UnavailableContainer:
    """Create the `UnavailableContainer` for a container that cannot start until it is recreated.

    If Compose created the container, the result includes the command that recreates it.
    """
    message = f"another start would fail, too: recreate container {container.name}"
    compose, command = compose_command(container.labels), ""
    if compose:
        command = shlex.join((*compose, "up", "-d", "--no-deps", "--force-recreate", container.labels[SERVICE]))
    if not safe_command(command):
        message += f" with the options that `docker inspect {container.name}` shows"
        return unavailable_container(container, cause, detail, RevivalStatus.RECREATE, message)
    return unavailable_container(container, cause, detail, RevivalStatus.RECREATE, message, command)
