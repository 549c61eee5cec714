import contextlib
import ipaddress
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.secret import Secret
from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.vpn import wireguard_device_status, wireguard_formats
from gateway.vpn.device_settings import DeviceSettings, likely_peers
from gateway.vpn.openvpn_failures import more_specific, parse_failure
from gateway.vpn.openvpn_updown import parse_updown
from gateway.vpn.options import WireGuardOptions
from gateway.vpn.wireguard_file_loader import load_wireguard_file

KEY = "A" * 43 + "="
OTHER = "B" * 43 + "="


def wireguard(interface: str = "", peer: str = "") -> str:
    return (
        f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.9.0.2/24\n{interface}\n"
        f"[Peer]\nPublicKey = {OTHER}\nEndpoint = vpn.example:51820\n{peer}\n"
    )


# Tests of OpenVPN's log messages, and of the options that an OpenVPN server pushes.


@pytest.mark.parametrize(
    ("line", "reason", "fatal"),
    [
        ("AUTH: Received control message: AUTH_FAILED", FailureReason.AUTH, True),
        ("VERIFY ERROR: depth=1, error=certificate has expired: CN=x", FailureReason.TLS, True),
        ("RESOLVE: Cannot resolve host address: x:1194 (Name or service not known)", FailureReason.DNS, False),
        ("ERROR: Cannot ioctl TUNSETIFF gwo: Operation not permitted (errno=1)", FailureReason.PERMISSION, True),
        ("TLS Error: TLS key negotiation failed to occur within 60 seconds", FailureReason.TIMEOUT, False),
        ("Options error: Unrecognized option or missing parameter(s) in x:3: y", FailureReason.PROTOCOL, True),
        ("read UDPv4 [ECONNREFUSED]: Connection refused (fd=4,code=111)", FailureReason.REFUSED, False),
    ],
)
def test_openvpn_log_lines_have_reasons(line: str, reason: FailureReason, fatal: bool) -> None:
    failure = parse_failure(line)
    assert failure is not None
    assert (failure.reason, failure.fatal) == (reason, fatal)


def test_the_most_specific_log_line_is_kept() -> None:
    cause = parse_failure("VERIFY ERROR: depth=0, error=certificate has expired")
    consequence = parse_failure("TLS Error: TLS handshake failed")
    assert cause is not None
    assert consequence is not None
    assert more_specific(cause, consequence) is cause
    assert more_specific(consequence, cause) is cause
    assert parse_failure("Initialization Sequence Completed") is None


