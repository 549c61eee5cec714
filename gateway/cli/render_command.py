"""`gateway render`: prints configuration for other programs, such as OpenSSH, Compose and Kubernetes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config_selection_options import config_options, config_sources
from gateway.config_rendering import application_container_settings
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.config import Config


@click.group()
def render() -> None:
    """Print configuration for servers, applications and clusters.

    Each subcommand derives the configuration of another program from the configuration of the gateway.
    """


@render.command("authorized-keys")
@config_options
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="PATTERN",
    help="Address, network or pattern from which logins are allowed, such as 192.0.2.0/24. Can be repeated.",
)
def authorized_keys(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    origins: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Print lines for authorized_keys and sshd_config.

    With these lines, an SSH server permits the gateway's key to connect only to the configured targets. The lines
    require OpenSSH 7.8 or later. Without the lines for sshd_config, the key can also open listeners on unix sockets.
    """
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.config_rendering.authorized_keys import authorized_keys as lines  # noqa: PLC0415 - slow to import

    click.echo("\n".join(lines(load(config_sources(file, tunnels, backends, settings)), origins)))


@render.command()
@config_options
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="CLIENT",
    help="Address, network or name from which the connections arrive at the NFS server. Can be repeated.",
)
def exports(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    origins: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Print lines for /etc/exports on the NFS servers.

    The lines permit mounts only from the hosts that connect to the NFS servers: the SSH servers or proxies of the
    tunnels. If the configuration does not contain the address of such a host, specify the address with --from.
    """
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.config_rendering.nfs_exports import exports as lines  # noqa: PLC0415 - slow to import
    from gateway.config_rendering.nfs_exports import open_origins  # noqa: PLC0415 - slow to import

    text = "\n".join(lines(load(config_sources(file, tunnels, backends, settings)), origins))
    for origin in open_origins(origins):
        warning = f"--from {origin}: every host that reaches the server can mount these exports"
        click.secho(f"# {warning}", err=True, fg="yellow")
    click.echo(text)


def _application_command(name: str, text: str) -> click.Command:
    """Return a subcommand that prints settings for an application's container.

    Args:
        name: The name of the command: `env`, `compose` or `docker-run`.
        text: The help text.
    """

    @click.command(name, help=text)
    @config_options
    @click.option(
        "--host",
        metavar="ADDRESS",
        help="Address at which containers reach the gateway. Default: the names of the backends.",
    )
    def command(
        file: Path | None,
        tunnels: tuple[str, ...],
        backends: tuple[str, ...],
        host: str | None,
        **settings: str | None,
    ) -> None:
        from gateway.app.volume_listener_ports import with_ports  # noqa: PLC0415 - slow to import
        from gateway.config import load  # noqa: PLC0415 - slow to import

        functions: dict[str, Callable[[Config, str | None], str]] = {
            "env": lambda config, host: "\n".join(application_container_settings.env(config, host)),
            "compose": application_container_settings.compose,
            "docker-run": application_container_settings.docker_run,
        }
        config = with_ports(load(config_sources(file, tunnels, backends, settings)))
        for warning in application_container_settings.reachability_warnings(config) if host is None else ():
            click.secho(f"# {warning}", err=True, fg="yellow")
        click.echo(functions[name](config, host).rstrip())

    return command


render.add_command(
    _application_command(
        "env",
        "Print variables with each backend's address.\n\n"
        "Applications can read these environment variables to find the backends.",
    )
)
render.add_command(
    _application_command(
        "compose",
        "Print Compose settings for an application.\n\n"
        "An application needs these environment variables, labels, mounts and volumes to use the backends.",
    )
)
render.add_command(
    _application_command(
        "docker-run",
        "Print Docker commands that start an application.\n\n"
        "The commands contain the application's environment variables, labels, mounts and volumes.",
    )
)


@render.command()
@config_options
@click.option("--image", default="gateway", show_default=True, metavar="IMAGE", help="The container's image.")
@click.option("--name", default="gateway", show_default=True, metavar="NAME", help="Name of the Kubernetes objects.")
@click.option("--podman", is_flag=True, help="Print manifests for `podman kube play`; see docs/platforms.md.")
def kubernetes(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    image: str,
    name: str,
    podman: bool,
    **settings: str | None,
) -> None:
    """Print Kubernetes manifests that run the gateway.

    Files with secrets, such as passwords and keys, must be in the Kubernetes Secret that --name specifies. The Helm
    chart has more options.
    """
    from gateway.config import ConfigSources, load  # noqa: PLC0415 - slow to import
    from gateway.config_rendering import kubernetes_workload  # noqa: PLC0415 - slow to import
    from gateway.config_rendering.kubernetes_compatibility import SECRETS  # noqa: PLC0415 - slow to import

    if file is None:
        raise UsageError("the ConfigMap needs a configuration file: add -c FILE")
    if tunnels or backends or any(settings.values()):
        raise UsageError(
            "the ConfigMap contains only the configuration file: move the settings from the command line to this file"
        )
    if os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113 - `Path.exists` can raise an error
        raise UsageError(f"{file} is not a regular file: write the configuration to a file, and name it with -c")
    # Do not expand environment variables of this process, because the pod does not have them.
    unset = (
        "the pod has no environment variable {name}: replace the variable with its value, or, if the variable is in"
        f" the path of a file, replace the whole path with a path in {SECRETS}"
    )
    config = load(ConfigSources(file=file, environment={}, unset=unset))
    documents = kubernetes_workload.kubernetes(config, file.read_text(encoding="utf-8"), name, image, podman=podman)
    hint = f"kubectl create secret generic {name} --from-file=DIRECTORY"
    if podman:
        hint = "use `podman kube play`"
    click.secho(
        f"# first create the Secret {name} with the files that the configuration names: {hint}", err=True, fg="yellow"
    )
    click.echo(documents.rstrip())
