"""Tests how OpenVPN reads the files that the gateway generates from OpenVPN client files (`.ovpn`).

OpenVPN must read the same settings from the generated file as from the original file. The generated file must not
make OpenVPN load plugins, run programs or read other files.
"""

import os
import re
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo.server_process import find
from gateway.errors import GatewayError
from gateway.vpn.openvpn_config_sanitizer import parse_client_file
from gateway.vpn.openvpn_directive_policy import is_known
from tests.support.certificates import Authority
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Parse = Callable[[str], list[str]]

_STATIC = "\n".join(
    ["-----BEGIN OpenVPN Static key V1-----", *["0f" * 16] * 16, "-----END OpenVPN Static key V1-----"]
)
_OURS = (
    "config =", "persist_tun", "persist_key", "verbosity", "dev =", "dev_type", "resolve_retry", "mute =", "nice =",
    "connect_retry_seconds", "connect_timeout",
)  # fmt: skip
"""Settings that the comparisons ignore, because the gateway does not take them from the client file."""
_UNSAFE = (
    "_file", "script", "plugin", "engine", "ipchange", "tls_verify", "chroot_dir", "cd_dir", "writepid", "username",
    "groupname", "ca_path", "tls_export", "pkcs11", "client_config_dir", "tmp_dir", "log =", "daemon", "management",
)  # fmt: skip
"""Parts of the names of settings that run code, or that read or write files."""


@pytest.fixture(scope="module")
def program() -> str:
    found = find("openvpn")
    need(found is not None, "openvpn (package openvpn)")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("parser") / "certificates")


@pytest.fixture(scope="module")
def parse(program: str, authority: Authority) -> Parse:
    """Return a function that runs OpenVPN with a client file, and returns the lines that OpenVPN prints."""

    def parse(text: str) -> list[str]:
        memory = os.memfd_create("config")
        os.write(memory, text.encode())
        before = ["--client", "--dev", "tun", "--ca", str(authority.ca), "--auth-user-pass", "--remote", "192.0.2.1"]
        # OpenVPN reads its options and loads plugins. It then exits, because the management socket does not exist.
        after = ["--verb", "4", "--suppress-timestamps", "--management", "/nonexistent/socket", "unix"]
        flags = ["--management-client", "--management-query-passwords"]
        try:
            done = subprocess.run(
                [program, *before, "--config", f"/dev/fd/{memory}", *after, *flags],
                pass_fds=[memory], env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            os.close(memory)
        lines = done.stdout.decode(errors="replace").splitlines()
        assert not [line for line in lines if "PLUGIN" in line], f"{lines}\n{text}"
        return lines

    return parse


def settings_of(lines: list[str]) -> list[str]:
    """Return the settings that OpenVPN printed, without `_OURS`. The list is empty if OpenVPN refused the file."""
    begin = lines.index("Current Parameter Settings:") if "Current Parameter Settings:" in lines else len(lines)
    found = [
        re.sub(r"/dev/fd/\d+", "FILE", line) for line in lines[begin:] if re.match(r"  |Connection profiles", line)
    ]
    return [line for line in found if not line.strip().startswith(_OURS)]


def check_harmless(got: list[str], plain: list[str]) -> None:
    """Check that each setting that runs code or accesses files is in `plain`, or refers to an inline block.

    `plain` contains the settings that OpenVPN prints for an empty client file.
    """
    for line in settings_of(got):
        if any(mark in line.partition("=")[0] + "=" for mark in _UNSAFE):
            assert line in plain or line.endswith("[INLINE]'"), line


def test_every_directive_of_openvpn_is_classified(program: str) -> None:
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20, check=False).stdout
    names = set(re.findall(r"^--([a-z0-9-]+)", usage, re.MULTILINE))
    assert len(names) > 200
    assert {name for name in names if not is_known(name)} == set()


@pytest.mark.parametrize(
    "text",
    [
        "--setenv opt plugin /nonexistent/evil.so",
        "setenv opt <foo>\nplugin /nonexistent/evil.so\n</foo>\n<//foo>",
        f"<extra-certs>\n{'A' * 255}</extra-certs>\nplugin /nonexistent/evil.so\n</extra-certs>\n<//extra-certs>",
        "--<peer-fingerprint>\n\t</peer-fingerprint> \nplugin /nonexistent/evil.so",
    ],
)
def test_directives_that_load_code_are_refused(parse: Parse, text: str) -> None:
    """The gateway refuses each of these texts. OpenVPN would load the plugin in the text."""
    text = f"setenv FORWARD_COMPATIBLE 1\n{text}\n"
    with pytest.raises(AssertionError, match="PLUGIN"):
        parse(text)
    with pytest.raises(GatewayError, match=r"line [23]: "):
        parse_client_file(text)


def test_openvpn_and_the_gateway_parse_files_alike(parse: Parse) -> None:
    text = r"""
        remote 'vpn.example' 443 tcp
        <connection>
          remote other.example 1195 "udp4"
          tun-mtu 1400
        </connection>
        verify-x509-name "C=KG, O=\"a\\b\" #1" name
        cipher AES-256-CBC ; old
        data-ciphers AES-256-GCM:AES-128-GCM
        auth SHA256
        pull-filter ignore 'route "x"'
        reneg-sec 0
        comp-lzo no
    """
    lines = settings_of(parse(parse_client_file(text).text))
    for expected in (
        "  remote = 'other.example'", "  remote_port = '1195'", "  proto = udp4", "  tun_mtu = 1400",
        """  verify_x509_name = 'C=KG, O="a\\b" #1'""", "  ciphername = 'AES-256-CBC'", "  authname = 'SHA256'",
        "  ncp_ciphers = 'AES-256-GCM:AES-128-GCM'", '    ignore "route "x""', "  renegotiate_seconds = 0",
        "  comp.alg = 1", "  verify_x509_type = 2",
    ):  # fmt: skip
        assert expected in lines


