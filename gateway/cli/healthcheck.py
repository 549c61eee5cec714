"""`gateway healthcheck`: reports with its exit code whether the service is alive."""

import click

from gateway.cli.service_connection_options import service_options
from gateway.errors import GatewayError, ServiceUnreachableError
from gateway.ops.ops_api_client import OpsApiClient

_MAX_QUOTED = 60
"""Maximum number of characters of an unexpected response in an error message."""


@click.command()
@service_options
@click.option(
    "--started", is_flag=True, help="Also require that the startup has finished, including the first checks."
)
def healthcheck(client: OpsApiClient, started: bool) -> None:
    """Exit with 0 if the service is alive.

    Use this command as the health check of a container image that has no shell.
    """
    code, body = client.get("/livez")
    if code != 200 or body != "alive\n":
        raise ServiceUnreachableError(
            f"the responding server is not a gateway: /livez returned {code} {str(body)[:_MAX_QUOTED]!r}"
        )
    if started:
        code, body = client.get("/startupz")
        if code != 200:
            text = str(body)[:_MAX_QUOTED].strip()
            raise GatewayError(f"the service has not started yet: /startupz returned {code} {text!r}")
