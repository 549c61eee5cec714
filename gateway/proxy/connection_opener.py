"""Opens connections to a proxy, with TLS if the proxy's URL requires TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from gateway.contracts.link import Link, Stream
from gateway.errors import DialError, FailureReason, GatewayError, TunnelError
from gateway.proxy.options import ProxyOptions
from gateway.proxy.proxy_connections import PlainProxyConnection, TlsProxyConnection
from gateway.proxy.tls_socket import TlsSocket
from gateway.tls_client_context import TlsClientFiles


@contextlib.asynccontextmanager
async def proxy_connection(options: ProxyOptions, via: Link) -> AsyncIterator[PlainProxyConnection]:
    """Connect to the proxy. If the `async with` block raises an error, close the connection.

    If the block raises no error, the caller must close the connection.

    Args:
        options: The options of the tunnel.
        via: The link through which to connect to the proxy.

    Raises:
        TunnelError: The proxy cannot be reached, or its TLS connection failed.
        LinkLostError: The link `via` failed.
    """
    try:
        async with asyncio.timeout(options.connect_timeout):
            stream = await _start_tls(options, await via.socket(options.endpoint))
    except TimeoutError as error:
        detail = f"{options.endpoint}: no connection within {options.connect_timeout:g} s (connect_timeout)"
        raise TunnelError(FailureReason.TIMEOUT, detail) from error
    except DialError as error:
        raise TunnelError(error.reason, error.detail) from error
    try:
        yield stream
    except BaseException:
        stream.close()
        raise


async def _start_tls(options: ProxyOptions, sock: Stream) -> PlainProxyConnection:
    """Return a stream over `sock`, with TLS if the URL requires TLS. Close `sock` on failure."""
    if not options.tls:
        return PlainProxyConnection(sock)
    try:
        context = TlsClientFiles(options.ca_file).context()
        # Disable renegotiation: during a renegotiation, an `SSLObject` accepts no data to send.
        context.options |= ssl.OP_NO_RENEGOTIATION
        tls = TlsSocket(sock, context, options.endpoint.host)
        await tls.handshake()
        return TlsProxyConnection(sock, tls)
    except GatewayError as error:
        sock.close()
        raise TunnelError(FailureReason.TLS, str(error)) from error
    except ssl.SSLError as error:
        sock.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            detail = f"the certificate of the proxy is not trusted ({error.verify_message}): set ca_file"
            raise TunnelError(FailureReason.TLS, f"{options.endpoint}: {detail}", fatal=True) from error
        detail = f"the TLS handshake failed ({error.reason or error}): check that the proxy supports TLS on this port"
        raise TunnelError(FailureReason.TLS, f"{options.endpoint}: {detail}") from error
    except OSError as error:
        sock.close()
        raise TunnelError(FailureReason.RESET, f"{options.endpoint}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
