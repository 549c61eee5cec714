"""Tests how the gateway rewrites OpenVPN client files, including files from untrusted sources."""

import base64
import contextlib
import os
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, TunnelError
from gateway.vpn import openvpn_config_sanitizer
from gateway.vpn.openvpn_config_parser import split_words
from gateway.vpn.openvpn_file_loader import load_client_file, named_files
from gateway.vpn.options import OpenVpnOptions


def pem(label: str, size: int = 100) -> str:
    text = base64.b64encode(bytes(range(48, 48 + size))).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"])


CERTIFICATE, KEY = pem("CERTIFICATE"), pem("PRIVATE KEY")
STATIC = "\n".join(
    ["-----BEGIN OpenVPN Static key V1-----", *["0123456789abcdef" * 2] * 16, "-----END OpenVPN Static key V1-----"]
)
EVIL = "plugin /tmp/evil.so"


# Tests of directives with which the author of a file could attack the gateway's host.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Each of the following files makes OpenVPN run code as root, or send a private file to the server.
        (f"client\n--setenv opt {EVIL}\n", "line 2: setenv opt before a directive is not allowed"),
        (f"client\nsetenv opt <foo>\n{EVIL}\n</foo>\n<//foo>\n", "line 2: setenv opt before a directive"),
        (f"<extra-certs>\n{'A' * 255}</extra-certs>\n{EVIL}\n</extra-certs>\n", "line 2: has more than 254 bytes"),
        ("client\nauth-user-pass /any/private/file\n", "line 2: auth-user-pass: /any/private/file"),
        # The following files contain similar directives.
        (EVIL, "line 1: plugin loads code into the client: remove this directive"),
        (f"--{EVIL}", "line 1: plugin loads code"),
        (f'"plugin"{EVIL}', "line 1: plugin loads code"),
        (f"\ufeff{EVIL}", "line 1: plugin loads code"),
        (f"'--plugin' {EVIL}", "line 1: plugin loads code"),
        (f"ignore-unknown-option plugin\n{EVIL}", "line 2: plugin loads code"),
        (f"--<ca>\n</ca>\n{EVIL}\n", "line 1: contains no CERTIFICATE"),
        (f"\\# no comment\n{EVIL}\n", "line 1: has a .* that OpenVPN rejects"),
        (f"# a comment \\\n{EVIL}", "line 2: plugin loads code"),
        (f"client\x00\n{EVIL}\n", "line 1: contains a control character"),
        (f"client\x0b{EVIL}\n", "line 1: contains a control character"),
        (f"verify-x509-name '\n' {EVIL}\n", "line 1: ' is not closed"),
        (f"client\r{EVIL}", "line 1: contains a control character"),
        (f"cipher\xa0{EVIL}", "line 1: contains a character that is not printable"),
        (f"<connection>\nremote a 1\n{EVIL}\n</connection>", "line 3: plugin loads code"),
        ("<connection>\nremote a 1\n<ca>\n</ca>\n</connection>", "line 3: <ca> is not allowed"),
        ("<connection>\nremote a 1\nca x\n</connection>", "line 3: ca is not allowed"),
        ("<connection>\nfloat\n</connection>", "line 1: <connection> must contain exactly one remote"),
        (f"</ca>\n{EVIL}\n<//ca>", "line 1: closes a block that is not open"),
        ("<foo>\n</foo>", "line 1: <foo> is not allowed in an OpenVPN client file: remove it"),
        ("<ca>\nclient", "line 1: <ca> is not closed: add the line </ca>"),
        ("tls-verify /x", "line 1: tls-verify verifies the server with a script; use verify-x509-name"),
        ("config more.ovpn", "line 1: config includes another file"),
        ("iproute /tmp/evil", "line 1: iproute runs a program"),
        ("ca /etc/passwd", "line 1: ca: /etc/passwd"),
        ("askpass /etc/passwd", "line 1: askpass reads a file; set key_password_file"),
        ("tls-export-cert /x", "line 1: tls-export-cert writes files"),
        ("http-proxy 192.0.2.1 80 /etc/passwd basic", "line 1: http-proxy is not of the form"),
        ("socks-proxy 192.0.2.1 80 /etc/passwd", "line 1: socks-proxy is not of the form"),
        ("mode server", "line 1: mode is for servers"),
        ("setenv LD_PRELOAD /tmp/evil.so", "line 1: setenv is not of the form `setenv VARIABLE"),
        ("setenv ifconfig_local 192.0.2.1", "line 1: setenv is not of the form"),
        # The following directives weaken the encryption.
        ("cipher none", "line 1: cipher is not of the form `cipher CIPHER` .AES in GCM or CBC mode"),
        ("data-ciphers AES-256-GCM:BF-CBC", "line 1: data-ciphers is not"),
        ("auth none", "line 1: auth is not"),
        ("auth MD5", "line 1: auth is not"),
        ("tls-version-min 1.0", "line 1: tls-version-min is not .* .versions before TLS 1.2 are broken"),
        ("tls-cipher DEFAULT:@SECLEVEL=0", "line 1: tls-cipher is not"),
        ("tls-cipher TLS-ECDH-ANON-WITH-AES-128-CBC-SHA", "line 1: tls-cipher is not"),
        ("tls-cert-profile insecure", "line 1: tls-cert-profile is not"),
        ("comp-lzo", "line 1: comp-lzo is not of the form `comp-lzo no` .compression leaks"),
        ("compress lz4-v2", "line 1: compress is not"),
        ("allow-compression yes", "line 1: allow-compression is not"),
        ("no-replay", "line 1: no-replay disables a protection"),
        ("compat-mode 2.3.0", "line 1: compat-mode disables"),
        ("secret static.key", "line 1: secret is a static key without forward secrecy"),
        ("remote-cert-tls client", "line 1: remote-cert-tls is not"),
        # The following lines are invalid, or OpenVPN parses them in an unexpected way.
        (f"remote {' '.join('x' * 16)}", "line 1: has more than 16 words"),
        ("remote a 65536", "line 1: remote is not of the form `remote HOST .PORT. .PROTOCOL.`"),
        ("remote a 1 tcp-server", "line 1: remote is not"),
        ("remote a,b 1", "line 1: remote is not"),
        ("verb 3\nping \u0663", "line 2: ping is not"),
        ("ciphre AES-256-GCM", "line 1: ciphre is not allowed in an OpenVPN client file: c"),
        ('""', "line 1: does not begin with a directive"),
        ("verify-x509-name 'open", "line 1: ' is not closed"),
    ],
)  # fmt: skip
def test_unsafe_directives_are_refused(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=f"^{words}"):
        openvpn_config_sanitizer.parse_client_file(text)


