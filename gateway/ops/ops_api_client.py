"""Sends requests to a running service, over its admin socket or HTTP. Uses only the standard library."""

import http.client
import json
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gateway import default_file_paths
from gateway.errors import GatewayError, ServiceUnreachableError, UsageError
from gateway.text_sanitizer import one_line
from gateway.tls_client_context import client_context

DEFAULT_LISTEN = "127.0.0.1:9090"
_PROBES = ("/livez", "/startupz", "/readyz")
_REFUSED = (401, 403, 421)
_PORTS = {"http": http.client.HTTP_PORT, "https": http.client.HTTPS_PORT}


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("gateway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class OpsApiClient:
    """A client of one running service, over its admin socket or HTTP.

    Args:
        url: The HTTP address of the service. None: use `admin_socket`.
        admin_socket: Path of the service's admin socket. None: the default path for the user of this process. If no
            socket exists at the default path, `get` uses the HTTP address from the environment variables.
        token_file: File with the bearer token for the HTTP address. None: send no token.
        ca_file: File with the certificate authorities for an https:// URL, in PEM. None: use those of the system.
        timeout: Timeout in seconds for the connection attempt and for each read.
    """

    url: str | None
    admin_socket: str | None
    token_file: str | None = None
    ca_file: str | None = None
    timeout: float = 10.0

    def get(self, path: str) -> tuple[int, Any]:
        """Send a GET request, and return the status code and the body. A JSON body is decoded.

        Raises:
            ServiceUnreachableError: The service does not respond.
            GatewayError: The service refuses the host name or the token, or its response is not valid.
            UsageError: The URL, the token file or the CA file is not valid.
        """
        if self.url is None and (self.admin_socket or _exists(self._socket)):
            return self._request_socket("GET", path)
        source, url = ("--url", self.url) if self.url else _default_url(path)
        try:
            connection, prefix = self._connection(url)
        except (ValueError, http.client.InvalidURL) as error:
            raise UsageError(
                f"{source}: {url!r} is not valid: use an http:// or https:// URL such as http://127.0.0.1:9090"
            ) from error
        code, body = self._request(connection, "GET", prefix + path, url, self._authorization())
        if code in _REFUSED and isinstance(body, str):
            raise GatewayError(f"{url}: {body.strip()}")
        return code, body

    def get_json(self, path: str) -> tuple[int, dict[str, Any]]:
        """Send a GET request for a JSON object, and return the status code and the object.

        Raises:
            ServiceUnreachableError: The service does not respond, or the response is not from a gateway. A gateway's
                response contains at least one of the keys `backends`, `consumers` and `members`.
            GatewayError, UsageError: As for `get`.
        """
        status, body = self.get(path)
        if not isinstance(body, dict) or not ({"backends", "consumers", "members"} & body.keys()):
            raise _not_a_gateway(path, status, body)
        return status, body

    def post(self, path: str) -> tuple[int, str]:
        """Send a command (POST request) to the admin socket, and return the status code and the result.

        Raises:
            ServiceUnreachableError: The service does not respond, or the response is not from a gateway.
            GatewayError: The response is not valid.
        """
        status, body = self._request_socket("POST", path)
        if not isinstance(body, dict) or "detail" not in body:
            raise _not_a_gateway(path, status, body)
        return status, str(body["detail"])

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, str]:
        """Return an unopened HTTP connection to `url`, and the prefix for request paths.

        Raises:
            ValueError: The URL is not valid.
            http.client.InvalidURL: The host is not valid.
            UsageError: The CA file is not valid.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, prefix = parts.hostname, parts.path.rstrip("/")
        is_path = prefix.isascii() and prefix.isprintable() and " " not in prefix
        if parts.scheme not in _PORTS or not host or not is_path:
            raise ValueError
        host.encode("idna")
        # Always pass a port. Without one, http.client reads "::1" as host and port.
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout), prefix
        return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self._context()), prefix

    @property
    def _socket(self) -> Path:
        return Path(self.admin_socket) if self.admin_socket else default_file_paths.admin_socket()

    def _request_socket(self, method: str, path: str) -> tuple[int, Any]:
        where = self._socket
        if not default_file_paths.is_trusted(where):
            raise ServiceUnreachableError(
                f"{where}: another user owns this socket's folder, or can write to the folder: remove the folder"
            )
        return self._request(_UnixConnection(str(where), self.timeout), method, path, str(where))

    def _context(self) -> ssl.SSLContext:
        try:
            return client_context(self.ca_file)
        except OSError as error:  # `OSError` includes `ssl.SSLError`
            raise UsageError(
                f"--ca-file {self.ca_file}: {error.strerror or error}: check the path and its permissions, or replace"
                " the file"
            ) from error

    def _authorization(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        try:
            token = Path(self.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not an ASCII text file"
            raise UsageError(
                f"--token-file {self.token_file}: {reason}: check the path and its permissions, or replace the file"
            ) from error
        if not token.isprintable() or not token:
            raise UsageError(f"--token-file {self.token_file}: must contain one token, on one line")
        return {"Authorization": f"Bearer {token}"}

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        where: str,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            body = response.read()
        except PermissionError as error:
            raise ServiceUnreachableError(
                f"{where}: permission denied: run this command as the user of the service, or as root"
            ) from error
        except ssl.SSLCertVerificationError as error:
            message = f"{where}: the certificate is not trusted: {one_line(error.verify_message)} (see --ca-file)"
            raise ServiceUnreachableError(message) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnreachableError(
                f"cannot connect to a gateway at {where} ({_why(error, where)}): start the gateway with"
                " `gateway run`, or set its address with --admin-socket or --url"
            ) from error
        finally:
            connection.close()
        if "json" not in response.headers.get_content_type():
            return response.status, body.decode(errors="replace")
        try:
            return response.status, json.loads(body)
        except ValueError as error:
            raise GatewayError(f"{where}: the response is not valid JSON: use the address of a gateway") from error


def quote_name(name: str) -> str:
    """Quote the name of a backend, tunnel or container for a URL. The name can contain bytes that are not UTF-8."""
    return quote(name, safe="", errors="surrogateescape")


def _not_a_gateway(path: str, status: int, body: object) -> ServiceUnreachableError:
    return ServiceUnreachableError(
        f"the responding server is not a gateway: {path} returned {status} {str(body)[:60]!r}"
    )


def _why(error: OSError | http.client.HTTPException, where: str) -> str:
    """Return the cause of a failed request. Omit text from the server, because the server might not be a gateway."""
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed ({(error.reason or str(error)).replace('_', ' ').lower()})"
    if not isinstance(error, OSError):
        return "the response is not HTTP"
    closed = isinstance(error, ConnectionResetError) and where.startswith("http://")
    hint = "; if the port expects TLS, use https://" if closed else ""
    return one_line(error.strerror or str(error) or type(error).__name__) + hint


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # return True, so that the request over the socket reports the error
        return True


def _default_url(path: str) -> tuple[str, str]:
    """Return the name of the environment variable that contains the service's address, and the URL for this address.

    Use `GATEWAY_OPS_PROBE_LISTEN` if it is set and `path` is a health endpoint such as `/readyz`. Otherwise, use
    `GATEWAY_OPS_LISTEN`, or the default address if `GATEWAY_OPS_LISTEN` is not set.
    """
    probes = os.environ.get("GATEWAY_OPS_PROBE_LISTEN")
    if probes and path.startswith(_PROBES):
        return "GATEWAY_OPS_PROBE_LISTEN", f"http://{_dialable(probes)}"
    scheme = "https" if os.environ.get("GATEWAY_OPS_TLS_CERT_FILE") else "http"
    name = "GATEWAY_OPS_LISTEN"
    return name, f"{scheme}://{_dialable(os.environ.get(name, DEFAULT_LISTEN))}"


def _dialable(listen: str) -> str:
    """Return the address to which a client must connect: replace a wildcard address with the loopback address."""
    return listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
