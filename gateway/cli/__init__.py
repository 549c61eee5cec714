"""The commands. Each is imported when it is called, and everything heavy inside it, so that all answer at once."""

import importlib
import sys

import click

from gateway import __version__
from gateway.cli.table import say
from gateway.errors import ConfigError, GatewayError, ServiceUnreachableError, UsageError

FAILED, USAGE, UNREACHABLE = 1, 2, 3
_COMMANDS = {
    "run": ("run", "validate", "check"),
    "docker": ("plan", "apply"),
    "audit": ("audit",),
    "service": ("status", "explain", "wait", "healthcheck"),
    "admin": ("reload", "drain", "undrain", "shutdown", "pause", "resume", "reconnect", "fail"),
    "top": ("top",),
    "importing": ("import",),
    "render": ("render",),
    "demo": ("demo",),
    "completion": ("completion",),
}
"""By module."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(name for names in _COMMANDS.values() for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = next((module for module, names in _COMMANDS.items() if cmd_name in names), None)
        if module is None:
            return None
        members = vars(importlib.import_module(f"{__name__}.{module}")).values()
        return next(one for one in members if isinstance(one, click.Command) and one.name == cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gateway")
def cli() -> None:
    """Keeps tunnels to remote databases and storage up, checked and measured, for a fleet of containers."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every error becomes one readable message and an exit code."""
    try:
        cli.main(arguments, prog_name="gateway")
    except ConfigError as error:
        say(error, err=True)
        sys.exit(USAGE)
    except UsageError as error:
        say(f"gateway: {error}", err=True)
        sys.exit(USAGE)
    except ServiceUnreachableError as error:
        say(f"gateway: {error}", err=True)
        sys.exit(UNREACHABLE)
    except GatewayError as error:
        say(f"gateway: {error}", err=True)
        sys.exit(FAILED)