@pytest.mark.parametrize(
    "text", ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "0123456789abcdef" * 2, "hunter2", "correct_horse"]
)
def test_a_key_or_a_password_in_the_wrong_place_is_not_shown(text: str) -> None:
    blocks = (f"<{name}>\n{text}\n</{name}>" for name in ("key", "tls-auth", "auth-user-pass", text))
    for file in (*blocks, text, f"{text} {text}", f"ping {text}", f"setenv X {text}", f"<{text}>"):
        with pytest.raises(GatewayError) as caught:
            openvpn_config_sanitizer.parse_client_file(file)
        assert text not in str(caught.value)


@given(st.text(string.printable + "\x00\xa0\u2028é"))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    refusal = ""
    try:
        file = openvpn_config_sanitizer.parse_client_file(text)
    except GatewayError as error:
        refusal = str(error)
    assert (
        re.match(r"line [1-9]\d*: .", refusal)
        or openvpn_config_sanitizer.parse_client_file(file.text).text == file.text
    )


# Tests of the directives that the gateway keeps.


NYR = """client
dev tun
proto udp
remote 203.0.113.5 1194
resolv-retry infinite
nobind
persist-key
persist-tun
remote-cert-tls server
auth SHA512
ignore-unknown-option block-outside-dns
verb 3
"""
ACCESS_SERVER = """# OVPN_ACCESS_SERVER_PROFILE=user@vpn.example.com
setenv FORWARD_COMPATIBLE 1
client
server-poll-timeout 4
nobind
remote vpn.example.com 1194 udp
remote vpn.example.com 443 tcp
dev tun
dev-type tun
remote-cert-tls server
tls-version-min 1.2 or-highest
reneg-sec 604800
sndbuf 0
rcvbuf 0
auth-user-pass
comp-lzo no
verb 3
push-peer-info
setenv UV_ID a1b2
key-direction 1
## -----BEGIN RSA SIGNATURE-----
## DIGEST:sha256
"""
COMMERCIAL = """client
dev tun
proto udp
remote nl.example.net 1194
resolv-retry infinite
remote-random
nobind
tun-mtu 1500
tun-mtu-extra 32
mssfix 1450
persist-key
persist-tun
ping 15
ping-restart 0
ping-timer-rem
reneg-sec 0
remote-cert-tls server
auth-user-pass
verb 3
pull
fast-io
cipher AES-256-CBC
auth SHA512
data-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-256-CBC
data-ciphers-fallback AES-256-CBC
tls-cipher TLS-DHE-RSA-WITH-AES-256-GCM-SHA384:TLS-DHE-RSA-WITH-AES-256-CBC-SHA
tls-ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
verify-x509-name CN=nl.example.net
mute-replay-warnings
explicit-exit-notify 2
script-security 2
up /etc/openvpn/update-resolv-conf
down /etc/openvpn/update-resolv-conf
pull-filter ignore "route-ipv6"
redirect-gateway def1 ipv6
dhcp-option DNS 10.2.0.1
route 10.9.0.0 255.255.0.0 vpn_gateway
block-outside-dns
"""


