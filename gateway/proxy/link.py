"""A proxy as a link: each connection to a target is a new connection to the proxy."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import inf

from python_socks import ProxyType
from python_socks._connectors.abc import AsyncConnector
from python_socks._connectors.factory_async import create_connector
from python_socks._errors import IncompleteReadError
from python_socks._protocols import socks5
from python_socks._protocols.errors import ReplyError
from python_socks.async_.asyncio._resolver import Resolver

from gateway.contracts import CloseReason, Endpoint, Link, LinkStatus, Phases, Relay, Stream
from gateway.errors import DialError, GatewayError, LinkLostError, ReachError, Reason, TunnelError
from gateway.measure import Histogram, Tap
from gateway.proxy.options import ProxyOptions
from gateway.proxy.streams import PlainStream, TlsStream
from gateway.proxy.tls import TlsSocket
from gateway.proxy.tls_bridge import TlsBridge
from gateway.relay.redial import retry_dial
from gateway.relay.socket_relay import SocketRelay
from gateway.tls_client import ClientTls

_HTTP_AUTH_ERRORS = (401, 407)
_SOCKS_REASONS = {
    socks5.ReplyCode.CONNECTION_NOT_ALLOWED: Reason.CHANNEL_PROHIBITED,
    socks5.ReplyCode.HOST_UNREACHABLE: Reason.REFUSED,
    socks5.ReplyCode.NETWORK_UNREACHABLE: Reason.REFUSED,
    socks5.ReplyCode.CONNECTION_REFUSED: Reason.REFUSED,
    socks5.ReplyCode.TTL_EXPIRED: Reason.TIMEOUT,
}
_HTTP_REASONS = {403: Reason.CHANNEL_PROHIBITED, 405: Reason.CHANNEL_PROHIBITED, 504: Reason.TIMEOUT}
_SOCKS_MAX_CREDENTIAL = 255
_AUTH_ERROR_WORDS = ("authentication", "acceptable")
"""Words in python-socks' messages about failed SOCKS5 logins, which have no error code."""


@dataclass(frozen=True, kw_only=True)
class ProxyStatus(LinkStatus):
    """Status of a proxy.

    Args:
        encrypted: Whether connections to the proxy use TLS.
    """

    encrypted: bool


