"""Lists the directives that are allowed in an OpenVPN file, and checks their values (openvpn(8), 2.6)."""

import re

from gateway.errors import GatewayError
from gateway.vpn.openvpn_config_parser import OpenVpnDirective, printable_name

FILE_DIRECTIVES = {
    "ca": "FILE", "cert": "FILE", "key": "FILE", "extra-certs": "FILE", "crl-verify": "FILE", "pkcs12": "FILE",
    "tls-auth": "FILE [0|1]", "tls-crypt": "FILE", "tls-crypt-v2": "FILE",
    "auth-user-pass": "[FILE]", "http-proxy-user-pass": "FILE",
}  # fmt: skip
"""Directives whose value is the path of a file. A block with the same name can contain the file's content instead."""
BLOCK_DIRECTIVES = {*FILE_DIRECTIVES, "peer-fingerprint", "verify-hash", "connection"}
SECRET_DIRECTIVES = {
    "key", "pkcs12", "tls-auth", "tls-crypt", "tls-crypt-v2", "auth-user-pass", "http-proxy-user-pass",
}  # fmt: skip
"""Directives whose content is a private key or a password."""

_CONNECTION_DIRECTIVES = {
    "remote": "HOST [PORT] [PROTOCOL]", "proto": "PROTOCOL", "port": "PORT", "rport": "PORT", "lport": "NUMBER",
    "local": "HOST", "bind": "[ipv6only]", "nobind": "", "float": "", "explicit-exit-notify": "[NUMBER]",
    "http-proxy": "HOST PORT [auto|auto-nct]", "socks-proxy": "HOST [PORT]",
    "http-proxy-option": "VERSION|AGENT|EXT1|EXT2|CUSTOM-HEADER TEXT [TEXT]",
    "tun-mtu": "NUMBER [NUMBER]", "tun-mtu-max": "NUMBER", "tun-mtu-extra": "NUMBER",
    "link-mtu": "NUMBER", "udp-mtu": "NUMBER", "max-packet-size": "NUMBER", "mssfix": "[NUMBER] [mtu|fixed]",
    "fragment": "NUMBER [mtu]", "mtu-disc": "no|maybe|yes", "key-direction": "0|1",
}  # fmt: skip
"""Directives that are also allowed in a `<connection>` block."""
_ALLOWED = FILE_DIRECTIVES | _CONNECTION_DIRECTIVES | {
    # The following directives enable the client mode, and select and verify the server.
    "client": "", "tls-client": "", "pull": "", "push-peer-info": "", "tls-exit": "",
    "remote-random": "", "remote-random-hostname": "", "proto-force": "PROTOCOL",
    "remote-cert-tls": "server", "ns-cert-type": "server", "remote-cert-ku": "[TEXT]…", "remote-cert-eku": "TEXT",
    "verify-x509-name": "TEXT [subject|name|name-prefix]", "verify-hash": "TEXT [SHA1|SHA256]",
    "peer-fingerprint": "TEXT",
    # The following directives control encryption and compression.
    "cipher": "CIPHER", "data-ciphers-fallback": "CIPHER", "data-ciphers": "CIPHERS", "ncp-ciphers": "CIPHERS",
    "auth": "DIGEST", "tls-cipher": "SUITES", "tls-ciphersuites": "SUITES", "tls-groups": "NAMES",
    "ecdh-curve": "NAMES", "tls-version-min": "1.2|1.3 [or-highest]", "tls-version-max": "1.2|1.3",
    "tls-cert-profile": "legacy|preferred|suiteb", "replay-window": "NUMBER [NUMBER]", "mute-replay-warnings": "",
    "compress": "[stub|stub-v2]", "comp-lzo": "no", "allow-compression": "no",
    # The following directives control timers, sizes and sockets.
    "reneg-sec": "NUMBER [NUMBER]", "reneg-bytes": "NUMBER", "reneg-pkts": "NUMBER", "hand-window": "NUMBER",
    "tran-window": "NUMBER", "tls-timeout": "NUMBER", "keepalive": "NUMBER NUMBER", "ping": "NUMBER",
    "ping-restart": "NUMBER", "ping-timer-rem": "", "inactive": "NUMBER [NUMBER]", "session-timeout": "NUMBER",
    "sndbuf": "NUMBER", "rcvbuf": "NUMBER", "socket-flags": "[TCP_NODELAY]", "tcp-nodelay": "", "fast-io": "",
    "txqueuelen": "NUMBER", "shaper": "NUMBER", "passtos": "", "persist-local-ip": "", "persist-remote-ip": "",
    "disable-occ": "",
    # The following directives set addresses, routes and DNS. OpenVPN reports the values to the gateway, which
    # configures the device.
    "ifconfig": "HOST HOST", "ifconfig-ipv6": "HOST HOST", "topology": "subnet|net30|p2p",
    "route": "HOST [HOST] [HOST] [HOST]", "route-ipv6": "HOST [HOST] [HOST]", "route-gateway": "HOST",
    "route-ipv6-gateway": "HOST", "route-metric": "NUMBER", "route-delay": "[NUMBER] [NUMBER]", "route-nopull": "",
    "redirect-gateway": "[FLAG]…", "redirect-private": "[FLAG]…", "block-ipv6": "", "dhcp-option": "TEXT [TEXT]",
    "dns": "TEXT TEXT [TEXT]…", "pull-filter": "accept|ignore|reject TEXT", "allow-pull-fqdn": "",
    "client-nat": "snat|dnat HOST HOST HOST", "allow-recursive-routing": "",
    "setenv": "VARIABLE [TEXT]",
}  # fmt: skip
_HOST = r"[A-Za-z0-9_.:/%-]+"
_AES = r"(?i:aes-(128|192|256)-(gcm|cbc)|chacha20-poly1305)"
_STRONG = r"(?![^:]*(NULL|ANON|EXP|RC4|DES|MD5))(TLS[-_](EC)?DHE|(EC)?DHE|TLS[-_](AES|CHACHA20))[-_][A-Z0-9_-]+"
_SUITE = rf"(![A-Z0-9][A-Z0-9_+-]*|DEFAULT|{_STRONG})"
_PATTERNS = {
    "HOST": _HOST, "TEXT": r".+", "FILE": r".+", "NUMBER": r"\d{1,9}", "FLAG": r"!?[a-z0-9-]+",
    "PORT": r"0{0,3}([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])",
    "PROTOCOL": r"udp[46]?|tcp[46]?(-client)?", "CIPHER": _AES, "CIPHERS": rf"\??{_AES}(:\??{_AES})*",
    "DIGEST": r"(?i:(rsa-)?sha(1|224|256|384|512|512-256|3-\d{3})|blake2[bs]\d{3}|ripemd160)",
    "SUITES": rf"{_SUITE}(:{_SUITE})*", "NAMES": r"[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)*",
    "VARIABLE": r"UV_[A-Za-z0-9_]+|PUSH_PEER_INFO|REMOTE_RANDOM_HOSTNAME",
}  # fmt: skip
"""For each placeholder in `_ALLOWED`, such as NUMBER, the regular expression that the value must match."""
IGNORED_VARIABLES = {"FORWARD_COMPATIBLE", "SERVER_POLL_TIMEOUT", "CLIENT_CERT", "FRIENDLY_NAME"}
"""Variables of `setenv` that the gateway ignores, because only other OpenVPN clients use them, or because the gateway
sets them."""
_CIPHER = "AES in GCM or CBC mode, or ChaCha20-Poly1305"
_EXPLANATIONS = {
    "compress": "compression leaks plaintext (VORACLE); only the stub modes are allowed",
    "comp-lzo": "compression leaks plaintext (VORACLE)",
    "allow-compression": "compression leaks plaintext (VORACLE)",
    "cipher": _CIPHER, "data-ciphers": _CIPHER, "ncp-ciphers": _CIPHER, "data-ciphers-fallback": _CIPHER,
    "auth": "one of SHA-1, SHA-2, SHA-3, BLAKE2 or RIPEMD-160",
    "tls-cipher": "weak cipher suites and @SECLEVEL are not allowed",
    "tls-version-min": "versions before TLS 1.2 are broken",
    "tls-cert-profile": "the profile `insecure` permits broken certificates",
    "http-proxy": "for a login, write `auto` after PORT, and add a block <http-proxy-user-pass>",
    "socks-proxy": "a login is not possible, because OpenVPN would read it from a file at each connection",
    "remote-cert-tls": "the peer of a client must be a server",
    "setenv": f"VARIABLE is UV_…, PUSH_PEER_INFO, REMOTE_RANDOM_HOSTNAME, {', '.join(sorted(IGNORED_VARIABLES))}",
}  # fmt: skip
"""Explanations of the allowed values of directives, for error messages."""