@pytest.mark.parametrize(("text", "ignored"), [(NYR, ()), (ACCESS_SERVER, ()), (COMMERCIAL, ("up", "down"))])
def test_files_of_common_servers_are_preserved(text: str, ignored: tuple[str, ...]) -> None:
    contents = {"ca": CERTIFICATE, "cert": CERTIFICATE, "key": KEY, "tls-auth": STATIC}
    blocks = "".join(f"<{name}>\n{content}\n</{name}>\n" for name, content in contents.items())
    ours = re.compile(
        r"#|(dev|dev-type|resolv-retry|persist-\w+|ignore-unknown-option|verb|server-poll-timeout|script-security|up|down"
        r"|block-outside-dns|setenv FORWARD_COMPATIBLE)\b"
    )
    file = openvpn_config_sanitizer.parse_client_file(text + blocks)
    kept = "".join(line for line in text.splitlines(keepends=True) if not ours.match(line))
    assert file.text == kept.replace('"', "") + blocks
    assert file.ignored == ignored
    assert file.has_secrets


def test_windows_line_ends_comments_and_quotes_are_normalized() -> None:
    text = (
        f"\ufeff--client\r\n  remote 'a'\t\"1\" ; tcp\r\n<ca> # it's\r\nText: x\r\n{CERTIFICATE}  \r\n </ca> here\r\n"
    )
    file = openvpn_config_sanitizer.parse_client_file(text.replace("\r\n", "\n").replace("\n", "\r\n"))
    assert file.text == f"client\nremote a 1\n<ca>\n{CERTIFICATE}\n</ca>\n"


def test_values_are_quoted_if_necessary() -> None:
    file = openvpn_config_sanitizer.parse_client_file("""verify-x509-name 'C=KG, O="a\\b" #1' subject""")
    assert file.text == r'verify-x509-name "C=KG, O=\"a\\b\" #1" subject' + "\n"


def test_a_line_that_becomes_too_long_is_refused() -> None:
    with pytest.raises(GatewayError, match="line 1: has more than 254 bytes"):
        openvpn_config_sanitizer.parse_client_file(f"verify-x509-name '{chr(92) * 130}'")


def test_line_numbers_of_openvpn_map_to_those_of_the_file() -> None:
    text = f"# x\nclient\nverb 3\n<ca>\n{CERTIFICATE}\n</ca>\n\nnobind\n"
    file = openvpn_config_sanitizer.parse_client_file(text)
    lines, original = file.text.splitlines(), text.splitlines()
    for number, line in enumerate(lines, 1):
        if line in ("client", "<ca>", "nobind"):
            assert original[file.source_line(number) - 1] == line