class ProxyLink:
    """See `gateway.contracts.Link`.

    Args:
        options: The options of the tunnel.
        via: The link through which the proxy is reached.
    """

    def __init__(self, options: ProxyOptions, via: Link) -> None:
        self._options = options
        self._via = via
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.network = via.network.behind(options.url)

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; times the phase `channel`."""
        timed = phases or Phases()
        with timed("channel"):
            sock, _ = await retry_dial(
                lambda within: self._dial(to, within, short=True), timed.on_abandoned, self._options.dial_timeout
            )
        return sock

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """See `gateway.contracts.Link`."""
        sock, bridge = await self._dial(to, min(self._options.dial_timeout, within), short=False)
        relay = SocketRelay(client, sock, latency, tap)
        if bridge is not None:
            bridge.on_upload_lost = relay.fail_upload
            bridge.upload_is_complete = lambda: relay.upload_complete
            relay.ended.add_done_callback(lambda _: None if _upload_continues(relay) else bridge.abort())
        return relay

    async def _dial(
        self,
        to: Endpoint,
        timeout: float,  # noqa: ASYNC109
        *,
        short: bool,
    ) -> tuple[Stream, TlsBridge | None]:
        """Connect to a target; return the socket, and the bridge behind it if the proxy uses TLS."""
        try:
            async with asyncio.timeout(timeout), self._connect_to_proxy() as (stream, sock):
                await self._connector().connect(stream, to.host, to.port)
                if not isinstance(stream, TlsStream):
                    return sock, None
                bridge = TlsBridge(stream.tls, short=short)
                return bridge.sock, bridge
        except TimeoutError as error:
            raise DialError(Reason.TIMEOUT, f"{to}: the proxy did not answer within {timeout:.3g} s") from error
        except ReplyError as error:
            raise DialError(self._reason(error), f"{to}: the proxy refuses the connection: {error}") from error
        except ValueError as error:
            if to.host.isascii():
                raise DialError(Reason.PROTOCOL, f"{to}: invalid response of the proxy: {error}") from error
            raise DialError(Reason.DNS, f"{to.host}: not a valid host name: {error}") from error
        except (IncompleteReadError, OSError) as error:
            raise DialError(Reason.RESET, f"{to}: the connection to the proxy failed: {error}") from error
        except TunnelError as error:
            self._mark_lost(error.detail)
            raise LinkLostError(error.detail) from error

    @contextlib.asynccontextmanager
    async def _connect_to_proxy(self) -> AsyncIterator[tuple[PlainStream | TlsStream, Stream]]:
        """Connect to the proxy, and close the connection if the block raises.

        Raises:
            TunnelError: The proxy cannot be reached.
        """
        options = self._options
        try:
            async with asyncio.timeout(options.connect_timeout):
                sock = await self._via.socket(options.endpoint)
                stream = await self._start_tls(sock)
        except TimeoutError as error:
            detail = f"{options.endpoint}: no connection within {options.connect_timeout:g} s (connect_timeout)"
            raise TunnelError(Reason.TIMEOUT, detail) from error
        except DialError as error:
            raise TunnelError(error.reason, error.detail) from error
        try:
            yield stream, sock
        except BaseException:
            await stream.close()
            raise

    async def _start_tls(self, sock: Stream) -> PlainStream | TlsStream:
        """Return a stream over `sock`, with TLS if the URL requires it; close `sock` on failure."""
        options = self._options
        if not options.tls:
            return PlainStream(sock)
        try:
            context = ClientTls(options.ca_file).context()
            # During a renegotiation an SSLObject accepts no data to send.
            context.options |= ssl.OP_NO_RENEGOTIATION
            tls = TlsSocket(sock, context, options.endpoint.host)
            await tls.handshake()
            return TlsStream(sock, tls)
        except GatewayError as error:
            sock.close()
            raise TunnelError(Reason.TLS, str(error)) from error
        except ssl.SSLError as error:
            sock.close()
            fatal = isinstance(error, ssl.SSLCertVerificationError)
            raise TunnelError(Reason.TLS, f"{options.endpoint}: {error}", fatal=fatal) from error
        except OSError as error:
            sock.close()
            raise TunnelError(Reason.RESET, f"{options.endpoint}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise

    def _credentials(self) -> tuple[str | None, str | None]:
        """Return the user name and the password, or None and None for no login.

        Raises:
            TunnelError: The password file cannot be read, or the protocol cannot encode the credentials; fatal.
        """
        options = self._options
        try:
            password = options.password.reveal() if options.password else ""
        except OSError as error:
            detail = f"password_file: {error.filename}: {error.strerror}"
            raise TunnelError(Reason.AUTH, detail, fatal=True) from error
        if options.login is None and options.password is None:
            return None, None
        user = options.login
        if user is None:
            user, colon, password = password.partition(":")
            if not colon:
                detail = "password_file contains no user name: set user, or write user:password"
                raise TunnelError(Reason.AUTH, detail, fatal=True)
        self._check_encodable(user, password)
        return user, password

    def _check_encodable(self, user: str, password: str) -> None:
        """Raise if the protocol cannot encode the credentials (RFC 1929: 255 bytes; RFC 7617: no colon in user)."""
        if self._options.is_socks:
            encodable = all(each.isascii() and 0 < len(each) <= _SOCKS_MAX_CREDENTIAL for each in (user, password))
            rule = f"have 1 to {_SOCKS_MAX_CREDENTIAL} ASCII characters"
        else:
            encodable = user.isascii() and password.isascii() and ":" not in user
            rule = "be ASCII, without a colon in the user"
        if not encodable:
            raise TunnelError(Reason.AUTH, f"user and password must {rule}", fatal=True)

    def _connector(self) -> AsyncConnector:
        user, password = self._credentials()
        kind = ProxyType.SOCKS5 if self._options.is_socks else ProxyType.HTTP
        resolver = Resolver(asyncio.get_running_loop())
        return create_connector(kind, user, password, rdns=True, resolver=resolver)

    def _reason(self, error: ReplyError) -> Reason:
        if self._options.is_socks:
            if error.error_code is None:
                return Reason.AUTH if any(word in str(error) for word in _AUTH_ERROR_WORDS) else Reason.PROTOCOL
            return _SOCKS_REASONS.get(socks5.ReplyCode(error.error_code), Reason.CHANNEL_FAILED)
        if error.error_code in _HTTP_AUTH_ERRORS:
            return Reason.AUTH
        if error.error_code is None:
            return Reason.PROTOCOL
        return _HTTP_REASONS.get(error.error_code, Reason.CHANNEL_FAILED)

    async def probe(self) -> None:
        """Connect to the proxy, and log in if it is a SOCKS5 proxy, where the login precedes the target.

        Raises:
            TunnelError: The proxy cannot be used.
        """
        try:
            async with asyncio.timeout(self._options.connect_timeout), self._connect_to_proxy() as (stream, _):
                if self._options.is_socks:
                    await self._log_in(stream)
                await stream.close()
        except TimeoutError as error:
            raise TunnelError(Reason.TIMEOUT, f"{self._options.endpoint}: the proxy does not answer") from error
        except ReplyError as error:
            reason = self._reason(error)
            raise TunnelError(reason, f"the proxy refuses the login: {error}", fatal=reason is Reason.AUTH) from error
        except (IncompleteReadError, OSError) as error:
            raise TunnelError(Reason.RESET, f"{self._options.endpoint}: {error}") from error
        except ValueError as error:
            raise TunnelError(Reason.PROTOCOL, f"{self._options.endpoint}: {error}") from error

    async def _log_in(self, stream: PlainStream | TlsStream) -> None:
        """Negotiate the authentication method of SOCKS5, and log in (RFC 1928, section 3; RFC 1929)."""
        user, password = self._credentials()
        protocol = socks5.Connection()
        await stream.write(protocol.send(socks5.AuthMethodsRequest(username=user, password=password)))
        reply = protocol.receive(await stream.read_exactly(socks5.AuthMethodReply.SIZE))
        if getattr(reply, "method", None) == socks5.AuthMethod.USERNAME_PASSWORD:
            await stream.write(protocol.send(socks5.AuthRequest(username=user or "", password=password or "")))
            protocol.receive(await stream.read_exactly(socks5.AuthReply.SIZE))

    async def monitor(self) -> None:
        """Probe the proxy periodically until a probe fails; then report the link as lost."""
        while not self._lost.done():
            await asyncio.sleep(self._options.interval)
            try:
                await self.probe()
            except ReachError as error:
                self._mark_lost(error.detail)

    def _mark_lost(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)

    async def lost(self) -> str:
        """See `gateway.contracts.Link`. Open connections continue, because they may work despite a failed probe."""
        return await asyncio.shield(self._lost)

    def status(self) -> ProxyStatus:
        """Return what the link reports about itself. The round-trip time is not measured."""
        return ProxyStatus(encrypted=self._options.tls)


def _upload_continues(relay: SocketRelay) -> bool:
    """Return whether the upload of an ended relay must still be delivered, because the client ended it cleanly."""
    return relay.upload_complete and relay.ended.result() in (CloseReason.FINISHED, CloseReason.CLIENT_RESET)
