"""Tests of known_hosts files: which keys the gateway trusts for a server, and when it reads the files again."""

import base64
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.errors import FailureReason, TunnelError
from gateway.ssh import known_hosts
from gateway.ssh.host_keys import load_trusted_host_keys
from gateway.ssh.known_hosts import load_known_hosts
from gateway.ssh.options import SshOptions

KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(2))
LINE, OTHER_LINE = (key.export_public_key().decode().strip() for key in (KEY, OTHER))


def hashed(name: str) -> str:
    """Return the hash of a host name in the format of `ssh-keygen -H`."""
    salt = bytes(20)  # constant, so that the names of the tests, which contain the hash, do not change
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def trusted(path: Path, host: str, port: int = 22, address: str = "", **more: Any) -> bool:
    return (
        KEY
        in load_trusted_host_keys(
            SshOptions(host=host, user="u", port=port, known_hosts=(path,), **more), address
        ).keys
    )


def revoked(path: Path, host: str, port: int = 22, address: str = "") -> bool:
    options = SshOptions(host=host, user="u", port=port, known_hosts=(path,))
    return KEY in load_trusted_host_keys(options, address).listed.revoked


NAME = ("bastion.example.com", 22, "10.0.0.5")
OTHER_PORT = ("bastion.example.com", 2222, "10.0.0.5")
LOUD = ("BASTION.example.com", 2222, "10.0.0.5")
ADDRESS = ("10.0.0.5", 2222, "10.0.0.5")
SIX = ("2001:DB8:0::5", 2222, "2001:db8::5")
# Each case has the configured host, the port, the host's address, a pattern, and whether the pattern matches.
CASES = [
    (*NAME, "bastion.example.com", True),
    (*NAME, "*.example.com", True),
    (*NAME, hashed("bastion.example.com"), True),
    (*NAME, "10.0.0.5", False),
    (*NAME, "10.0.0.0/8", False),
    (*NAME, "10.0.0.*", False),
    (*NAME, hashed("10.0.0.5"), False),
    (*NAME, "bastion.example.com,!10.0.0.5", True),
    (*NAME, "BASTION.Example.com", True),
    (*NAME, "*.EXAMPLE.com,!other", True),
    (*LOUD, "[bastion.example.com]:2222", True),
    (*LOUD, hashed("[bastion.example.com]:2222"), True),
    (*OTHER_PORT, "[bastion.example.com]:2222", True),
    (*OTHER_PORT, "bastion.example.com", True),
    (*OTHER_PORT, hashed("[bastion.example.com]:2222"), True),
    (*OTHER_PORT, "[10.0.0.5]:2222", False),
    (*OTHER_PORT, "[bastion.example.com]:2223", False),
    (*ADDRESS, "10.0.0.5", True),
    (*ADDRESS, "[10.0.0.5]:2222", True),
    (*ADDRESS, "10.0.0.0/8", True),
    (*ADDRESS, "10.0.0.0/8,!10.0.0.5/32", False),
    (*ADDRESS, hashed("[10.0.0.5]:2222"), True),
    (*ADDRESS, "10.0.0.6", False),
    (*SIX, "[2001:db8::5]:2222", True),
    (*SIX, "2001:db8::/32", True),
    (*SIX, "2001:db9::/32", False),
]


@pytest.mark.parametrize(("host", "port", "address", "pattern", "counts"), CASES)
def test_a_key_is_valid_for_the_configured_name(
    tmp_path: Path, host: str, port: int, address: str, pattern: str, *, counts: bool
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"{pattern} {LINE}\n")
    assert trusted(path, host, port, address) is counts


@pytest.mark.parametrize(
    "pattern",
    ["bastion.example.com", "[bastion.example.com]:2222", "10.0.0.5", "[10.0.0.5]:2222", "10.0.0.0/8", "*",
     hashed("10.0.0.5"), hashed("[bastion.example.com]:2222")],
)  # fmt: skip
def test_a_key_is_revoked_under_every_name_and_address_of_the_server(tmp_path: Path, pattern: str) -> None:
    """A key is revoked even if another line of the file contains a different key of the server."""
    path = tmp_path / "known_hosts"
    for listed in ("bastion.example.com", "[bastion.example.com]:2222"):
        path.write_text(f"@revoked {pattern} {LINE}\n{listed} {OTHER_LINE}\n")
        assert revoked(path, *OTHER_PORT)
    path.write_text(f"@revoked other {LINE}\n")
    assert not revoked(path, *OTHER_PORT)