def test_blocks_are_written_from_their_content() -> None:
    encrypted = pem("RSA PRIVATE KEY").replace(
        "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00FF\n\n", 1
    )
    text = f"""<ca>
Certificate:
    Data: up /x
{CERTIFICATE}
{KEY}
{CERTIFICATE}
</ca>
<key>
{pem("EC PARAMETERS")}
{encrypted}
{KEY}
</key>
<pkcs12>
{base64.b64encode(b"0" * 100).decode()}
</pkcs12>
<peer-fingerprint>
# old
{":".join(["0a"] * 32)}
</peer-fingerprint>
<auth-user-pass>
me
pass word
</auth-user-pass>
<connection>
 remote a 1 tcp # first
 log /x
 connect-retry 9
</connection>
"""
    file = openvpn_config_sanitizer.parse_client_file(text)
    twelve = base64.b64encode(b"0" * 100).decode()
    assert file.text == (
        f"<ca>\n{CERTIFICATE}\n{CERTIFICATE}\n</ca>\n<key>\n{encrypted}\n</key>\n"
        f"<pkcs12>\n{twelve[:64]}\n{twelve[64:128]}\n{twelve[128:]}\n</pkcs12>\n"
        f"<peer-fingerprint>\n{':'.join(['0a'] * 32)}\n</peer-fingerprint>\n"
        "<auth-user-pass>\nme\npass word\n</auth-user-pass>\n<connection>\nremote a 1 tcp\n</connection>\n"
    )
    assert not file.requires_login
    assert file.with_login_query().text.endswith("</connection>\nauth-user-pass\n")
    assert "pass word" not in file.with_login_query().text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ca", KEY, "contains no CERTIFICATE"),
        ("ca", CERTIFICATE.replace("-----END CERTIFICATE-----", ""), "contains an incomplete CERTIFICATE"),
        ("ca", CERTIFICATE.replace("\n", "\nup/x\n", 1), "contains no CERTIFICATE"),
        ("key", CERTIFICATE, "contains no PRIVATE KEY"),
        ("key", pem("OPENSSH PRIVATE KEY"), "contains no PRIVATE KEY"),
        ("tls-auth", STATIC.replace("0", "x", 1), "must contain a static key"),
        ("tls-crypt", STATIC.replace("0123456789abcdef\n", "\n", 1), "must contain a static key"),
        ("tls-crypt-v2", STATIC, "contains no OpenVPN tls-crypt-v2 client key"),
        ("pkcs12", "up/x", "contains no PKCS #12"),
        ("auth-user-pass", "me", "must have two lines"),
        ("auth-user-pass", f"me\n{'x' * 128}", "must have two lines"),
        ("auth-user-pass", "root:x:0\nme:x:1\nyou:x:2", "must have two lines"),
        ("auth-user-pass", "me\n</connection>", "has a line that starts with <"),
        ("peer-fingerprint", "up /x", "must have one fingerprint per line"),
    ],
)  # fmt: skip
def test_a_block_with_unexpected_content_is_refused(name: str, content: str, words: str) -> None:
    with pytest.raises(GatewayError, match=f"line 1: {words}"):
        openvpn_config_sanitizer.parse_client_file(f"<{name}>\n{content}\n</{name}>\n")


def test_the_file_shows_whether_it_needs_a_login_and_its_device_type() -> None:
    assert openvpn_config_sanitizer.parse_client_file("auth-user-pass\n").requires_login
    assert not openvpn_config_sanitizer.parse_client_file(
        "auth-user-pass\n<auth-user-pass>\na\nb\n</auth-user-pass>"
    ).requires_login
    for text, layer in (
        ("dev tap0", "tap"),
        ("dev x\ndev-type tap", "tap"),
        ("dev-type tun\ndev tap", "tun"),
        ("", "tun"),
    ):
        assert openvpn_config_sanitizer.parse_client_file(text).layer == layer
    assert openvpn_config_sanitizer.parse_client_file(
        "<connection>\nremote a 1\nsocks-proxy b\n</connection>"
    ).uses_proxy
    assert not openvpn_config_sanitizer.parse_client_file("remote a").uses_proxy


