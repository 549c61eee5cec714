"""The commands. Everything heavy is imported inside them, so that `gateway --help` answers at once."""

import sys

import click

from gateway import __version__
from gateway.cli.completion import completion
from gateway.cli.demo import demo
from gateway.cli.docker import apply, audit, plan
from gateway.cli.importing import import_
from gateway.cli.render import render
from gateway.cli.run import check, run, validate
from gateway.cli.service import drain, explain, fail, healthcheck, reload, shutdown, status, undrain, wait
from gateway.cli.top import top
from gateway.errors import ConfigError, GatewayError, ServiceUnreachableError, UsageError

FAILED, USAGE, UNREACHABLE = 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gateway")
def cli() -> None:
    """Keeps tunnels to remote databases and storage up, checked and measured, for a fleet of containers."""


for _command in (
    run, validate, check, plan, apply, audit, status, top, explain, wait, healthcheck,
    reload, drain, undrain, shutdown, fail, import_, render, demo, completion,
):  # fmt: skip
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every error becomes one readable message and an exit code."""
    try:
        cli.main(arguments, prog_name="gateway")
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(USAGE)
    except UsageError as error:
        click.echo(f"gateway: {error}", err=True)
        sys.exit(USAGE)
    except ServiceUnreachableError as error:
        click.echo(f"gateway: {error}", err=True)
        sys.exit(UNREACHABLE)
    except GatewayError as error:
        click.echo(f"gateway: {error}", err=True)
        sys.exit(FAILED)
