"""Checks the sections for operations and monitoring: `ops`, `fleet` and `traces`. Does no I/O."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.config.sections import OpsSection, TracesSection
from gateway.fleet.member_addresses import exposed_token
from gateway.fleet.options import FleetOptions
from gateway.relay.resolver import is_loopback

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")


def ops_problems(ops: OpsSection) -> Iterator[tuple[str, str]]:
    """Yield the key and an error message for each invalid value in the section `ops`."""
    for host in ops.hosts:
        if not _HOST.fullmatch(host):
            yield "hosts", f"{host!r} is not a host name: write only the name, without scheme, port or wildcard"
    if ops.metrics_token_file is not None and not ops.authenticated:
        yield (
            "metrics_token_file",
            "has no effect without token_file or tls.client_ca_file: add one of them",
        )
    if ops.metrics_token_file is not None and ops.metrics_token_file == ops.token_file:
        yield (
            "metrics_token_file",
            "is the same file as token_file, which gives access to everything: use another file",
        )


def token_advice(fleet: FleetOptions, traces: TracesSection) -> Iterator[tuple[str, str]]:
    """Yield the key and a warning for each token that the gateway would send without encryption."""
    if fleet.token_file is not None and (message := exposed_token(fleet.members)):
        yield "fleet.token_file", message
    url = urlsplit(traces.endpoint or "")
    if traces.token_file is not None and url.scheme == "http" and not is_loopback(url.hostname or ""):
        yield "traces.token_file", f"the token is sent to {url.netloc} without encryption: use https://"


def ops_advice(ops: OpsSection) -> Iterator[tuple[str, str]]:
    """Yield the key and a warning for each insecure value in the section `ops`."""
    if is_loopback(ops.listen.host):
        return
    if not ops.authenticated:
        message = (
            f"{ops.listen} shows addresses, users and errors to other hosts without authentication: set token_file"
            " and tls (and probe_listen for probes), or listen on 127.0.0.1"
        )
        yield "listen", message
    elif ops.tls is None:
        yield (
            "token_file",
            f"clients send the token to {ops.listen} without encryption: set tls, or listen on 127.0.0.1",
        )