def test_a_directive_that_may_be_unknown_is_left_out_and_reported() -> None:
    text = "ignore-unknown-option --some-new-thing other\nsome-new-thing 1\nother\nclient\n"
    file = openvpn_config_sanitizer.parse_client_file(text)
    assert (file.text, file.ignored) == ("client\n", ("some-new-thing", "other"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("setenv FRIENDLY_NAME O'Brien", ["setenv", "FRIENDLY_NAME", "O'Brien"]),
        ('setenv X "a b" c', ["setenv", "X", "a b", "c"]),
        (r'cert "C:\\x\\y.crt"', ["cert", r"C:\x\y.crt"]),
        (r"push a\ b", ["push", "a b"]),
        ("remote a 1 # it's", ["remote", "a", "1"]),
        ("; all of it", []),
        ("pass 'a\\b'x", ["pass", "a\\b", "x"]),
        ("a#b", ["a#b"]),
        (r"\"a \\b", ['"a', r"\b"]),
    ],
)
def test_words_are_split_as_by_openvpn(line: str, words: list[str]) -> None:
    assert split_words(line) == words


# Tests of files to which an OpenVPN file refers.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "vpn"
    inside.mkdir()
    (tmp_path / "outside.pem").write_text(CERTIFICATE)
    (tmp_path / "login").write_text("me\nsecret\n")
    return inside


def from_disk(folder: Path, text: str | bytes) -> openvpn_config_sanitizer.SanitizedOpenVpnFile:
    config = folder / "office.ovpn"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    config.chmod(0o600)
    return load_client_file(OpenVpnOptions(config=config))


def test_files_of_its_folder_become_blocks(folder: Path) -> None:
    (folder / "ca.crt").write_text(CERTIFICATE.replace("\n", "\r\n"))
    (folder / "client.p12").write_bytes(b"0" + bytes(range(256)))
    (folder / "deeper").mkdir()
    for name, content in (("ta.key", STATIC), ("login.txt", "me\nsecret\n")):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    (folder / "deeper" / "link").symlink_to("../ta.key")
    (folder / "client.p12").chmod(0o600)
    text = f"ca {folder}/deeper/../ca.crt\npkcs12 client.p12\nauth-user-pass login.txt\ntls-auth deeper/link 1\n"
    file = from_disk(folder, text + "tls-auth [inline] 0\n")
    twelve = base64.b64encode(b"0" + bytes(range(256))).decode()
    assert file.text.startswith(f"<ca>\n{CERTIFICATE}\n</ca>\n<pkcs12>\n{twelve[:64]}\n")
    assert file.text.endswith(
        "</pkcs12>\n<auth-user-pass>\nme\nsecret\n</auth-user-pass>\n"
        f"key-direction 1\n<tls-auth>\n{STATIC}\n</tls-auth>\nkey-direction 0\n"
    )
    assert file.secret_files == ("client.p12", "login.txt", "deeper/link")
    (folder / "ta.key").chmod(0o644)
    with pytest.raises(TunnelError, match="readable by others"):
        from_disk(folder, text)


KEY_BLOCK = f"<tls-crypt>\n{STATIC}\n</tls-crypt>\n"


@pytest.mark.parametrize("text", [KEY_BLOCK, "tls-crypt ta.key\n"], ids=["in a block", "in a file"])
def test_a_readable_key_is_refused_even_if_the_file_is_swapped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The gateway checks the permissions of the file that it has read, not of a file that replaces it."""
    config, key = folder / "office.ovpn", folder / "ta.key"
    config.write_text(text)
    key.write_text(STATIC)
    open_to_all = config if text == KEY_BLOCK else key
    for path in (config, key):
        path.chmod(0o644 if path == open_to_all else 0o600)
    planted = folder.parent / "planted"
    planted.write_text("")
    planted.chmod(0o600)
    swapped: list[Path] = []

    def swapping(*args: Any) -> openvpn_config_sanitizer.SanitizedOpenVpnFile:
        made = openvpn_config_sanitizer.parse_client_file(*args)
        swapped.append(planted.replace(open_to_all))
        return made

    monkeypatch.setattr("gateway.vpn.openvpn_file_loader.parse_client_file", swapping)
    with pytest.raises(TunnelError, match=f"{open_to_all}: the private key is readable by others"):
        load_client_file(OpenVpnOptions(config=config))
    assert swapped


def test_a_symbolic_link_swapped_during_the_open_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway checks the location of the file after the open. An earlier check would not notice the link."""
    (folder / "login").write_text("me\nsecret\n")
    (folder / "login").chmod(0o600)
    real_open = os.open

    def swapping(path: Any, *args: Any, **more: Any) -> int:
        if Path(path).name == "login":
            (folder / "link").symlink_to("../login")
            (folder / "link").replace(folder / "login")
        return real_open(path, *args, **more)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(TunnelError, match=f"login is not in {folder}"):
        from_disk(folder, "auth-user-pass login\n")


