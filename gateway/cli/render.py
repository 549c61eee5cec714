"""`gateway render`: what to paste on the other side."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.sources import source_options, sources
from gateway.errors import GatewayError, UsageError

if TYPE_CHECKING:
    from gateway.config import Config


@click.group()
def render() -> None:
    """Print what to paste on the other side."""


@render.command("authorized-keys")
@source_options
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="PATTERN",
    help="An address, network or pattern from which the key may log in, as in 192.0.2.0/24; may be repeated.",
)
def authorized_keys(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    origins: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Print each SSH tunnel's line for authorized_keys, which permits its targets, and what belongs into sshd_config.

    For OpenSSH 7.8 and later. Without the lines in sshd_config, the key opens listeners on unix sockets.
    """
    from gateway.config import load  # noqa: PLC0415 - slow to import

    config = load(sources(file, tunnels, backends, settings))
    lines: list[str] = []  # printed when all are known
    for name, spec in config.tunnels.items():
        if spec.kind.render_authorized_keys is not None:
            unix_sockets = config.docker is not None and config.docker.host.startswith(f"ssh://{name}/")
            lines += spec.kind.render_authorized_keys(
                name, spec.options, _targets(config, name), origins, unix_sockets=unix_sockets
            )
    if not lines:
        raise GatewayError("no SSH tunnel is configured")
    click.echo("\n".join(lines))


@render.command()
@source_options
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="CLIENT",
    help="An address, network or name from which the server sees its client; may be repeated.",
)
def exports(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    origins: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Print the line for /etc/exports on each NFS server, which permits only the gateway's bastion.

    Behind an SSH tunnel, the server's client is the SSH server. Otherwise, name the client with --from.
    """
    from gateway.app.exports import exports as lines  # noqa: PLC0415 - slow to import
    from gateway.config import load  # noqa: PLC0415 - slow to import

    click.echo("\n".join(lines(load(sources(file, tunnels, backends, settings)), origins)))


_HOST = click.option(
    "--host", metavar="ADDRESS", help="Where containers reach the gateway; absent: by backend names."
)


def _rendered(name: str, text: str, make: "Callable[[Any, Config, str | None], str]") -> None:
    @render.command(name, help=text)
    @source_options
    @_HOST
    def command(
        file: Path | None,
        tunnels: tuple[str, ...],
        backends: tuple[str, ...],
        host: str | None,
        **settings: str | None,
    ) -> None:
        from gateway.app import rendering  # noqa: PLC0415 - slow to import
        from gateway.app.ports import with_ports  # noqa: PLC0415 - slow to import
        from gateway.config import load  # noqa: PLC0415 - slow to import

        config = with_ports(load(sources(file, tunnels, backends, settings)))
        for hint in rendering.hints(config) if host is None else ():
            click.secho(f"# {hint}", err=True, fg="yellow")
        click.echo(make(rendering, config, host).rstrip())


_rendered(
    "env",
    "Print the environment variables of an app: where each backend is.",
    lambda rendering, config, host: "\n".join(rendering.env(config, host)),
)
_rendered(
    "compose",
    "Print the parts of a compose file: environment, labels and mounts of an app, and the volumes.",
    lambda rendering, config, host: rendering.compose(config, host),
)
_rendered(
    "docker-run",
    "Print the commands that make the volumes and start an app.",
    lambda rendering, config, host: "\n".join(rendering.docker_run(config, host)),
)


@render.command()
@source_options
@click.option("--image", metavar="IMAGE", default="gateway", show_default=True, help="Of the container.")
@click.option("--name", metavar="NAME", default="gateway", show_default=True, help="Of the objects.")
@click.option("--podman", is_flag=True, help="For `podman kube play`: docs/platforms.md.")
def kubernetes(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    image: str,
    name: str,
    podman: bool,
    **settings: str | None,
) -> None:
    """Print manifests of the gateway, with a Service for each backend, or a volume and a claim for each volume.

    Secrets are expected in a Secret of the same name, mounted at /run/secrets. The Helm chart does more.
    """
    import yaml  # noqa: PLC0415 - slow to import

    from gateway.app import manifests, rendering  # noqa: PLC0415 - slow to import
    from gateway.config import Sources, load  # noqa: PLC0415 - slow to import

    if file is None:
        raise UsageError("kubernetes needs a file (-c), which becomes the ConfigMap")
    if tunnels or backends or any(settings.values()):
        raise UsageError("only the file becomes the ConfigMap: put everything into it")
    config = load(Sources(file=file, environment={}))  # the pod has not our environment
    for each, spec in config.backends.items():
        if spec.kind.volume_options(spec.options) is not None and not spec.listen:
            raise UsageError(
                f"backends.{each}.listen: a pod keeps no port by itself: give one, such as 127.0.0.1:20490"
            )
    hint = f"kubectl create secret generic {name} --from-file=DIRECTORY, with the files that the configuration names"
    if podman:
        hint = f"for the files that the configuration names, play a Secret {name} with them first"
    click.secho(f"# {hint}", err=True, fg="yellow")
    documents = manifests.workload(config, file.read_text(), name, image, podman=podman)
    # Before anything is printed, since it may refuse. Podman has its own volumes.
    volumes = "" if podman else rendering.kubernetes(config).rstrip()
    click.echo(yaml.safe_dump_all(documents, sort_keys=False).rstrip())
    if volumes:
        click.echo(f"---\n{volumes}")


def _targets(config: "Config", tunnel: str) -> list[str]:
    """What is dialled on the far side of a tunnel: targets, and the tunnels that go through it."""
    dialled = [
        str(target) for backend in config.backends.values() if backend.via == tunnel for target in backend.targets
    ]
    inner = [
        str(server)
        for spec in config.tunnels.values()
        if spec.via == tunnel
        for server in spec.kind.servers(spec.options)
    ]
    engine = [config.docker.host.removeprefix("tcp://")] if config.docker and config.docker.via == tunnel else []
    return list(dict.fromkeys([*inner, *dialled, *engine]))
