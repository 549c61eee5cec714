"""Tests whether the commands in an audit report select the audited engine."""

from pathlib import Path

import pytest

from gateway.audit import hazard_rules
from gateway.audit.docker_host_variable import with_environment
from gateway.audit.report import AuditReport, Finding, Severity
from gateway.docker.options import DockerOptions
from gateway.tls_client_context import TlsClientFiles

DEFAULT = DockerOptions.host
REMOTE = "tcp://10.0.0.9:2376"


def fix_of(options: DockerOptions, default_host: str, fix: str, client: str = "docker") -> list[str]:
    report = AuditReport((Finding(hazard_rules.ANONYMOUS, Severity.LOW, "db", "/data", "data", fix),), (), ())
    return with_environment(report, options, default_host, client).findings[0].fix.splitlines()


@pytest.mark.parametrize(
    ("options", "default_host", "client", "expected"),
    [
        (DockerOptions(), DEFAULT, "docker", None),
        (DockerOptions(REMOTE), REMOTE, "docker", None),
        (DockerOptions(), REMOTE, "docker", f"export DOCKER_HOST={DEFAULT}"),
        (DockerOptions(), "", "docker", f"export DOCKER_HOST={DEFAULT}"),
        (DockerOptions("unix:///srv/a b.sock"), DEFAULT, "docker", "export 'DOCKER_HOST=unix:///srv/a b.sock'"),
        (DockerOptions("unix:///run/p.sock"), DEFAULT, "podman", "export CONTAINER_HOST=unix:///run/p.sock"),
        (DockerOptions(REMOTE, tls=TlsClientFiles(Path("/ca"))), DEFAULT, "docker",
         f"export DOCKER_HOST={REMOTE}  # with TLS, also set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"),
        (DockerOptions("ssh://edge/run/docker.sock"), DEFAULT, "docker",
         "# run these commands on the host of the engine, which is behind the tunnel edge"),
    ],
)  # fmt: skip
def test_a_fix_first_selects_the_engine_of_the_audit(
    options: DockerOptions, default_host: str, client: str, expected: str | None
) -> None:
    lines = fix_of(options, default_host, f"{client} stop db", client)
    assert lines == [*([expected] if expected else []), f"{client} stop db"]


def test_a_fix_without_commands_of_the_engine_stays_unchanged() -> None:
    for fix in ("# docker service update db", "chown -h 1:1 /srv"):
        assert fix_of(DockerOptions(REMOTE), DEFAULT, fix) == [fix]
