import contextlib
import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, Reason
from gateway.vpn import openvpn_file, wireguard_file
from gateway.vpn.addressing import Addressing, probable_peers
from gateway.vpn.openvpn_words import addressing, graver, trouble_in

KEY = "A" * 43 + "="
OTHER = "B" * 43 + "="


def wireguard(interface: str = "", peer: str = "") -> str:
    return (
        f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.9.0.2/24\n{interface}\n"
        f"[Peer]\nPublicKey = {OTHER}\nEndpoint = vpn.example:51820\n{peer}\n"
    )


# OpenVPN's file.


def test_what_the_gateway_does_itself_is_taken_out_and_lines_keep_their_number() -> None:
    text = "client\ndaemon\nlog /var/log/vpn\nup /etc/up.sh\ndev tun7\nremote vpn.example 1194\nscript-security 2\n"
    file = openvpn_file.read(text)
    assert file.text == "client\n\n\n\n\nremote vpn.example 1194\n\n"
    assert file.left_out == ("up",)
    assert file.layer == "tun"


def test_what_stands_in_a_block_is_left_alone() -> None:
    text = "<ca>\ndaemon\nplugin x\n</ca>\n<connection>\nremote a 1\nlog x\n</connection>\n"
    assert (
        openvpn_file.read(text).text == "<ca>\ndaemon\nplugin x\n</ca>\n<connection>\nremote a 1\n\n</connection>\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("client\nplugin evil.so\n", "line 2: plugin loads code"),
        ("--tls-verify /x\n", "line 1: tls-verify decides by a script"),
        ("<ca>\n", "<ca> is not closed"),
        ('"plugin" x.so', "plugin loads code"),
        ('"plugin"/x.so', "plugin loads code"),
        ("setenv opt plugin /x.so", "plugin loads code"),
        ("\ufeffplugin x", "plugin loads code"),
        ("config other.ovpn", "config reads a further file"),
        ("setenv X 'open", "line 1: ' is not closed"),
        # OpenVPN 2.6 loads the plugin of each of these.
        ("--setenv opt plugin /x.so", "line 1: plugin loads code"),
        ("\\ plugin /x.so", "line 1: plugin loads code"),
        ("setenv opt <ca>\nplugin /x.so\n</ca>\n<//ca>\n", "line 2: plugin loads code"),
        ("--<ca>\n<x>\n</ca>\nplugin /x.so\n</x>\n<//x>\n", "line 4: plugin loads code"),
        ("<a.b>\n<x>\n</a.b>\nplugin /x.so\n</x>\n<//x>\n", "line 4: plugin loads code"),
        ("<ca>\u00a0\nplugin /x.so\n</ca>\u00a0\n", "line 2: plugin loads code"),
        (f"<ca>\n{'A' * 255}</ca>\nplugin /x.so\n</ca>\n<//ca>\n", "line 2: has 255 bytes or more"),
        (f"#\0{'A' * 254}plugin /x.so", "line 1: holds a null character"),
        ("<connection>\n<ca>\n</connection>\nplugin /x.so\n</ca>\n", "line 3: <ca> is not closed"),
        ("<connection>\nremote a 1\n", "<connection> is not closed"),
    ],
)
def test_an_openvpn_file_that_cannot_be_used(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        openvpn_file.read(text)


def test_long_lines_and_blocks_within_connections_stay() -> None:
    text = f"<ca>\n{'A' * 400}\n</ca>\n<connection>\nremote a 1\n<tls-auth>\nup\n</tls-auth>\n</connection>\nup x\n"
    file = openvpn_file.read(text)
    assert file.text == text.removesuffix("up x\n") + "\n"
    assert file.private


def test_whether_it_asks_for_a_login() -> None:
    assert openvpn_file.read("auth-user-pass\n").asks_login
    assert not openvpn_file.read("auth-user-pass /run/secrets/login\n").asks_login
    assert openvpn_file.read("dev tap\n").layer == "tap"


@given(st.text(string.printable))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (openvpn_file.read, wireguard_file.read):
        with contextlib.suppress(GatewayError):
            read(text)


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
        ("\\# x", []),
        ("\\ a", ["a"]),
        ("a\u00a0b", ["a\u00a0b"]),
    ],
)
def test_words_are_those_that_openvpn_finds(line: str, words: list[str]) -> None:
    assert openvpn_file.words_of(line) == words


def test_a_block_with_a_comment_and_windows_line_ends() -> None:
    file = openvpn_file.read("client\r\n<key> # it's\r\nplugin\r\n</key>\r\ntls-auth ta.key 1\r\n")
    assert file.private
    assert file.private_files == ("ta.key",)


# What OpenVPN says.


@pytest.mark.parametrize(
    ("line", "reason", "fatal"),
    [
        ("AUTH: Received control message: AUTH_FAILED", Reason.AUTH, True),
        ("VERIFY ERROR: depth=1, error=certificate has expired: CN=x", Reason.TLS, True),
        ("RESOLVE: Cannot resolve host address: x:1194 (Name or service not known)", Reason.DNS, False),
        ("ERROR: Cannot ioctl TUNSETIFF gwo: Operation not permitted (errno=1)", Reason.PERMISSION, True),
        ("TLS Error: TLS key negotiation failed to occur within 60 seconds", Reason.TIMEOUT, False),
        ("Options error: Unrecognized option or missing parameter(s) in x:3: y", Reason.PROTOCOL, True),
        ("read UDPv4 [ECONNREFUSED]: Connection refused (fd=4,code=111)", Reason.REFUSED, False),
    ],
)
def test_lines_of_the_log_have_reasons(line: str, reason: Reason, fatal: bool) -> None:
    trouble = trouble_in(line)
    assert trouble is not None
    assert (trouble.reason, trouble.fatal) == (reason, fatal)


