"""Logs in to MySQL and MariaDB. Sends no password to an unverified server, and limits the received data.

A server chooses the authentication plugin, and PyMySQL accepts the choice. With some plugins, PyMySQL sends the
password in plaintext. With others, PyMySQL encrypts the password with a public key that it receives from the server.
The server can be an attacker. `RestrictedMysqlConnection` sends the password only over verified TLS, or encrypted
with the server's public key from the configuration (MySQL Reference Manual, "Caching SHA-2 Pluggable Authentication";
MariaDB documentation, "Authentication Plugins").
"""

import contextlib
import ssl
import time
from typing import Any, NoReturn

import pymysql
from pymysql import _auth
from pymysql.cursors import DictCursor
from pymysql.protocol import MysqlPacket

from gateway.backend_support.mysql_authentication_plugins import (
    CACHING_SHA2,
    SHA256,
    CachingSha2PasswordPlugin,
    Sha256PasswordPlugin,
)
from gateway.backend_support.phase_recording_ssl_context import PhaseRecordingSslContext
from gateway.contracts.certificate import ValidityPeriod
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError

MAX_BYTES = 1 << 20
"""Maximum number of bytes to accept from a server for one login and its queries. A normal check receives less than 16
KiB."""
MAX_PACKETS = 512
"""Maximum number of packets to accept from a server for one login and its queries. `MAX_BYTES` alone does not limit
the memory, because an empty row has few bytes in its packet, but uses much memory in Python."""

_NATIVE, _ED25519 = "mysql_native_password", "client_ed25519"
_CHALLENGE_RESPONSE = (_NATIVE, CACHING_SHA2, _ED25519)
"""Plugins that send a response computed from the password, instead of the password. Exception:
`caching_sha2_password` sends the password if the server requests full authentication."""
_WITH_PUBLIC_KEY = (CACHING_SHA2, SHA256)
"""Plugins that encrypt the password with the server's public key if the connection does not use TLS."""
_CLEAR = "mysql_clear_password"
_PLAINTEXT = (_CLEAR, "dialog")
_EMPTY_PASSWORD = b"\0"
_ED25519_SIGNATURE_SIZE = 64