def is_allowed(name: str) -> bool:
    """Return whether a directive or a block with this name is allowed in an OpenVPN client file."""
    return name in _ALLOWED or name in BLOCK_DIRECTIVES


def check_values(directive: OpenVpnDirective, *, connection: bool) -> None:
    """Check that a directive and its values are allowed.

    Args:
        directive: A directive that is not a block.
        connection: Whether the directive is in a `<connection>` block.

    Raises:
        GatewayError: The directive or one of its values is not allowed. The message contains the reason.
    """
    name = directive.name
    syntax = (_CONNECTION_DIRECTIVES if connection else _ALLOWED).get(name)
    if syntax is None:
        where = "in a <connection> block" if connection else "in an OpenVPN client file"
        raise GatewayError(f"{printable_name(name)} is not allowed {where}: correct or remove it")
    if not _matches(directive.values, syntax):
        why = f" ({_EXPLANATIONS[name]})" if name in _EXPLANATIONS else ""
        raise GatewayError(f"{name} is not of the form `{f'{name} {syntax}'.strip()}`{why}: correct or remove it")


def _matches(values: tuple[str, ...], syntax: str) -> bool:
    """Return whether the values of a directive match a syntax such as `HOST [PORT]`.

    Args:
        values: The values.
        syntax: Placeholders and literal alternatives (`a|b`). Brackets mark optional values. If the last word ends
            with `…`, it can be repeated.
    """
    words = syntax.split()
    if words and words[-1].endswith("…"):
        words += words[-1:] * (len(values) - len(words))
    if len(values) > len(words):
        return False
    for number, word in enumerate(words):
        if number >= len(values):
            return word.startswith("[")
        if not re.fullmatch(_pattern(word.rstrip("…").strip("[]")), values[number], re.ASCII):
            return False
    return True


def _pattern(word: str) -> str:
    return _PATTERNS[word] if word in _PATTERNS else "|".join(map(re.escape, word.split("|")))
