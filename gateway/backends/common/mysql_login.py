"""A login to MySQL or MariaDB that gives no password to a server that is not verified, and reads a bounded answer.

PyMySQL does whatever plugin the server names: it sends the password in the clear to one, and encrypted for a key that
the server has just sent to another. Here a plugin that hands over the password needs verified TLS, or the server's
own key (MySQL Reference Manual, "Caching SHA-2 Pluggable Authentication"; MariaDB, "Authentication Plugins").
"""

import contextlib
import ssl
import time
from typing import Any, NoReturn

import pymysql
from pymysql import _auth
from pymysql.cursors import DictCursor
from pymysql.protocol import MysqlPacket

from gateway.certificates import der_validity
from gateway.contracts import Phases, Validity
from gateway.errors import ProbeError, Reason

MOST_BYTES = 1 << 20
"""Of all that a server sends in one login and its queries; a usual check reads less than 16 KiB."""
MOST_PACKETS = 512
"""As many packets: an empty row costs far more memory than it has bytes."""

_NATIVE, _CACHING, _SHA256, _ED25519 = (
    "mysql_native_password", "caching_sha2_password", "sha256_password", "client_ed25519",
)  # fmt: skip
_PROOFS = (_NATIVE, _CACHING, _ED25519)
"""Challenge-response: the password itself is not sent; by `caching_sha2_password` until the server asks for more."""
_WITH_KEY = (_CACHING, _SHA256)
"""They encrypt the password with the server's public key, where the connection has no TLS."""
_CLEAR = "mysql_clear_password"
_IN_CLEAR = (_CLEAR, "dialog")
_FAST, _FULL = b"\x01\x03", b"\x01\x04"
"""AuthMoreData: fast_auth_success, perform_full_authentication."""
_NO_PASSWORD = b"\0"
_SIGNATURE = 64


class MysqlLogin(pymysql.connections.Connection):
    """PyMySQL's connection, with phases timed, answers bounded, and a say in which plugins are used.

    The five methods with an underscore that it has in common with PyMySQL are those of PyMySQL 1.2.

    Args:
        phases: Where to count.
        verified: Whether TLS verifies who the server is.
        server_public_key: The server's RSA key in PEM, for connections without TLS.
        arguments: PyMySQL's own.
    """

    def __init__(self, phases: Phases, *, verified: bool, server_public_key: bytes | None, **arguments: Any) -> None:
        plugins: dict[str, Any] = {_CACHING: _CachingSha2, _SHA256: _Sha256}
        self.logged_in = False
        """Whether the handshake is over: a connection that breaks off before, the server counts."""
        self.certificate: Validity | None = None
        """How long the server's certificate is valid, where it has shown one."""
        self._phases = phases
        self._verified = verified
        self._pinned = server_public_key is not None
        self._bytes, self._packets = MOST_BYTES, MOST_PACKETS
        super().__init__(
            cursorclass=DictCursor,
            server_public_key=server_public_key,
            auth_plugin_map=plugins,
            **arguments,
        )

    def ask(self, data: bytes) -> MysqlPacket:
        """Send a packet, and give the answer.

        Raises:
            MySQLError: It is an error, or none comes.
        """
        self.write_packet(data)
        return self._read_packet()

    def permit(self, plugin: str, *, proof: bool = False) -> None:
        """Go on with `plugin`, or end the login.

        Args:
            plugin: What the server asks for.
            proof: Whether the password itself stays here.

        Raises:
            ProbeError: It would send the password to a server that is not verified, or is unknown.
        """
        verified = self._verified and self._secure  # type: ignore[attr-defined]
        if proof or (verified and plugin in (*_WITH_KEY, *_IN_CLEAR)) or (self._pinned and plugin in _WITH_KEY):
            return
        if plugin not in (*_WITH_KEY, *_IN_CLEAR):
            self.decline(f"the server asks for {plugin}, which is not supported: give the user another plugin")
        cached = ", as it does until the user has logged in once since it started" if plugin == _CACHING else ""
        remedy = "set check.tls.mode: verify"
        if plugin in _WITH_KEY and not self.ssl:
            remedy += ", or check.server_public_key_file"
        self.decline(f"the server asks for the password itself ({plugin}{cached}), and is not verified: {remedy}")

    def hand_over(self, plugin: str) -> MysqlPacket:
        """Send the password itself, where that is permitted, and give the answer; the only place that does.

        Over TLS it is in the clear, and otherwise encrypted with the server's key that is pinned.

        Args:
            plugin: What the server asks for.

        Raises:
            ProbeError: The server is not verified.
            MySQLError: It refuses the password, or does not answer.
        """
        self.permit(plugin)
        login: Any = self
        if not self.password or login._secure:  # noqa: SLF001
            return self.ask(self.password + b"\0" if self.password else b"")
        return self.ask(_auth.sha2_rsa_encrypt(self.password, login.salt, login.server_public_key))

    def decline(self, why: str, answer: bytes = _NO_PASSWORD) -> NoReturn:
        """End the login with a wrong answer: a handshake that breaks off would count against our address.

        Args:
            why: What to say of it.
            answer: What the plugin takes for an answer, without a password.

        Raises:
            ProbeError: Always.
        """
        self._phases.timeout_hint = why  # a server may take its time before it refuses
        with contextlib.suppress(pymysql.err.MySQLError):  # which it is meant to be
            self.ask(answer)
        raise ProbeError(Reason.AUTH, why)

    def _get_server_information(self) -> None:
        with self._phases("greeting"):
            super()._get_server_information()  # type: ignore[misc]
        # The greeting names the server's default; a user with another plugin is asked to switch. PyMySQL would send
        # the password at once where it is sha256_password.
        login: Any = self
        if login._auth_plugin_name not in ("", _NATIVE, _CACHING):  # noqa: SLF001
            login._auth_plugin_name = _NATIVE  # noqa: SLF001

    def _request_authentication(self) -> None:
        context: ssl.SSLContext | None = getattr(self, "ctx", None)
        tls = _TimedContext(context) if self.ssl and context is not None else None
        if tls is not None:
            self.ctx = tls
        started = time.perf_counter()
        try:
            super()._request_authentication()  # type: ignore[misc]
        finally:
            handshake = tls.seconds if tls is not None else 0.0
            if tls is not None:
                self.certificate = tls.certificate
                self._phases.add("tls", handshake)
            self._phases.add("auth", time.perf_counter() - started - handshake)
        self.logged_in = True

    def _process_auth(self, plugin_name: bytes, auth_packet: MysqlPacket, handler: Any = None) -> MysqlPacket:
        plugin = plugin_name.decode("ascii")
        self.permit(plugin, proof=plugin in _PROOFS)
        if plugin == _CLEAR:
            return self.hand_over(plugin)
        try:
            answer: MysqlPacket = super()._process_auth(plugin_name, auth_packet, handler)  # type: ignore[misc]
        except RuntimeError:  # PyMySQL's, where PyNaCl is missing
            self.decline(
                f"the server asks for {plugin}, for which PyNaCl is not installed: pip install 'gateway[ed25519]'",
                bytes(_SIGNATURE),
            )
        return answer

    def _read_packet(self, *arguments: Any) -> MysqlPacket:
        self._packets -= 1
        if self._packets < 0:
            self._overflow(f"more than {MOST_PACKETS} packets")
        packet: MysqlPacket = super()._read_packet(*arguments)  # type: ignore[no-untyped-call]
        return packet

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._bytes -= num_bytes
        if self._bytes < 0:
            self._overflow(f"more than {MOST_BYTES >> 10} KiB")
        data: bytes = super()._read_bytes(num_bytes)  # type: ignore[misc]
        return data

    def _overflow(self, what: str) -> NoReturn:
        self._force_close()  # type: ignore[attr-defined]
        raise ProbeError(Reason.PROTOCOL, f"the server sends {what} for one check")


