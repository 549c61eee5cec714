"""`gateway demo`: runs real servers on loopback, and the gateway in front of them."""

import sys

import click


@click.command()
@click.option("--once", is_flag=True, help="Exit when the demo is complete.")
def demo(once: bool) -> None:
    """Try the gateway with real servers on loopback.

    Starts a bastion, databases and an NFS server, and the gateway in front of them.
    """
    from gateway.demo.main import main  # noqa: PLC0415 - slow to import

    sys.exit(main(once=once))