def test_referenced_files_are_watched_even_if_unusable(folder: Path) -> None:
    config = folder / "office.ovpn"
    config.write_text("ca ca.crt\ncert /none/client.crt\ntls-auth [inline] 1\nauth-user-pass\nkey deeper/key\n<ca>\n")
    options = OpenVpnOptions(config=config)
    assert named_files(options) == {folder / "ca.crt", Path("/none/client.crt"), folder / "deeper/key"}
    config.unlink()
    assert named_files(options) == set()


@pytest.mark.parametrize(
    "name",
    ["../login", "/etc/shadow", "../vpn/../login", "link", "deep/link", "loop", "folder", "fifo", "huge", "none"],
)
def test_other_files_are_not_read(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("../login")
    (folder / "deep").symlink_to("folder")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "folder" / "link").symlink_to(folder.parent / "login")
    os.mkfifo(folder / "fifo")
    with (folder / "huge").open("wb") as huge:
        huge.truncate(2 << 20)
    with pytest.raises(TunnelError, match=r"office.ovpn: line 2: auth-user-pass: ") as caught:
        from_disk(folder, f"client\nauth-user-pass {name}\n")
    assert caught.value.fatal


def test_a_file_of_another_name_in_the_same_folder_is_not_a_login(folder: Path) -> None:
    """An attacker's OpenVPN file must not send other secrets in the folder to the attacker's server."""
    (folder / "database_password").write_text("secret\n")
    with pytest.raises(TunnelError, match="line 1: auth-user-pass: must have two lines") as caught:
        from_disk(folder, "auth-user-pass database_password\n")
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"client\nremote \xff 1\n", "line 2 is not UTF-8"),
        (b"client\nsetenv UV_X \x80\x81", "line 2 is not UTF-8"),
        (b"client\nremote a\x001\n", "line 2: contains a control character"),
        (b"#\n" * (1 << 17) + b"\n", "not a regular file of at most 256 KiB"),
        (b"#" * 300 + b"\n", "line 1: has more than 254 bytes"),
    ],
)
def test_a_binary_file_is_refused(folder: Path, data: bytes, words: str) -> None:
    with pytest.raises(TunnelError, match=f"office.ovpn.*{words}"):
        from_disk(folder, data)


def test_recursive_files_are_refused(folder: Path) -> None:
    (folder / "ca.crt").write_text(CERTIFICATE)
    from_disk(folder, "ca ca.crt\n" * 32)
    with pytest.raises(TunnelError, match="line 33: the file contains more than 32 references to files"):
        from_disk(folder, "ca ca.crt\n" * 40)


def test_a_mounted_secret_may_be_a_symbolic_link(folder: Path) -> None:
    """Kubernetes mounts the files of a secret as symbolic links."""
    version = folder / "..2026"
    version.mkdir()
    for name, content in (("office.ovpn", "ca ca.crt\n"), ("ca.crt", CERTIFICATE)):
        (version / name).write_text(content)
        (folder / name).symlink_to(Path("..data", name))
    (folder / "..data").symlink_to("..2026")
    for text in ("ca ca.crt\n", f"ca {folder}/ca.crt\n"):
        (version / "office.ovpn").write_text(text)
        assert load_client_file(OpenVpnOptions(config=folder / "office.ovpn")).text == f"<ca>\n{CERTIFICATE}\n</ca>\n"


@given(
    st.lists(
        st.sampled_from(
            [*"<>/-\\\"' #;\n", "ca", "client", "connection", "remote a", "plugin x", "--", "setenv opt "]
        ),
        max_size=30,
    )
)
def test_fragments_are_refused_or_parse_to_the_same_result(parts: list[str]) -> None:
    with contextlib.suppress(GatewayError):
        text = openvpn_config_sanitizer.parse_client_file("".join(parts)).text
        assert openvpn_config_sanitizer.parse_client_file(text).text == text
        assert not re.search(r"plugin|opt", text)
