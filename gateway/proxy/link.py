"""A proxy as a link: each connection is asked for anew, over a socket of the outer link."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from math import inf

from python_socks import ProxyType
from python_socks._connectors.abc import AsyncConnector
from python_socks._connectors.factory_async import create_connector
from python_socks._errors import IncompleteReadError
from python_socks._protocols import socks5
from python_socks._protocols.errors import ReplyError
from python_socks.async_.asyncio._resolver import Resolver

from gateway.contracts import Ending, Endpoint, Link, Phases, Relay, Stream
from gateway.errors import DialError, LinkLostError, ReachError, Reason, TunnelError
from gateway.measure import Histogram, Tap
from gateway.proxy.options import ProxyOptions
from gateway.proxy.streams import PlainStream, TlsStream
from gateway.proxy.tls import TlsSocket
from gateway.proxy.tls_bridge import Splice
from gateway.relay.attempts import persist
from gateway.relay.straight import StraightRelay
from gateway.tls_client import client_context

_HTTP_LOGIN = (401, 407)
_SOCKS_REASONS = {
    socks5.ReplyCode.CONNECTION_NOT_ALLOWED: Reason.CHANNEL_PROHIBITED,
    socks5.ReplyCode.HOST_UNREACHABLE: Reason.REFUSED,
    socks5.ReplyCode.NETWORK_UNREACHABLE: Reason.REFUSED,
    socks5.ReplyCode.CONNECTION_REFUSED: Reason.REFUSED,
    socks5.ReplyCode.TTL_EXPIRED: Reason.TIMEOUT,
}
_HTTP_REASONS = {403: Reason.CHANNEL_PROHIBITED, 405: Reason.CHANNEL_PROHIBITED, 504: Reason.TIMEOUT}
_MOST_SOCKS = 255
_LOGIN_WORDS = ("authentication", "acceptable")
"""In python-socks' messages about SOCKS5, which carry no code."""


