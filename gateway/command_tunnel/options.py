"""Defines the configuration keys of tunnels of kind `command`, which use an external program."""

from dataclasses import dataclass, field
from typing import Literal

from gateway.contracts.config_types import POSITIVE, SENSITIVE, Duration
from gateway.processes.child_environment import check_environment
from gateway.processes.command_template import check_command

_PLACEHOLDERS = {"port": ("host", "port", "local_port"), "stdio": ("host", "port")}
"""The placeholders of `command` in each mode."""


@dataclass(frozen=True)
class CommandTunnelOptions:
    """The configuration keys of a tunnel of kind `command`, which runs a program to connect to targets.

    Args:
        command: The program and its arguments. The program runs without a shell. `{host}` and `{port}` are replaced
            by the host and port of the target, `{local_port}` by a free port on this host.
        mode: `port`: the program listens on port `{local_port}` of a loopback address; one process for each target.
            `stdio`: the standard input and output of the program are the connection; one process for each connection.
        environment: Names of environment variables to pass to the program, in addition to PATH, HOME, USER, LOGNAME,
            TZ and the locale.
        login_exit_codes: Exit codes with which the program reports that its login failed. The tunnel is then
            quarantined.
        start_timeout: Time limit for the program to start listening (with `mode: port`), and for opening a connection
            to a target. The search for the program's executable may take at most half of this time.
        suspect: Time without progress after which new clients use another process (with `mode: port`). A program
            makes progress if it reads data, sends data or accepts a connection. The time counts only while a
            connection waits to be accepted, or while all accepted connections have unread data.
        lost: Time without progress, measured as for `suspect`, after which the gateway kills the process and resets
            the connections of its clients. With `mode: port`, the gateway does not kill a process that still accepts
            new connections.
    """

    command: tuple[str, ...] = field(metadata=SENSITIVE)
    mode: Literal["port", "stdio"]
    environment: tuple[str, ...] = ()
    login_exit_codes: tuple[int, ...] = ()
    start_timeout: Duration = field(default=Duration(30.0), metadata=POSITIVE)
    suspect: Duration = field(default=Duration(6.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        has_port = any("{local_port}" in word for word in self.command)
        if self.mode == "stdio" and has_port:
            raise ValueError(
                "command: {local_port} is allowed only with `mode: port`: remove {local_port}, or set `mode: port`"
            )
        check_command("command", self.command, _PLACEHOLDERS[self.mode])
        check_environment("environment", self.environment)
        if self.mode == "port" and not has_port:
            raise ValueError(
                "command: lacks {local_port}, the port on which the program must listen (mode: port): add it"
            )
        if self.suspect > self.lost:
            raise ValueError("suspect: must not be longer than `lost`: decrease `suspect`, or increase `lost`")
