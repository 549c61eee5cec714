"""An OpenVPN client's configuration file: what of it is safe, written again. Pure but for the files that it names.

Nothing of the file itself reaches OpenVPN. Each directive is found (`openvpn_syntax.py`), checked
(`openvpn_directives.py`) and written in a form that has one reading; the content of blocks and of named files is
taken apart and written in blocks (`openvpn_blocks.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import GatewayError
from gateway.vpn.openvpn_blocks import content, packed
from gateway.vpn.openvpn_directives import REPORTED, check, is_known, is_left_out
from gateway.vpn.openvpn_grammar import FILES, PRIVATE
from gateway.vpn.openvpn_syntax import Directive, at, directives, shown, within, written

_LOGIN = "auth-user-pass"
_MOST_FILES = 32
_PROXIES = {"http-proxy", "socks-proxy"}


@dataclass(frozen=True)
class ClientFile:
    """A file as it is given to OpenVPN.

    Args:
        kept: What of it stays, with files in blocks.
        layer: `tun` or `tap`.
        private: Whether keys or passwords stand in it.
        private_files: Files with such, as they are named.
        proxied: Whether it goes through a proxy of its own.
        asks_login: Whether it wants a user and a password that it does not hold.
        left_out: The directives that were taken out and do something, in their order.
    """

    kept: tuple[Directive, ...]
    layer: str
    private: bool
    private_files: tuple[str, ...]
    proxied: bool
    asks_login: bool
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """What OpenVPN reads."""
        return "".join(f"{line}\n" for each in self.kept for line in written(each))

    def line(self, number: int) -> int:
        """Where in the operator's file stands what is in this line of `text`."""
        for each in self.kept:
            number -= len(written(each))
            if number <= 0:
                return each.line
        return 0

    def asking(self) -> "ClientFile":
        """The same, but it asks for the login, whatever it says of that."""
        others = tuple(each for each in self.kept if each.name != _LOGIN)
        return replace(self, kept=(*others, Directive(0, _LOGIN)), asks_login=True)


def _no_files(name: str) -> bytes:
    raise GatewayError(f"{name} cannot be read here: put its content into a block")


def read(text: str, named: Callable[[str], bytes] = _no_files) -> ClientFile:
    """Read a client's file.

    Args:
        text: The file.
        named: Gives the content of a file that it names, or raises a GatewayError.

    Raises:
        GatewayError: It holds what cannot be; with the line.
    """
    reader = _Reader(named)
    for each in directives(text):
        with at(each.line):
            reader.take(each)
    return reader.file()


class _Reader:
    """Takes directives one by one."""

    def __init__(self, named: Callable[[str], bytes]) -> None:
        self._named = named
        self._kept: list[Directive] = []
        self._left_out: list[str] = []
        self._files = 0
        self._private_files: list[str] = []
        self._may_be_unknown: set[str] = set()
        self._device = self._device_type = ""
        self._asks_login = self._proxied = self._private = False

    def take(self, each: Directive) -> None:
        """Take the next one."""
        if not self._leaves_out(each):
            check(each)
            self._proxied |= each.name in _PROXIES
            for kept in self._as_kept(each):
                written(kept)  # which is an error where quotes make it too long
                self._kept.append(kept)

    def _leaves_out(self, each: Directive) -> bool:
        name, values = each.name, each.values
        if each.block is not None:
            return False
        if name in self._may_be_unknown and not is_known(name):
            self._left_out.append(shown(name))
            return True
        if name == "ignore-unknown-option":
            self._may_be_unknown |= {value.removeprefix("--") for value in values}
        elif name == "dev":
            self._device = "".join(values)
        elif name == "dev-type":
            self._device_type = "".join(values)
        elif name in REPORTED:
            self._left_out.append(name)
        return is_left_out(each)

    def _as_kept(self, each: Directive) -> list[Directive]:
        name, values = each.name, each.values
        if name == "connection":
            return [self._connection(each)]
        if name == _LOGIN:
            self._asks_login = each.block is None and not values
        if each.block is not None:
            self._private |= name in PRIVATE
            return [replace(each, block=content(name, "\n".join(each.block)))]
        if name not in FILES or not values:
            return [each]
        # As OpenVPN reads `tls-auth FILE 1`, and as it read `tls-auth [inline] 1` before 2.5.
        kept = [Directive(each.line, "key-direction", values[1:])] if values[1:] else []
        return kept if values[0] == "[inline]" else [*kept, self._from_file(each)]

    def _from_file(self, each: Directive) -> Directive:
        name, path = each.name, each.values[0]
        self._files += 1
        if self._files > _MOST_FILES:
            raise GatewayError(f"names more than {_MOST_FILES} files: remove those that another directive replaces")
        self._private_files += [path] if name in PRIVATE else []
        try:
            return Directive(each.line, name, block=content(name, packed(name, self._named(path))))
        except GatewayError as error:
            raise GatewayError(f"{name}: {error}") from None

    def _connection(self, block: Directive) -> Directive:
        lines: list[str] = []
        names: list[str] = []
        for each in within(block):
            with at(each.line):
                if not is_left_out(each):
                    check(each, connection=True)
                    lines += written(each)
                    names.append(each.name)
        if names.count("remote") != 1:
            raise GatewayError("<connection> needs one remote: add it, or remove the block")
        self._proxied |= not _PROXIES.isdisjoint(names)
        return replace(block, block=tuple(lines))

    def file(self) -> ClientFile:
        """What was taken."""
        return ClientFile(
            kept=tuple(self._kept),
            layer="tap" if (self._device_type or self._device).startswith("tap") else "tun",
            private=self._private,
            private_files=tuple(self._private_files),
            proxied=self._proxied,
            asks_login=self._asks_login,
            left_out=tuple(self._left_out),
        )
