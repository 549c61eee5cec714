"""Looks up the program of a tunnel, and converts failures to `TunnelError`."""

from collections.abc import Sequence

from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.processes.child_process import starting
from gateway.processes.executable_search import ExecutableSearchTimeoutError, look_up_program
from gateway.processes.permission_checked_program import PermissionCheckedProgram


async def look_up_tunnel_program(
    option: str,
    command: Sequence[str],
    timeout: float,  # noqa: ASYNC109
    limit: str,
) -> PermissionCheckedProgram:
    """Call `look_up_program`, and convert its errors to `TunnelError`.

    Args:
        option: The configuration key of the command, for error messages.
        command: The program and its arguments.
        timeout: Time limit in seconds.
        limit: The configuration key that sets the time limit, for error messages.

    Raises:
        TunnelError: The program cannot be used. The error is fatal, except in two cases: the file system did not
            respond within the time limit, or the lookup raised `OSError`.
    """
    try:
        with starting(command):
            return await look_up_program(command, timeout)
    except ExecutableSearchTimeoutError as error:
        raise TunnelError(FailureReason.TIMEOUT, f"{option}: {error} ({limit})") from error
    except TunnelError:
        raise
    except GatewayError as error:
        raise TunnelError(FailureReason.PROTOCOL, f"{option}: {error}", fatal=True) from error
