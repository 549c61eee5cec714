"""Adds the variable that selects the audited engine (such as DOCKER_HOST) to the commands in an audit report."""

from dataclasses import replace

from gateway.audit.report import AuditReport
from gateway.audit.shell_command_builder import command
from gateway.docker.options import DockerOptions

_VARIABLES = {"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}
"""The environment variable that selects the engine, for each command line client."""


def with_environment(report: AuditReport, options: DockerOptions, default_host: str, cli: str) -> AuditReport:
    """Return a copy of `report` whose commands use the audited engine.

    If `cli` might use another engine by default, insert a command that sets the environment variable. If the
    audited engine is behind a tunnel, insert a comment with the name of the tunnel instead.

    Args:
        report: The report.
        options: The options of the connection to the audited engine.
        default_host: The address of the engine that `cli` uses by default; empty if it is not known.
        cli: The command line client in the commands: `docker` or `podman`.
    """
    first = _selection(options, default_host, cli)
    if not first:
        return report
    findings = tuple(
        replace(each, fix=f"{first}\n{each.fix}") if _runs(each.fix, cli) else each for each in report.findings
    )
    return replace(report, findings=findings)


def _selection(options: DockerOptions, default_host: str, cli: str) -> str:
    if options.tunnel is not None:
        return f"# run these commands on the host of the engine, which is behind the tunnel {options.tunnel}"
    if options.host == default_host:
        return ""
    words = [f"{_VARIABLES[cli]}={options.host}"]
    if not options.tls.is_set:
        return command("export", *words)
    return f"{command('export', *words)}  # with TLS, also set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"


def _runs(fix: str, cli: str) -> bool:
    return any(f"{cli} " in line for line in fix.splitlines() if not line.startswith("#"))
