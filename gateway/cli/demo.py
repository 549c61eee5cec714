"""`gateway demo`: a whole small site on loopback, and the gateway in front of it."""

import sys

import click


@click.command()
@click.option("--once", is_flag=True, help="End by itself, with an exit code for scripts.")
def demo(once: bool) -> None:
    """Start a bastion, databases and an NFS server on loopback, and the gateway in front of them."""
    from gateway.demo.main import main  # noqa: PLC0415 - slow to import

    sys.exit(main(once=once))