class _CachingSha2:
    """See `pymysql.connect`, `auth_plugin_map`: the fast path, and where it is permitted the full one.

    PyMySQL's own would answer a second request to switch in its own round trip, whose answer nothing here sees.
    """

    def __init__(self, login: MysqlLogin) -> None:
        self._login = login

    def authenticate(self, packet: Any) -> Any:
        login: Any = self._login
        if packet.is_auth_switch_request():
            login.salt = packet.read_all().removesuffix(b"\0")
            packet = login.ask(_auth.scramble_caching_sha2(login.password, login.salt))
        if packet.is_ok_packet():
            return packet
        answer = packet.get_all_data()
        if answer == _FAST:
            return login._read_packet()  # noqa: SLF001 - the server accepts the proof
        if answer == _FULL:
            return self._login.hand_over(_CACHING)
        raise ProbeError(Reason.PROTOCOL, "the server answers the login's proof with what is no answer to it")


class _Sha256:
    """See `pymysql.connect`, `auth_plugin_map`: with verified TLS or a key that we have, and with no other."""

    def __init__(self, login: MysqlLogin) -> None:
        self._login = login

    def authenticate(self, packet: Any) -> Any:
        if not packet.is_auth_switch_request():
            raise ProbeError(Reason.PROTOCOL, "the server sends a public key, which was not asked for")
        login: Any = self._login
        login.salt = packet.read_all().removesuffix(b"\0")
        return self._login.hand_over(_SHA256)


class _TimedContext:
    """An SSL context as far as PyMySQL uses one, that times the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.seconds = 0.0
        self.certificate: Validity | None = None

    def wrap_socket(self, sock: Any, server_hostname: str) -> ssl.SSLSocket:
        started = time.perf_counter()
        try:
            made = self._context.wrap_socket(sock, server_hostname=server_hostname)
            self.certificate = der_validity(made.getpeercert(binary_form=True) or b"")
            return made
        finally:
            self.seconds = time.perf_counter() - started