# The following tests generate client files. If the gateway accepts a file, OpenVPN must read the same settings from
# the original file and from the gateway's rewritten file.

_NUMBER = st.integers(0, 99999).map(str)
_TEXT = st.lists(st.sampled_from([*"ab \"'\\#;<>-=é→", "--", "</tls-auth>"]), min_size=1, max_size=9).map("".join)
_VALUES = {
    "remote": st.tuples(st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1"]), st.integers(1, 65535).map(str),
                        st.sampled_from(["udp", "tcp-client", "udp6", "tcp4"])),
    "verify-x509-name": st.tuples(_TEXT, st.sampled_from(["subject", "name", "name-prefix"])),
    "pull-filter": st.tuples(st.sampled_from(["accept", "ignore", "reject"]), _TEXT),
    "remote-cert-eku": st.tuples(_TEXT),
    "keepalive": st.tuples(st.just("10"), st.integers(20, 999).map(str)),
    "route": st.tuples(st.just("10.9.0.0"), st.just("255.255.0.0")),
    "cipher": st.tuples(st.sampled_from(["AES-256-CBC", "aes-128-gcm"])),
    "auth": st.tuples(st.sampled_from(["SHA512", "sha1"])),
    "tls-version-min": st.tuples(st.just("1.2"), st.just("or-highest")),
    "reneg-sec": st.tuples(_NUMBER, _NUMBER), "sndbuf": st.tuples(_NUMBER), "tran-window": st.tuples(_NUMBER),
    "float": st.tuples(), "nobind": st.tuples(), "comp-lzo": st.tuples(st.just("no")), "push-peer-info": st.tuples(),
    "key-direction": st.tuples(st.sampled_from("01")), "topology": st.tuples(st.just("subnet")),
}  # fmt: skip


@st.composite
def _word(draw: st.DrawFn, word: str) -> str:
    """Generate one way to write a word in a client file: plain, quoted or escaped."""
    spellings = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"']
    if "'" not in word:
        spellings.append(f"'{word}'")
    if not re.match(r"[ #;'\"]|$", word):
        spellings.append(re.sub(r'([\\" ])', r"\\\1", word))
    return draw(st.sampled_from(spellings))


@st.composite
def _line(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(_VALUES)))
    words = [draw(_word(each)) for each in (name, *draw(_VALUES[name]))]
    words[0] = draw(st.sampled_from([name, f"--{name}", words[0]]))
    space = st.sampled_from([" ", "\t", "  "])
    end = draw(st.sampled_from(["", " ", " # it's", "\t;", "\r"]))
    return draw(st.sampled_from(["", "  ", "\t"])) + draw(space).join(words) + end


_BLOCKS = st.sampled_from([
    f"<tls-auth> # x\n{_STATIC}\n </tls-auth> y", f"--<tls-auth>\r\n{_STATIC}\r\n</tls-auth>",
    "<connection>\n  remote a 1 # x\n '--proto' udp\n  mssfix 1300\n</connection>", "# <ca>", "; plugin x", "",
    "<auth-user-pass>\n me \n'pass\\\n</auth-user-pass>",
])  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(_line() | _BLOCKS, min_size=1, max_size=12))
def test_the_rewritten_file_has_the_meaning_of_the_original(parse: Parse, lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    try:
        file = parse_client_file(text)
    except GatewayError:
        return
    expected, got = parse(text), parse(file.text)
    check_harmless(got, settings_of(parse("")))
    assert settings_of(got) == settings_of(expected)


_FRAGMENTS = st.sampled_from([
    "\n", "\n", "\n", " ", "\t", "'", '"', "\\", "#", ";", "<", ">", "</", "--", "\r", "\x00", "\x0b", "\xa0", "é",
    "\ufeff", "client", "remote a 1", "setenv", "setenv opt ", "opt", "plugin /nonexistent/evil.so", "[inline]",
    "script-security 2", "up /nonexistent/evil", "tls-verify /nonexistent/evil", "config /etc/passwd",
    "ca /etc/passwd", "auth-user-pass /etc/passwd", "verify-x509-name ", "ignore-unknown-option plugin",
    "setenv FORWARD_COMPATIBLE 1", "<connection>\n", "</connection>", "<foo>", "</foo>", "<//foo>",
    "<extra-certs>\n", "</extra-certs>", "<auth-user-pass>\n", "</auth-user-pass>", "<tls-auth>\n",
    f"<tls-auth>\n{_STATIC}\n</tls-auth>\n", "</tls-auth>",
    "A" * 64, "A" * 255, " " * 250, "x y z " * 20,
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_FRAGMENTS | _line().map(lambda line: f"{line}\n"), min_size=1, max_size=10))
def test_fragments_are_refused_or_parsed_as_safe_directives(parse: Parse, parts: list[str]) -> None:
    text = "".join(parts)
    try:
        file = parse_client_file(text)
    except GatewayError:
        return
    got = parse(file.text)
    check_harmless(got, settings_of(parse("")))
    # The results are not comparable if the file has ignored directives, or if OpenVPN refuses the original file.
    if not file.ignored and (expected := settings_of(parse(text))):
        assert settings_of(got) == expected