def test_a_host_key_alias_replaces_the_name_in_lookups(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"pool {LINE}\n")
    assert trusted(path, "10.0.0.5", 2222, "10.0.0.5", host_key_alias="pool")
    path.write_text(f"10.0.0.5 {LINE}\n")
    assert not trusted(path, "10.0.0.5", 2222, "10.0.0.5", host_key_alias="pool")


def test_a_certificate_is_revoked_with_its_key_and_never_listed(tmp_path: Path) -> None:
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    certificate = authority.generate_host_certificate(key, "id").export_certificate().decode().strip()
    path = tmp_path / "known_hosts"
    path.write_text(f"@revoked * {certificate}\n")
    options = SshOptions(host="h", user="u", known_hosts=(path,))
    assert key.convert_to_public() in load_trusted_host_keys(options).listed.revoked
    path.write_text(f"* {certificate}\n")
    with pytest.raises(TunnelError, match="trusts a certificate"):
        load_trusted_host_keys(options)


# Tests of when the gateway reads known_hosts again.


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the text of each known_hosts file when asyncssh parses the file."""
    seen: list[str] = []
    original = asyncssh.import_known_hosts

    def noted(text: str) -> asyncssh.SSHKnownHosts:
        seen.append(text)
        return original(text)

    monkeypatch.setattr(asyncssh, "import_known_hosts", noted)
    return seen


def test_files_that_have_not_changed_are_not_parsed_again(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_hosts, "_MTIME_SETTLED_NS", -1)
    paths = (tmp_path / "a", tmp_path / "b")
    for path in paths:
        path.write_text(f"{path.name} {LINE}\n")
    for _ in range(3):
        assert trusted(paths[0], "a")
        load_known_hosts(paths)
    assert len(parsed) == 2


@pytest.mark.parametrize("how", ["appended", "replaced", "rewritten in the same size"])
def test_a_changed_known_hosts_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(known_hosts, "_MTIME_SETTLED_NS", -1)
    path = tmp_path / "known_hosts"
    text = f"@revoked h {LINE}\n"
    path.write_text(f"h {LINE}\n".ljust(len(text)))
    os.utime(path, ns=(0, 10**18))
    before = path.stat()
    assert not revoked(path, "h")
    match how:
        case "appended":
            with path.open("a") as file:
                file.write(text)
        case "replaced":
            other = tmp_path / "other"
            other.write_text(text)
            other.replace(path)
        case _:
            # Timestamps are coarse, so the test writes the file until its timestamp changes.
            while path.stat().st_ctime_ns == before.st_ctime_ns:
                path.write_text(text)
    os.utime(path, ns=(0, 10**18))
    assert revoked(path, "h")


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path, parsed: list[str]) -> None:
    """Timestamps are coarse. If a file changes twice in a short time, its timestamp might change only once."""
    path = tmp_path / "known_hosts"
    path.write_text(f"h {LINE}\n")
    for _ in range(3):
        assert trusted(path, "h")
    assert len(parsed) == 3


def test_a_removed_file_is_an_error_although_it_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_hosts, "_MTIME_SETTLED_NS", -1)
    path = tmp_path / "known_hosts"
    path.write_text(f"h {LINE}\n")
    assert trusted(path, "h")
    path.unlink()
    with pytest.raises(TunnelError, match="No such file") as caught:
        trusted(path, "h")
    assert (caught.value.reason, caught.value.fatal) == (FailureReason.HOST_KEY, True)


@pytest.mark.parametrize(
    "line", [f"|2|a {LINE}", "host 0\0", f"@revoked |1|x {LINE}"], ids=["another hash", "no key", "no hash"]
)
def test_a_line_that_asyncssh_cannot_parse_is_reported(tmp_path: Path, line: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"host {LINE}\n{line}\n")
    with pytest.raises(TunnelError) as caught:
        load_known_hosts((path,))
    assert caught.value.detail.startswith(f"{path}:2: ")
    assert caught.value.fatal
