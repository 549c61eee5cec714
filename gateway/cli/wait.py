"""`gateway wait`: waits until the service, and the backends that the user names, are ready."""

import time
from typing import Any

import click

from gateway.cli.completion import complete_backends
from gateway.cli.service_connection_options import service_options
from gateway.config.suggestions import backend_hint
from gateway.errors import GatewayError, ServiceUnreachableError, UsageError
from gateway.ops.ops_api_client import OpsApiClient, quote_name

_POLL_INTERVAL = 0.2


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_backends)
@service_options
@click.option("--max", "longest", default="30s", show_default=True, metavar="DURATION", help="Maximum time to wait.")
def wait(names: tuple[str, ...], client: OpsApiClient, longest: str) -> None:
    """Wait until the service is ready.

    With the names of backends, also wait until the named backends are up or degraded.
    """
    from gateway.config.value_parsers import duration  # noqa: PLC0415 - slow to import

    try:
        deadline = time.monotonic() + duration(longest)
    except ValueError as error:
        raise UsageError(f"--max: {error}") from error
    query = "?require=" + ",".join(map(quote_name, names)) if names else ""
    while True:
        failure: GatewayError
        try:
            code, body = client.get_json("/readyz" + query)
        except ServiceUnreachableError as error:
            failure = error
        else:
            if code == 200:
                return
            if unknown := body.get("unknown"):
                raise UsageError(f"there is no backend {unknown[0]!r}{backend_hint(body['backends'])}")
            failure = GatewayError(f"not ready within {longest}: {_not_ready_reason(body, names)}")
        if time.monotonic() >= deadline:
            raise failure
        time.sleep(_POLL_INTERVAL)


def _not_ready_reason(body: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return why the service is not ready.

    Args:
        body: The body of `/readyz`.
        names: The backends on the command line. If there are none, the result names each backend that is neither up
            nor degraded.
    """
    missing = [
        f"{name} is {backend['status']}" + (f" ({backend['reason']})" if backend["reason"] else "")
        for name, backend in body["backends"].items()
        if (not names or name in names) and backend["status"] not in ("up", "degraded")
    ]
    return "the service is draining" if body["draining"] else ", ".join(missing) or str(body["status"])