def test_the_line_that_explains_most_is_kept() -> None:
    cause = trouble_in("VERIFY ERROR: depth=0, error=certificate has expired")
    consequence = trouble_in("TLS Error: TLS handshake failed")
    assert cause is not None
    assert consequence is not None
    assert graver(cause, consequence) is cause
    assert graver(consequence, cause) is cause
    assert trouble_in("Initialization Sequence Completed") is None


def test_what_a_server_pushes() -> None:
    found = addressing(
        {
            "ifconfig_local": "10.8.0.2", "ifconfig_netmask": "255.255.255.0", "route_vpn_gateway": "10.8.0.1",
            "ifconfig_ipv6_local": "fd08::1000", "ifconfig_ipv6_netbits": "64", "tun_mtu": "1500",
            "foreign_option_1": "dhcp-option DNS 10.20.0.1", "foreign_option_2": "dhcp-option DOMAIN far.example",
            "foreign_option_10": "dhcp-option DNS 10.20.0.2", "dev_type": "tun",
        },
        dns=(),
        mtu=None,
    )  # fmt: skip
    assert [str(each) for each in found.addresses] == ["10.8.0.2/24", "fd08::1000/64"]
    assert [str(each) for each in found.servers] == ["10.20.0.1", "10.20.0.2"]
    assert (found.domains, found.mtu, found.gateways) == (("far.example",), 1500, ())
    assert ipaddress.ip_address("10.8.0.1") in found.peers
    assert [str(each) for each in addressing({}, dns=("9.9.9.9",), mtu=1200).servers] == ["9.9.9.9"]


# WireGuard's file.


def test_a_wireguard_file_as_wg_wants_it() -> None:
    file = wireguard_file.read(
        wireguard(
            "DNS = 10.9.0.1, far.example\nMTU = 1380\nPostUp = iptables -A x\nTable = off", "AllowedIPs = 10.0.0.5/8"
        )
    )
    assert (file.mtu, file.domains, file.left_out) == (1380, ("far.example",), ("PostUp",))
    assert wireguard_file.for_wg(file, {OTHER: "192.0.2.1:51820"}).splitlines() == [
        "[Interface]", f"PrivateKey = {KEY}", "[Peer]", f"PublicKey = {OTHER}", "PersistentKeepalive = 25",
        "AllowedIPs = 10.0.0.0/8", "Endpoint = 192.0.2.1:51820",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (wireguard("Colour = red"), "line 4: unknown key Colour"),
        (wireguard("MTU = many"), "line 4: invalid literal"),
        (wireguard().replace(KEY, "short"), "line 2: PrivateKey is no key"),
        (wireguard().replace("Endpoint = vpn.example:51820", ""), "has an Endpoint"),
        (wireguard().replace("Address = 10.9.0.2/24", ""), "has no Address"),
        ("PrivateKey = x", "line 1: stands before"),
        ("[Server]", "line 1: begins an unknown section"),
        ("[Interface]\nnonsense", "line 2: is no KEY"),
    ],
)
def test_a_wireguard_file_that_cannot_be_used(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        wireguard_file.read(text)


@pytest.mark.parametrize(
    "line", [f"PrivateKey: {KEY}", f"PrivateKey {KEY}", KEY, f"[{KEY}]", f"Endpoint = {KEY}", f"DNS = {KEY}"]
)
def test_a_key_in_the_wrong_place_is_not_shown(line: str) -> None:
    for text in (wireguard(line), wireguard(peer=line)):
        with pytest.raises(GatewayError) as caught:
            wireguard_file.read(text)
        assert "AAAA" not in str(caught.value).upper()


def test_the_last_handshake_of_all_peers() -> None:
    text = f"{KEY}\tpub\t51820\toff\n" + "".join(
        f"{OTHER}\t(none)\t192.0.2.1:5\t10.0.0.0/8\t{handshake}\t{received}\t9\t25\n"
        for handshake, received in ((100, 7), (300, 5), (0, 0))
    )
    assert wireguard_file.read_dump(text) == wireguard_file.Vital(300, 12, ("192.0.2.1:5",) * 3)
    assert wireguard_file.read_dump("") == wireguard_file.Vital(0, 0)


def test_peers_and_addresses_that_fit() -> None:
    four, six = ipaddress.IPv4Interface("10.9.0.2/24"), ipaddress.IPv6Interface("fd09::2/64")
    assert [str(each) for each in probable_peers((four, six))] == ["10.9.0.1", "fd09::1"]
    assert probable_peers((ipaddress.IPv4Interface("10.9.0.1/24"), ipaddress.IPv4Interface("10.9.0.2/32"))) == ()
    assert Addressing((four, six), mtu=1279).carried == (four,)
    assert Addressing((four, six), mtu=1280).carried == (four, six)
    assert Addressing((four, six)).carried == (four, six)
