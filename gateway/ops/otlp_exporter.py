"""Exports spans of client connections to an OpenTelemetry collector. Needs the OpenTelemetry packages."""

import asyncio
import io
import logging
import threading
from pathlib import Path
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, Status, StatusCode
from requests.adapters import HTTPAdapter

from gateway.contracts.states import CloseReason
from gateway.contracts.tracing import ConnectionSpanData
from gateway.tls_client_context import TlsClientFiles

_SHUTDOWN_TIMEOUT = 3.0
"""Maximum number of seconds for which `close` waits until the last spans are sent."""
_NANOSECONDS = 1e9
_SDK_LOG = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
_SDK_LOG.setLevel(logging.ERROR)
"""Suppresses the warnings that the SDK logs for each retry. Errors are still logged, for example if the SDK drops a
batch."""
_SUCCESSFUL = (CloseReason.FINISHED, CloseReason.CLIENT_RESET, CloseReason.MOVED)


class OtlpExporter:
    """Exports spans over OTLP; implements `gateway.contracts.tracing.TraceExporter`.

    A thread of the SDK sends the spans in batches (OTLP over HTTP). If the collector does not respond, the queue
    becomes full, and further spans are dropped. The SDK also reads the environment variables of the OpenTelemetry
    specification (`OTEL_…`) for headers, compression, batches and resource attributes.

    Args:
        endpoint: The URL of the collector, including the path.
        token: The bearer token to send; None: send no token.
        tls: The certificate authorities and the client certificate for an `https://` URL.
        percent: The percentage of connections for which a span is exported, from 1 to 100.
        attributes: The attributes of the OpenTelemetry resource: the instance and the version.
    """

    def __init__(
        self, endpoint: str, token: str | None, tls: TlsClientFiles, percent: int, attributes: dict[str, str]
    ) -> None:
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            headers={"authorization": f"Bearer {token}"} if token is not None else None,
            certificate_file=_text(tls.ca_file),
            client_key_file=_text(tls.key_file),
            client_certificate_file=_text(tls.cert_file),
            session=_session(),
        )
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(percent / 100),
            resource=Resource.create({"service.name": "gateway", **attributes}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gateway")

    def export(self, connection: ConnectionSpanData) -> None:
        """Queue the span of a connection, and return immediately. If the queue is full, drop the span."""
        attributes: dict[str, str | int | None] = {
            "gateway.backend": connection.backend,
            "gateway.tunnel": connection.tunnel,
            "gateway.consumer": connection.consumer,
            "gateway.ending": connection.ending,
            "gateway.reason": connection.reason,
            "gateway.bytes_to_backend": connection.to_backend,
            "gateway.bytes_from_backend": connection.from_backend,
            "client.address": connection.client,
            "server.address": connection.target.host if connection.target else None,
            "server.port": connection.target.port if connection.target else None,
        }
        span = self._tracer.start_span(
            f"connection {connection.backend}",
            kind=SpanKind.SERVER,
            attributes={key: value for key, value in attributes.items() if value is not None},
            start_time=connection.trace.accepted,
        )
        for phase in connection.trace.phases:
            seconds = (phase.ended - phase.began) / _NANOSECONDS
            span.add_event(phase.name, {"gateway.seconds": seconds}, timestamp=phase.began)
        if connection.ending not in _SUCCESSFUL:
            span.set_status(Status(StatusCode.ERROR, connection.reason or connection.ending))
        span.end(connection.ended)

    async def close(self) -> None:
        """Send the queued spans, and stop. Drop spans that cannot be sent within three seconds."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            try:
                self._provider.shutdown()
            finally:
                loop.call_soon_threadsafe(done.set)

        # Call `shutdown` in a daemon thread, because it blocks if the collector does not respond.
        threading.Thread(target=shut_down, name="traces-shutdown", daemon=True).start()
        try:
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                await done.wait()
        except TimeoutError:
            return


class _DiscardBodyHttpAdapter(HTTPAdapter):
    """An HTTP adapter for `requests` that reads the status and headers of a response, but not the body.

    The exporter needs only the status. Without this adapter, `requests` would read the whole body, and a collector
    could send a body that fills the memory.
    """

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, and return the response without its body. The arguments are those of the base class."""
        response = super().send(*args, **kwargs)
        response.close()
        response.raw = io.BytesIO()
        return response


def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _DiscardBodyHttpAdapter())
    return session


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
