"""Implements two MySQL authentication plugins that can send the password, for `RestrictedMysqlConnection`."""

from typing import Any, Protocol

from pymysql import _auth

from gateway.errors import FailureReason, UnusableTargetError

_FAST_AUTH_SUCCESS, _FULL_AUTHENTICATION = b"\x01\x03", b"\x01\x04"
"""The payloads of two AuthMoreData packets: fast_auth_success and perform_full_authentication."""
CACHING_SHA2, SHA256 = "caching_sha2_password", "sha256_password"


class PasswordSender(Protocol):
    """The part of `RestrictedMysqlConnection` that the plugins use."""

    def send_password(self, plugin: str) -> Any:
        """Send the password if the plugin is permitted, and return the response."""


class CachingSha2PasswordPlugin:
    """The authentication plugin `caching_sha2_password`, for `auth_plugin_map` of `pymysql.connect`.

    This class replaces PyMySQL's implementation of the plugin. With that implementation, a server could request a
    second change of the plugin, which `RestrictedMysqlConnection.check_plugin` would not check.
    """

    def __init__(self, login: PasswordSender) -> None:
        self._login = login

    def authenticate(self, packet: Any) -> Any:
        """Respond to a packet of the plugin, and return the last packet of the login.

        Args:
            packet: An AuthSwitchRequest or AuthMoreData packet.

        Raises:
            UnusableTargetError: The packet is invalid, or the server is not verified.
        """
        login: Any = self._login
        if packet.is_auth_switch_request():
            login.salt = packet.read_all().removesuffix(b"\0")
            packet = login.exchange(_auth.scramble_caching_sha2(login.password, login.salt))
        if packet.is_ok_packet():
            return packet
        data = packet.get_all_data()
        if data == _FAST_AUTH_SUCCESS:
            return login._read_packet()  # noqa: SLF001 - the OK packet
        if data == _FULL_AUTHENTICATION:
            return self._login.send_password(CACHING_SHA2)
        raise UnusableTargetError(FailureReason.PROTOCOL, f"the server sent an invalid packet during {CACHING_SHA2}")


class Sha256PasswordPlugin:
    """The authentication plugin `sha256_password`, for `auth_plugin_map` of `pymysql.connect`.

    This class replaces PyMySQL's implementation, which encrypts the password with a key from an unverified server.
    """

    def __init__(self, login: PasswordSender) -> None:
        self._login = login

    def authenticate(self, packet: Any) -> Any:
        """Respond to an AuthSwitchRequest packet, and return the last packet of the login.

        Args:
            packet: The packet.

        Raises:
            UnusableTargetError: The packet is of another type, or the server is not verified.
        """
        if not packet.is_auth_switch_request():
            raise UnusableTargetError(FailureReason.PROTOCOL, "the server sent an unrequested public key")
        login: Any = self._login
        login.salt = packet.read_all().removesuffix(b"\0")
        return self._login.send_password(SHA256)
