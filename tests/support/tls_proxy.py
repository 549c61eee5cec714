"""Runs an HTTPS proxy that a test controls."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.servers import serving

ANSWER = bytes(range(256)) * 12_000


@contextlib.contextmanager
def tls_proxy(
    folder: Path, behavior: Callable[[ssl.SSLSocket], None], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[tuple[int, Path]]:
    """Run a proxy that accepts every CONNECT request and calls `behavior`; yield the proxy's port and CA file."""
    certificate, key = Authority(folder).issue("127.0.0.1", server=True, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.maximum_version = version

    def serve(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(client, server_side=True, suppress_ragged_eofs=False) as tls,
        ):
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += tls.recv(1)
            tls.sendall(b"HTTP/1.1 200 yes\r\n\r\n")
            behavior(tls)

    with serving(serve) as port:
        yield port, folder / "ca.pem"