def test_pushed_options_are_parsed() -> None:
    found = parse_updown(
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
    assert [str(each) for each in found.name_servers] == ["10.20.0.1", "10.20.0.2"]
    assert (found.search_domains, found.mtu, found.gateways) == (("far.example",), 1500, ())
    assert ipaddress.ip_address("10.8.0.1") in found.peers
    assert [str(each) for each in parse_updown({}, dns=("9.9.9.9",), mtu=1200).name_servers] == ["9.9.9.9"]


# Tests of WireGuard's configuration file.


@given(st.text(string.printable))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(GatewayError):
        wireguard_formats.parse_wireguard_file(text)


def test_a_wireguard_file_is_rewritten_for_wg() -> None:
    file = wireguard_formats.parse_wireguard_file(
        wireguard(
            "DNS = 10.9.0.1, far.example\nMTU = 1380\nPostUp = iptables -A x\nTable = off", "AllowedIPs = 10.0.0.5/8"
        )
    )
    assert (file.mtu, file.search_domains, file.ignored) == (1380, ("far.example",), ("PostUp",))
    assert wireguard_formats.to_setconf(file, {OTHER: "192.0.2.1:51820"}).splitlines() == [
        "[Interface]", f"PrivateKey = {KEY}", "[Peer]", f"PublicKey = {OTHER}", "PersistentKeepalive = 25",
        "AllowedIPs = 10.0.0.0/8", "Endpoint = 192.0.2.1:51820",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (wireguard("Color = red"), "line 4: unknown key Color"),
        (wireguard("MTU = many"), "line 4: MTU is not valid: it must be a number of bytes"),
        (wireguard().replace(KEY, "short"), "line 2: PrivateKey is not a valid key"),
        (wireguard().replace("Endpoint = vpn.example:51820", ""), "has an Endpoint"),
        (wireguard().replace("Address = 10.9.0.2/24", ""), "has no Address"),
        ("PrivateKey = x", "line 1: is before the first section"),
        ("[Server]", "line 1: unknown section"),
        ("[Interface]\nnonsense", "line 2: is not of the form KEY"),
    ],
)
def test_an_unusable_wireguard_file_is_refused(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        wireguard_formats.parse_wireguard_file(text)


@pytest.mark.parametrize(
    "line",
    [
        f"PrivateKey: {KEY}",
        f"PrivateKey {KEY}",
        KEY,
        f"[{KEY}]",
        *(
            f"{name} = {KEY}"
            for name in ("Endpoint", "DNS", "MTU", "Address", "ListenPort", "AllowedIPs", "PersistentKeepalive")
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(line: str) -> None:
    for text in (wireguard(line), wireguard(peer=line)):
        with pytest.raises(GatewayError) as caught:
            wireguard_formats.parse_wireguard_file(text)
        assert "AAAA" not in str(caught.value).upper()


@pytest.mark.parametrize("secret", ["PrivateKey", "PresharedKey"])
def test_a_readable_wireguard_key_is_refused_even_if_the_file_is_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """The gateway checks the permissions of the file that it has read, not of a file that replaces it."""
    config, own, planted = tmp_path / "branch.conf", tmp_path / "own", tmp_path / "planted"
    text = wireguard(peer=f"PresharedKey = {KEY}")
    config.write_text("".join(line for line in text.splitlines(True) if "Key" not in line or secret in line or
                              "PublicKey" in line))  # fmt: skip
    own.write_text(KEY)
    config.chmod(0o644)
    for path in (own, planted):
        path.touch()
        path.chmod(0o600)

    def swapping(text: str) -> wireguard_formats.WireGuardFile:
        planted.replace(config)
        return wireguard_formats.parse_wireguard_file(text)

    monkeypatch.setattr("gateway.vpn.wireguard_file_loader.parse_wireguard_file", swapping)
    with pytest.raises(TunnelError, match=f"{config}: the private key is readable by others"):
        load_wireguard_file(WireGuardOptions(config=config, private_key=Secret(path=own)))


def test_the_last_handshake_of_all_peers() -> None:
    text = f"{KEY}\tpub\t51820\toff\n" + "".join(
        f"{OTHER}\t(none)\t192.0.2.1:5\t10.0.0.0/8\t{handshake}\t{received}\t9\t25\n"
        for handshake, received in ((100, 7), (300, 5), (0, 0))
    )
    assert wireguard_device_status.parse_dump(text) == wireguard_device_status.WireGuardDeviceStatus(
        300, 12, ("192.0.2.1:5",) * 3
    )
    assert wireguard_device_status.parse_dump("") == wireguard_device_status.WireGuardDeviceStatus(0, 0)


def test_compatible_peers_and_addresses_are_accepted() -> None:
    four, six = ipaddress.IPv4Interface("10.9.0.2/24"), ipaddress.IPv6Interface("fd09::2/64")
    assert [str(each) for each in likely_peers((four, six))] == ["10.9.0.1", "fd09::1"]
    assert likely_peers((ipaddress.IPv4Interface("10.9.0.1/24"), ipaddress.IPv4Interface("10.9.0.2/32"))) == ()
    assert DeviceSettings((four, six), mtu=1279).usable_addresses == (four,)
    assert DeviceSettings((four, six), mtu=1280).usable_addresses == (four, six)
    assert DeviceSettings((four, six)).usable_addresses == (four, six)


@pytest.mark.timeout(20)
def test_a_wireguard_file_that_is_too_large_or_not_a_file_is_refused(tmp_path: Path) -> None:
    large, fifo, peers = tmp_path / "large", tmp_path / "fifo", tmp_path / "peers"
    large.write_text("#\n" * (1 << 17) + "#")
    os.mkfifo(fifo)
    peers.write_text("[Interface]\n" + "[Peer]\n" * 1001)
    for config, message in ((large, "regular file"), (fifo, "regular file"), (peers, "more than 1000")):
        with pytest.raises(TunnelError, match=message):
            load_wireguard_file(WireGuardOptions(config=config))