class ProxyLink:
    """See `gateway.contracts.Link`.

    Args:
        options: What the configuration says.
        via: How the proxy is reached.
    """

    dial_phase = "channel"

    def __init__(self, options: ProxyOptions, via: Link) -> None:
        self._options = options
        self._via = via
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.leads_to = f"{via.leads_to} > {options.url}"

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phase `channel`."""
        timed = phases or Phases()
        with timed("channel"):
            sock, _ = await persist(
                lambda within: self._dial(to, within, short=True), timed.given_up, self._options.dial_timeout
            )
        return sock

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """See `gateway.contracts.Link`."""
        sock, splice = await self._dial(to, min(self._options.dial_timeout, within), short=False)
        relay = StraightRelay(client, sock, latency, tap)
        if splice is not None:
            splice.on_lost = relay.lose_upload
            splice.ended_well = lambda: relay.upload_ended
            relay.ended.add_done_callback(lambda _: None if _delivers(relay) else splice.break_off())
        return relay

    async def _dial(
        self,
        to: Endpoint,
        timeout: float,  # noqa: ASYNC109
        *,
        short: bool,
    ) -> tuple[Stream, Splice | None]:
        try:
            async with asyncio.timeout(timeout), self._reached() as (stream, sock):
                await self._connector().connect(stream, to.host, to.port)
                if not isinstance(stream, TlsStream):
                    return sock, None
                splice = Splice(stream.tls, short=short)
                return splice.sock, splice
        except TimeoutError as error:
            raise DialError(Reason.TIMEOUT, f"{to}: the proxy did not answer within {timeout:.3g} s") from error
        except ReplyError as error:
            raise DialError(self._reason(error), f"{to}: the proxy says: {error}") from error
        except ValueError as error:
            if to.host.isascii():
                raise DialError(Reason.PROTOCOL, f"{to}: the proxy's answer makes no sense: {error}") from error
            raise DialError(Reason.DNS, f"{to.host}: no host name: {error}") from error
        except (IncompleteReadError, OSError) as error:
            raise DialError(Reason.RESET, f"{to}: the proxy broke off: {error}") from error
        except TunnelError as error:
            self._lose(error.detail)
            raise LinkLostError(error.detail) from error

    @contextlib.asynccontextmanager
    async def _reached(self) -> AsyncIterator[tuple[PlainStream | TlsStream, Stream]]:
        """A connection to the proxy, closed again when the block fails.

        Raises:
            TunnelError: The proxy cannot be reached.
        """
        options = self._options
        try:
            async with asyncio.timeout(options.connect_timeout):
                sock = await self._via.socket(options.endpoint)
                stream = await self._wrapped(sock)
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

    async def _wrapped(self, sock: Stream) -> PlainStream | TlsStream:
        options = self._options
        if not options.tls:
            return PlainStream(sock)
        try:
            context = client_context(options.ca_file)
            # In the middle of a renegotiation an SSLObject takes nothing to send.
            context.options |= ssl.OP_NO_RENEGOTIATION
            tls = TlsSocket(sock, context, options.endpoint.host)
            await tls.handshake()
            return TlsStream(sock, tls)
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
                detail = "the password's file names no user: set user, or write user:password"
                raise TunnelError(Reason.AUTH, detail, fatal=True)
        self._can_be_said(user, password)
        return user, password

    def _can_be_said(self, user: str, password: str) -> None:
        """Whether the protocol has a place for them (RFC 1929: 255 bytes; RFC 7617: no colon in a user)."""
        if self._options.speaks_socks:
            fits = all(each.isascii() and 0 < len(each) <= _MOST_SOCKS for each in (user, password))
            limits = f"have 1 to {_MOST_SOCKS} characters of ASCII"
        else:
            fits, limits = (
                user.isascii() and password.isascii() and ":" not in user,
                "be ASCII, without : in the user",
            )
        if not fits:
            raise TunnelError(Reason.AUTH, f"user and password must {limits}", fatal=True)

    def _connector(self) -> AsyncConnector:
        user, password = self._credentials()
        kind = ProxyType.SOCKS5 if self._options.speaks_socks else ProxyType.HTTP
        resolver = Resolver(asyncio.get_running_loop())
        return create_connector(kind, user, password, rdns=True, resolver=resolver)

    def _reason(self, error: ReplyError) -> Reason:
        if self._options.speaks_socks:
            if error.error_code is None:
                return Reason.AUTH if any(word in str(error) for word in _LOGIN_WORDS) else Reason.PROTOCOL
            return _SOCKS_REASONS.get(socks5.ReplyCode(error.error_code), Reason.CHANNEL_FAILED)
        if error.error_code in _HTTP_LOGIN:
            return Reason.AUTH
        if error.error_code is None:
            return Reason.PROTOCOL
        return _HTTP_REASONS.get(error.error_code, Reason.CHANNEL_FAILED)

    async def look(self) -> None:
        """Reach the proxy once, and log in where it asks before it is told a target.

        Raises:
            TunnelError: It cannot be used.
        """
        try:
            async with asyncio.timeout(self._options.connect_timeout), self._reached() as (stream, _):
                if self._options.speaks_socks:
                    await self._greet(stream)
                await stream.close()
        except TimeoutError as error:
            raise TunnelError(Reason.TIMEOUT, f"{self._options.endpoint}: the proxy says nothing") from error
        except ReplyError as error:
            reason = self._reason(error)
            raise TunnelError(reason, f"the proxy says: {error}", fatal=reason is Reason.AUTH) from error
        except (IncompleteReadError, OSError) as error:
            raise TunnelError(Reason.RESET, f"{self._options.endpoint}: {error}") from error
        except ValueError as error:
            raise TunnelError(Reason.PROTOCOL, f"{self._options.endpoint}: {error}") from error

    async def _greet(self, stream: PlainStream | TlsStream) -> None:
        user, password = self._credentials()
        talk = socks5.Connection()
        await stream.write(talk.send(socks5.AuthMethodsRequest(username=user, password=password)))
        reply = talk.receive(await stream.read_exactly(socks5.AuthMethodReply.SIZE))
        if getattr(reply, "method", None) == socks5.AuthMethod.USERNAME_PASSWORD:
            await stream.write(talk.send(socks5.AuthRequest(username=user or "", password=password or "")))
            talk.receive(await stream.read_exactly(socks5.AuthReply.SIZE))

    async def watch(self) -> None:
        """Look again and again until the proxy is gone; `lost` tells."""
        while not self._lost.done():
            await asyncio.sleep(self._options.interval)
            try:
                await self.look()
            except ReachError as error:
                self._lose(error.detail)

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)

    async def lost(self) -> str:
        """See `gateway.contracts.Link`; what is open goes on, since nothing says that the proxy ends it."""
        return await asyncio.shield(self._lost)

    def renew(self) -> None:
        """The password is read at each use."""

    def rtt(self) -> float | None:
        """Not measured."""
        return None

    def details(self) -> dict[str, object]:
        """See `gateway.contracts.Link`."""
        return {"encrypted": self._options.tls}


def _delivers(relay: StraightRelay) -> bool:
    """Whether a relay that has ended leaves an upload to be delivered: the client sent its end, then perhaps left."""
    return relay.upload_ended and relay.ended.result() in (Ending.FINISHED, Ending.CLIENT_RESET)