class RestrictedMysqlConnection(pymysql.connections.Connection):
    """A PyMySQL connection that restricts authentication plugins, limits received data, and measures login phases.

    The class overrides five private methods of PyMySQL 1.2.

    Args:
        phases: Receives the duration of each phase.
        verified: Whether TLS verifies the server.
        server_public_key: The server's public RSA key in PEM, for connections without TLS.
        arguments: The arguments of `pymysql.connect`.
    """

    def __init__(
        self, phases: PhaseTimer, *, verified: bool, server_public_key: bytes | None, **arguments: Any
    ) -> None:
        plugins: dict[str, Any] = {CACHING_SHA2: CachingSha2PasswordPlugin, SHA256: Sha256PasswordPlugin}
        self.login_started_at: float | None = None
        """Monotonic time at which the authentication began; None until it is complete. The server resets its count of
        aborted handshakes at this time or later. If the connection closes before the authentication is complete, the
        server counts an aborted handshake."""
        self.is_aborted = False
        """Whether the connection failed during the handshake, so that the server counts an aborted handshake."""
        self.certificate: ValidityPeriod | None = None
        """The validity period of the server's certificate; None if the server has presented no certificate."""
        self._phases = phases
        self._verified = verified
        self._has_public_key = server_public_key is not None
        self._bytes_left, self._packets_left = MAX_BYTES, MAX_PACKETS
        super().__init__(
            cursorclass=DictCursor,
            server_public_key=server_public_key,
            auth_plugin_map=plugins,
            **arguments,
        )

    def record_failure(self) -> None:
        """Record that the connection failed without an error packet from the server, for example during TLS.

        If the server has sent its greeting, and the login is not complete, the server counts an aborted handshake.
        """
        self.is_aborted = hasattr(self, "server_version") and self.login_started_at is None

    def exchange(self, data: bytes) -> MysqlPacket:
        """Send a packet, and return the response.

        Args:
            data: The payload of the packet.

        Raises:
            MySQLError: The response is an error packet, or the connection failed.
        """
        self.write_packet(data)
        return self._read_packet()

    def check_plugin(self, plugin: str, *, transmits_password: bool = True) -> None:
        """End the login with an error, unless the plugin is permitted.

        Args:
            plugin: The authentication plugin that the server requests.
            transmits_password: Whether the next packet would contain the password.

        Raises:
            UnusableTargetError: The plugin is not supported, or the next packet would send the password to an
                unverified server.
        """
        verified = self._verified and self._secure  # type: ignore[attr-defined]
        if not transmits_password or (verified and plugin in (*_WITH_PUBLIC_KEY, *_PLAINTEXT)):
            return
        if self._has_public_key and plugin in _WITH_PUBLIC_KEY:
            return
        if plugin not in (*_WITH_PUBLIC_KEY, *_PLAINTEXT):
            self.refuse(
                f"the server requests the plugin {plugin}, which is not supported", "change the user's plugin"
            )
        cached = " for the first login after a server start or a password change" if plugin == CACHING_SHA2 else ""
        remedy = "set check.tls.mode: verify"
        if plugin in _WITH_PUBLIC_KEY and not self.ssl:
            remedy += ", or check.server_public_key_file"
        self.refuse(
            f"the server is not verified, but its plugin {plugin} requests the password{cached}",
            remedy,
        )

    def send_password(self, plugin: str) -> MysqlPacket:
        """Send the password if the plugin is permitted, and return the response.

        No other method of this class sends the password. Exception: for the plugin `dialog`, PyMySQL's
        `_process_auth` sends it. Without TLS, this method encrypts the password with the configured public key. Over
        TLS, the connection encrypts it.

        Args:
            plugin: The authentication plugin that the server requests.

        Raises:
            UnusableTargetError: The server is not verified.
            MySQLError: The server refuses the password, or the connection failed.
        """
        self.check_plugin(plugin)
        login: Any = self
        if not self.password or login._secure:  # noqa: SLF001
            return self.exchange(self.password + b"\0" if self.password else b"")
        return self.exchange(_auth.sha2_rsa_encrypt(self.password, login.salt, login.server_public_key))

    def refuse(self, why: str, remedy: str = "", response: bytes = _EMPTY_PASSWORD) -> NoReturn:
        """Send a response that makes the login fail, and raise an error.

        Without a response, the server would count the connection as an aborted handshake.

        Args:
            why: The error message.
            remedy: The remedy; empty if there is none.
            response: A well-formed response of the plugin, without the password.

        Raises:
            UnusableTargetError: Always.
        """
        error = UnusableTargetError(FailureReason.AUTH, why, remedy)
        # Store the error as a hint for the timeout message: some servers delay their error packet, and the check can
        # time out before the packet arrives.
        self._phases.timeout_hint = error.detail
        with contextlib.suppress(pymysql.err.MySQLError):  # the server rejects a login without the password
            self.exchange(response)
        raise error

    def _get_server_information(self) -> None:
        with self._phases("greeting"):
            super()._get_server_information()  # type: ignore[misc]
        # The greeting names the server's default plugin. With some plugins, such as sha256_password, PyMySQL would
        # send the password immediately. Therefore, start with another plugin, so that the server requests a switch to
        # the user's plugin.
        login: Any = self
        if login._auth_plugin_name not in ("", _NATIVE, CACHING_SHA2):  # noqa: SLF001
            login._auth_plugin_name = _NATIVE  # noqa: SLF001

    def _request_authentication(self) -> None:
        context: ssl.SSLContext | None = getattr(self, "ctx", None)
        tls = PhaseRecordingSslContext(context, self._phases) if self.ssl and context is not None else None
        if tls is not None:
            self.ctx = tls
        started_at, started = time.monotonic(), time.perf_counter()
        self._phases.unfinished = "auth"
        try:
            super()._request_authentication()  # type: ignore[misc]
        finally:
            handshake = tls.seconds if tls is not None else 0.0
            if tls is not None:
                self.certificate = tls.certificate
            if self._phases.unfinished == "auth":
                self._phases.add("auth", time.perf_counter() - started - handshake)
        self._phases.unfinished = ""
        self.login_started_at = started_at

    def _process_auth(self, plugin_name: bytes, auth_packet: MysqlPacket, handler: Any = None) -> MysqlPacket:
        plugin = plugin_name.decode("ascii")
        self.check_plugin(plugin, transmits_password=plugin not in _CHALLENGE_RESPONSE)
        if plugin == _CLEAR:
            return self.send_password(plugin)
        try:
            response: MysqlPacket = super()._process_auth(plugin_name, auth_packet, handler)  # type: ignore[misc]
        except RuntimeError:  # PyMySQL raises this error if PyNaCl is not installed
            self.refuse(
                f"the server requests the plugin {plugin}, which needs PyNaCl",
                "pip install 'gateway[ed25519]'",
                bytes(_ED25519_SIGNATURE_SIZE),
            )
        return response

    def _read_packet(self, *arguments: Any) -> MysqlPacket:
        self._packets_left -= 1
        if self._packets_left < 0:
            self._abort(f"more than {MAX_PACKETS} packets")
        packet: MysqlPacket = super()._read_packet(*arguments)  # type: ignore[no-untyped-call]
        return packet

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._bytes_left -= num_bytes
        if self._bytes_left < 0:
            self._abort(f"more than {MAX_BYTES >> 10} KiB")
        data: bytes = super()._read_bytes(num_bytes)  # type: ignore[misc]
        return data

    def _abort(self, what: str) -> NoReturn:
        self._force_close()  # type: ignore[attr-defined]
        raise UnusableTargetError(FailureReason.PROTOCOL, f"the server sent {what} during one check")
