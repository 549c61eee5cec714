"""Asks the running service, by its admin socket or over HTTP; standard library only, to start quickly."""

import http.client
import json
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.errors import GatewayError, ServiceUnreachableError, UsageError
from gateway.tls_client import client_context

DEFAULT_SOCKET = "/run/gateway/admin.sock"
DEFAULT_LISTEN = "127.0.0.1:9090"
_TIMEOUT = 10.0
_PROBES = ("/livez", "/startupz", "/readyz")
_REFUSALS = (401, 403, 421)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("gateway", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Client:
    """How to reach the service.

    Args:
        url: Its HTTP address; None: by the socket, or where there is none, by the usual address.
        admin_socket: Its admin socket.
        token_file: A file with the token that its HTTP address asks for.
        ca_file: Certificate authorities of an https:// address in PEM; None: the system's.
    """

    url: str | None
    admin_socket: str
    token_file: str | None = None
    ca_file: str | None = None

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the decoded body of a GET.

        Raises:
            ServiceUnreachableError: Nobody answers.
            GatewayError: It answers that the host or the token is wrong.
        """
        if self.url is None and Path(self.admin_socket).exists():
            return self._ask(_UnixConnection(self.admin_socket), "GET", path, self.admin_socket)
        url = self.url or _usual_url(path)
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no http:// or https:// URL")
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=_TIMEOUT, context=self._context()
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT)
        code, body = self._ask(connection, "GET", parts.path.rstrip("/") + path, url, self._authorization())
        if code in _REFUSALS and isinstance(body, str):
            raise GatewayError(f"{url}: {body.strip()}")
        return code, body

    def get_json(self, path: str) -> tuple[int, dict[str, Any]]:
        """As `get`, for what only a gateway answers.

        Raises:
            ServiceUnreachableError: Nobody answers, or something else does.
        """
        status, body = self.get(path)
        if not isinstance(body, dict) or not ({"backends", "consumers"} & body.keys()):
            raise ServiceUnreachableError(f"what answers is not a gateway: {path} says {status} {str(body)[:60]!r}")
        return status, body

    def post(self, path: str) -> tuple[int, Any]:
        """The status and the decoded body of a POST, which only the admin socket takes.

        Raises:
            ServiceUnreachableError: Nobody answers.
        """
        return self._ask(_UnixConnection(self.admin_socket), "POST", path, self.admin_socket)

    def _context(self) -> ssl.SSLContext:
        try:
            return client_context(self.ca_file)
        except OSError as error:  # ssl.SSLError included
            raise UsageError(f"--ca-file {self.ca_file}: {error.strerror or error}") from error

    def _authorization(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        try:
            token = Path(self.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            told = getattr(error, "strerror", None) or "is no text in ASCII"
            raise UsageError(f"--token-file {self.token_file}: {told}") from error
        if not token.isprintable() or not token:
            raise UsageError(f"--token-file {self.token_file}: must hold one token, on one line")
        return {"Authorization": f"Bearer {token}"}

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        where: str,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            body = answer.read()
        except PermissionError as error:
            raise ServiceUnreachableError(f"{where}: not allowed: run as the service's user") from error
        except ssl.SSLCertVerificationError as error:
            told = f"{where}: its certificate is not trusted: {error.verify_message} (see --ca-file)"
            raise ServiceUnreachableError(told) from error
        except (OSError, http.client.HTTPException) as error:
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, ConnectionResetError) and where.startswith("http://"):
                told += "; if the port speaks TLS, try https://"
            raise ServiceUnreachableError(
                f"no gateway answers at {where}: {told} (is it running? see --admin-socket and --url)"
            ) from error
        finally:
            connection.close()
        if "json" not in answer.headers.get_content_type():
            return answer.status, body.decode(errors="replace")
        try:
            return answer.status, json.loads(body)
        except ValueError as error:
            raise GatewayError(f"{where}: the answer is not JSON") from error


def _usual_url(path: str) -> str:
    """Where the environment says that the service listens: its listener for probes, where that answers `path`."""
    probes = os.environ.get("GATEWAY_OPS_PROBE_LISTEN")
    if probes and path.startswith(_PROBES):
        return f"http://{_dialable(probes)}"
    scheme = "https" if os.environ.get("GATEWAY_OPS_TLS_CERT_FILE") else "http"
    return f"{scheme}://{_dialable(os.environ.get('GATEWAY_OPS_LISTEN', DEFAULT_LISTEN))}"


def _dialable(listen: str) -> str:
    """An address that is listened on, as one can dial it."""
    return listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
