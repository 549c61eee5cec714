"""Generates a configuration file for OpenVPN that contains only the safe directives of the operator's file.

OpenVPN never reads the operator's file. The gateway parses each directive (`openvpn_config_parser.py`), checks the
directive (`openvpn_directive_policy.py`), and writes it to the generated file. The generated file contains inline
blocks (`openvpn_inline_blocks.py`) instead of references to files. OpenVPN and the gateway parse the generated file
in the same way.

This module does no I/O. A callback reads the files to which directives refer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import GatewayError
from gateway.vpn.openvpn_config_parser import (
    OpenVpnDirective,
    connection_directives,
    located,
    parse_directives,
    printable_name,
    to_lines,
)
from gateway.vpn.openvpn_directive_allowlist import FILE_DIRECTIVES, SECRET_DIRECTIVES
from gateway.vpn.openvpn_directive_policy import REPORTED, check_allowed, is_ignored, is_known
from gateway.vpn.openvpn_inline_blocks import decode_file, normalize_block

_LOGIN = "auth-user-pass"
_MAX_FILES = 32
_PROXIES = {"http-proxy", "socks-proxy"}


@dataclass(frozen=True)
class SanitizedOpenVpnFile:
    """The configuration file that the gateway generates for OpenVPN. It contains only directives that are allowed.

    Args:
        directives: The directives of the file. Blocks replace references to files.
        layer: The type of the device: `tun` or `tap`.
        has_secrets: Whether the operator's file contains private keys or passwords.
        secret_files: Paths of files with private keys or passwords, as they are written in the operator's file.
        uses_proxy: Whether OpenVPN connects through an HTTP or SOCKS proxy.
        requires_login: Whether the server requires a login, and the file does not contain the user name and password.
        ignored: Names of the removed directives whose effect the operator might expect, in the order of the file.
    """

    directives: tuple[OpenVpnDirective, ...]
    layer: str
    has_secrets: bool
    secret_files: tuple[str, ...]
    uses_proxy: bool
    requires_login: bool
    ignored: tuple[str, ...]

    @property
    def text(self) -> str:
        """The content of the generated file."""
        return "".join(f"{line}\n" for each in self.directives for line in to_lines(each))

    def source_line(self, number: int) -> int:
        """Return the line of the operator's file from which a line of `text` was generated; 0 if there is none.

        Args:
            number: Line number in `text`, starting at 1.
        """
        for each in self.directives:
            number -= len(to_lines(each))
            if number <= 0:
                return each.line
        return 0

    def with_login_query(self) -> "SanitizedOpenVpnFile":
        """Return a copy of this file that makes OpenVPN request the login over the management interface."""
        others = tuple(each for each in self.directives if each.name != _LOGIN)
        return replace(self, directives=(*others, OpenVpnDirective(0, _LOGIN)), requires_login=True)


def _refuse_files(name: str) -> bytes:
    raise GatewayError(f"{name} is not read: put the content of this file into an inline block, such as <ca>…</ca>")


def parse_client_file(text: str, read_file: Callable[[str], bytes] = _refuse_files) -> SanitizedOpenVpnFile:
    """Parse the operator's configuration file, and generate the file for OpenVPN.

    Args:
        text: The content of the operator's file.
        read_file: Receives the path in a directive, and returns the content of that file. Raises `GatewayError` if
            the file cannot be read.

    Raises:
        GatewayError: The file contains a directive or a value that is not allowed. The message contains the line
            number.
    """
    sanitizer = _FileSanitizer(read_file)
    for each in parse_directives(text):
        with located(each.line):
            sanitizer.add(each)
    return sanitizer.result()


class _FileSanitizer:
    """Builds a `SanitizedOpenVpnFile`. The caller adds the directives of the operator's file in their order."""

    def __init__(self, read_file: Callable[[str], bytes]) -> None:
        self._read_file = read_file
        self._directives: list[OpenVpnDirective] = []
        self._ignored: list[str] = []
        self._file_count = 0
        self._secret_files: list[str] = []
        self._optional: set[str] = set()
        """Names in `ignore-unknown-option`. OpenVPN ignores directives with these names if it does not know them."""
        self._device = self._device_type = ""
        self._requires_login = self._uses_proxy = self._has_secrets = False

    def add(self, directive: OpenVpnDirective) -> None:
        """Check the next directive of the operator's file, and add the directives that replace it.

        Raises:
            GatewayError: The directive is not allowed.
        """
        if not self._ignore(directive):
            check_allowed(directive)
            self._uses_proxy |= directive.name in _PROXIES
            for each in self._convert(directive):
                to_lines(each)  # raises an error if quoting makes the line too long
                self._directives.append(each)

    def _ignore(self, directive: OpenVpnDirective) -> bool:
        """Return whether to omit a directive. Also store its values if `result` or `add` needs them."""
        name, values = directive.name, directive.values
        if directive.block is not None:
            return False
        if name in self._optional and not is_known(name):
            self._ignored.append(printable_name(name))
            return True
        if name == "ignore-unknown-option":
            self._optional |= {value.removeprefix("--") for value in values}
        elif name == "dev":
            self._device = "".join(values)
        elif name == "dev-type":
            self._device_type = "".join(values)
        elif name in REPORTED:
            self._ignored.append(name)
        return is_ignored(directive)

    def _convert(self, directive: OpenVpnDirective) -> list[OpenVpnDirective]:
        name, values = directive.name, directive.values
        if name == "connection":
            return [self._convert_connection(directive)]
        if name == _LOGIN:
            self._requires_login = directive.block is None and not values
        if directive.block is not None:
            self._has_secrets |= name in SECRET_DIRECTIVES
            return [replace(directive, block=normalize_block(name, "\n".join(directive.block)))]
        if name not in FILE_DIRECTIVES or not values:
            return [directive]
        # The 1 in `tls-auth FILE 1` is the key direction. The block that replaces FILE cannot contain the key
        # direction, so write the directive `key-direction 1`.
        direction = [OpenVpnDirective(directive.line, "key-direction", values[1:])] if values[1:] else []
        return direction if values[0] == "[inline]" else [*direction, self._inline_file(directive)]

    def _inline_file(self, directive: OpenVpnDirective) -> OpenVpnDirective:
        """Return a block with the content of the file to which a directive refers."""
        name, path = directive.name, directive.values[0]
        self._file_count += 1
        if self._file_count > _MAX_FILES:
            raise GatewayError(f"the file contains more than {_MAX_FILES} references to files: remove some of them")
        self._secret_files += [path] if name in SECRET_DIRECTIVES else []
        try:
            block = normalize_block(name, decode_file(name, self._read_file(path)))
        except GatewayError as error:
            raise GatewayError(f"{name}: {error}") from None
        return OpenVpnDirective(directive.line, name, block=block)

    def _convert_connection(self, block: OpenVpnDirective) -> OpenVpnDirective:
        lines: list[str] = []
        names: list[str] = []
        for each in connection_directives(block):
            with located(each.line):
                if not is_ignored(each):
                    check_allowed(each, connection=True)
                    lines += to_lines(each)
                    names.append(each.name)
        if names.count("remote") != 1:
            raise GatewayError("<connection> must contain exactly one remote: correct or remove the block")
        self._uses_proxy |= not _PROXIES.isdisjoint(names)
        return replace(block, block=tuple(lines))

    def result(self) -> SanitizedOpenVpnFile:
        """Return the generated file. Call this method after the last call of `add`."""
        return SanitizedOpenVpnFile(
            directives=tuple(self._directives),
            layer="tap" if (self._device_type or self._device).startswith("tap") else "tun",
            has_secrets=self._has_secrets,
            secret_files=tuple(self._secret_files),
            uses_proxy=self._uses_proxy,
            requires_login=self._requires_login,
            ignored=tuple(self._ignored),
        )
