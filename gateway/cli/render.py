"""`gateway render`: what to paste on the other side."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.sources import source_options, sources
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.config import Config


@click.group()
def render() -> None:
    """Print what to paste on the other side."""


@render.command("authorized-keys")
@source_options
def authorized_keys(
    file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], **settings: str | None
) -> None:
    """Print each SSH tunnel's line for authorized_keys, which permits its targets and nothing else."""
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.ssh.options import SshOptions  # noqa: PLC0415 - slow to import
    from gateway.ssh.public import public_keys  # noqa: PLC0415 - slow to import

    config = load(sources(file, tunnels, backends, settings))
    found = False
    for name, spec in config.tunnels.items():
        if not isinstance(spec.options, SshOptions):
            continue
        found = True
        permits = ",".join(f'permitopen="{target}"' for target in _targets(config, name))
        click.echo(f"# tunnel {name}: into ~{spec.options.user}/.ssh/authorized_keys on {spec.options.host}")
        click.echo("# (sshd must allow it: AllowTcpForwarding local)")
        if not permits:
            click.echo(f"# nothing goes through {name} yet: add a backend with via: {name}")
            continue
        for key in public_keys(spec.options):
            click.echo(f"restrict,port-forwarding,{permits} {key}")
    if not found:
        raise GatewayError("no SSH tunnel is configured")


def _targets(config: "Config", tunnel: str) -> list[str]:
    """What is dialled on the far side of a tunnel: targets, and the tunnels that go through it."""
    dialled = [
        str(target) for backend in config.backends.values() if backend.via == tunnel for target in backend.targets
    ]
    inner = [f"{spec.options.host}:{spec.options.port}" for spec in config.tunnels.values() if spec.via == tunnel]
    return list(dict.fromkeys([*inner, *dialled]))
