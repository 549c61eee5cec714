"""Defines the command `gateway`, and imports the module of a subcommand only when this subcommand is used."""

import contextlib
import difflib
import errno
import importlib
import sys
from typing import Any

import click

from gateway import __version__
from gateway._dataplane import description
from gateway.cli.terminal_output import print_text
from gateway.errors import ConfigError, GatewayError, ServiceUnreachableError, UsageError

FAILED, USAGE, UNREACHABLE = 1, 2, 3
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMANDS = {
    "run": ("run",),
    "validate_and_check_commands": ("validate", "check"),
    "plan_and_apply_commands": ("plan", "apply"),
    "audit": ("audit",),
    "status": ("status",),
    "explain_backend_or_container": ("explain",),
    "fleet": ("fleet",),
    "wait": ("wait",),
    "healthcheck": ("healthcheck",),
    "service_control_commands": ("reload", "drain", "undrain", "shutdown", "pause", "resume", "reconnect", "fail"),
    "top": ("top",),
    "importing": ("import",),
    "init": ("init",),
    "render_command": ("render",),
    "demo": ("demo",),
    "completion": ("completion",),
}
"""The modules of this package that define commands, and the names of these commands."""


class _LazyGroup(click.Group):
    """A Click group that imports the module of a command at its first use, and adds remedies to usage errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(name for names in _COMMANDS.values() for name in names)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
        if close and close[0] != args[0] and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.MissingParameter as error:
            is_name = error.param is not None and error.param.name == "name"
            remedy = f"Add {'a name that `gateway status` shows' if is_name else 'it, as the usage shows'}."
            raise click.MissingParameter(remedy, error.ctx, error.param) from error
        except click.BadOptionUsage as error:
            message = f"{error.message.rstrip('.')}: write it after the option."
            raise click.BadOptionUsage(error.option_name, message, error.ctx) from error
        except click.BadParameter as error:
            if error.param is None or not isinstance(error.param.type, click.Path):
                raise
            message = f"{error.message.rstrip('.')}: check the path and its permissions."
            raise click.BadParameter(message, error.ctx, error.param) from error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = next((module for module, names in _COMMANDS.items() if cmd_name in names), None)
        if module is None:
            return None
        members = vars(importlib.import_module(f"{__name__}.{module}")).values()
        return next(each for each in members if isinstance(each, click.Command) and each.name == cmd_name)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        print_text(f"gateway, version {__version__}\n{description()}", keep_lines=True)
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Connect containers to databases and file shares in other networks."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. After an error, print a message.

    The exit code is 2 for incorrect usage or configuration, 3 if the service does not respond, and 1 for all other
    errors.

    Args:
        arguments: The command-line arguments; None for `sys.argv[1:]`.
    """
    try:
        cli.main(arguments, prog_name="gateway")
    except ConfigError as error:
        print_text(error, err=True, keep_lines=True)
        sys.exit(USAGE)
    except UsageError as error:
        print_text(f"gateway: {error}", err=True, keep_lines=True)
        sys.exit(USAGE)
    except ServiceUnreachableError as error:
        print_text(f"gateway: {error}", err=True, keep_lines=True)
        sys.exit(UNREACHABLE)
    except GatewayError as error:
        print_text(f"gateway: {error}", err=True, keep_lines=True)
        sys.exit(FAILED)
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        # Discard the rest of the output. Otherwise, Python would try to write the rest at exit, and fail again.
        sys.stdout = None
        with contextlib.suppress(OSError):
            print_text(f"gateway: cannot write the output: {error.strerror}: free disk space", err=True)
        sys.exit(FAILED)
