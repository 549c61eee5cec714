"""`kind: web`: files on an HTTP server (RFC 9112). The probe requests one file."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.backends import BackendKind, BackendSettings, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import TrafficClass
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import VERSION, FactDefinition

FILE_SIZE = FactDefinition(
    "file_bytes", "Size of the file that the probe requests.", metric="gateway_web_file_bytes",
    describe=lambda size: f"file of {size} B",
)  # fmt: skip
HEADERS = FactDefinition(
    "headers",
    "Headers of the last response, by name.",
    metric="gateway_web_headers",
    label="header",
    describe=lambda headers: f"{len(headers)} headers",
)

_MAX_RESPONSE = 64 * 1024
"""Maximum number of bytes to read while waiting for the end of the headers."""


@dataclass(frozen=True)
class WebOptions:
    """The options of a web backend.

    Args:
        file: The path of the file that the probe requests.
    """

    file: str = "/"


@dataclass(frozen=True)
class WebCheck:
    """The options of a web backend's check.

    Args:
        method: The HTTP method of the probe's request.
    """

    method: Literal["GET", "HEAD"] = "GET"


class WebBackend:
    """A web backend; implements `gateway.contracts.backend.Backend`.

    Args:
        options: The options of the backend.
        check: The options of the backend's check.
    """

    def __init__(self, options: WebOptions, check: WebCheck) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Request the file; see `gateway.contracts.backend.Backend`."""
        loop = asyncio.get_running_loop()
        with await link.socket(target, phases) as sock, phases("query"):
            request = (
                f"{self.check.method} {self.options.file} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
            )
            await loop.sock_sendall(sock, request.encode())
            response = b""
            while b"\r\n\r\n" not in response and (piece := await loop.sock_recv(sock, 4096)):
                response += piece
                if len(response) > _MAX_RESPONSE:
                    raise UnusableTargetError(FailureReason.PROTOCOL, "the headers of the response are too long")
        head = response.partition(b"\r\n\r\n")[0].decode("latin-1")
        status = re.match(r"HTTP/1\.[01] (\d{3})", head)
        if status is None:
            raise UnusableTargetError(FailureReason.PROTOCOL, "not an HTTP server")
        if status[1] != "200":
            raise UnusableTargetError(FailureReason.QUERY, f"{self.options.file}: status {status[1]}")
        headers = dict(re.findall(r"^([\w-]+): *(.*)$", head.replace("\r", ""), re.MULTILINE))
        length = headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        facts = {VERSION: headers.get("Server"), FILE_SIZE: size, HEADERS: dict.fromkeys(headers, 1)}
        return ProbeResult(facts=facts)


def _read_url(scheme: str, path: str) -> dict[str, str]:
    return ({"file": path} if path else {}) | ({"check.method": "HEAD"} if scheme == "webhead" else {})


def _advice(backends: Sequence[BackendSettings]) -> Iterator[str]:
    if len(backends) > 1:
        yield f"backend {backends[1].name}: backend {backends[0].name} is of kind web, too"


def _insecure_settings(options: WebOptions, check: WebCheck, plain: bool) -> Iterator[InsecureSetting]:
    del options, check
    if plain:
        yield InsecureSetting("targets", "are not encrypted: use via", advised=True)


KIND = BackendKind(
    "web",
    WebOptions,
    WebCheck,
    WebBackend,
    schemes=("web", "webhead"),
    default_port=8000,
    aliases=("webserver",),
    read_url=_read_url,
    traffic_class=TrafficClass.BULK,
    facts=(VERSION, FILE_SIZE, HEADERS),
    imports=ImportedBackendDefaults(
        other_ports=(8001,), keys={"file": "/"}, note="set file to one that is always there", driver_names=("weblib",)
    ),
    advice=_advice,
    insecure_settings=_insecure_settings,
)
