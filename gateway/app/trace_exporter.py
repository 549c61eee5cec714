"""Creates the trace exporter that the section `traces` configures. Imports OpenTelemetry only if necessary."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway import __version__
from gateway.config import Config
from gateway.contracts.tracing import TraceExporter
from gateway.errors import ConfigProblem, GatewayError
from gateway.secret_files import read_secret, unreadable

_PACKAGE = "opentelemetry.exporter.otlp.proto.http"


@asynccontextmanager
async def exporting(config: Config) -> AsyncIterator[TraceExporter | None]:
    """Create and yield the exporter. At the end of the `async with` block, send the last spans.

    Yields None if traces are not configured.

    Raises:
        GatewayError: A file or a package that the section `traces` needs cannot be used.
    """
    exporter = await asyncio.to_thread(_create_exporter, config)
    try:
        yield exporter
    finally:
        if exporter is not None:
            await exporter.close()


def _create_exporter(config: Config) -> TraceExporter | None:
    """Return a new exporter, which the caller must close; None if traces are not configured. The call blocks."""
    traces = config.traces
    if traces.endpoint is None:
        return None
    for problem in trace_problems(config):
        raise GatewayError(f"{problem.key}: {problem.message}")
    from gateway.ops.otlp_exporter import OtlpExporter  # noqa: PLC0415 - an optional and slow import

    token = read_secret(traces.token_file).decode().strip() if traces.token_file else None
    attributes = {"service.instance.id": config.gateway.instance, "service.version": __version__}
    return OtlpExporter(traces.endpoint, token, traces.tls, traces.sample_percent, attributes)


def trace_problems(config: Config) -> list[ConfigProblem]:
    """Return the problems with packages and files that the section `traces` needs. The call blocks."""
    traces = config.traces
    if traces.endpoint is None:
        return []
    if not _is_installed():
        return [_problem(config, "endpoint", "needs packages: pip install 'gateway[otel]'")]
    path = traces.token_file
    if path is not None:
        try:
            read_secret(path).decode()
        except UnicodeDecodeError:
            return [_problem(config, "token_file", f"{path}: not valid UTF-8 text")]
        except OSError as error:
            return [_problem(config, "token_file", f"{path}: {unreadable(path, error)}")]
    try:
        traces.tls.context()
    except GatewayError as error:
        return [_problem(config, "tls", str(error))]
    return []


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(_PACKAGE) is not None
    except ModuleNotFoundError:  # `find_spec` raises this error if a parent package of `_PACKAGE` is missing
        return False


def _problem(config: Config, key: str, message: str) -> ConfigProblem:
    key = f"traces.{key}"
    return ConfigProblem(config.places.get(key, key), key, message)
