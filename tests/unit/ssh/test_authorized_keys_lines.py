"""Tests which lines for authorized_keys are rendered for tunnels, and from which key files."""

from pathlib import Path

import asyncssh
import pytest

from gateway.contracts.secret import Secret
from gateway.contracts.tunnel_destinations import TunnelDestinations
from gateway.demo.sshd import make_key
from gateway.errors import GatewayError, UsageError
from gateway.ssh.authorized_keys_lines import key_options, render_authorized_keys
from gateway.ssh.options import SshOptions


def options(*files: Path, user: str = "u") -> SshOptions:
    return SshOptions(host="edge", user=user, identity_files=files)


def destinations(name: str, chosen: SshOptions, *targets: str, unix_sockets: bool = False) -> TunnelDestinations:
    return TunnelDestinations(name, chosen, targets, unix_sockets)


def rendered(*tunnels: TunnelDestinations) -> list[str]:
    """Return the rendered lines without comments."""
    return [line for line in render_authorized_keys(tunnels, []) if not line.startswith("#")]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "key")
    return tmp_path / "key"


def public(path: Path) -> str:
    return path.with_name(f"{path.name}.pub").read_text().strip()


def test_comments_in_a_public_key_file_do_not_precede_the_key(key: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    keys = [public(key), public(tmp_path / "other")]
    key.with_name("key.pub").write_text(f"# the key of the gateway\n\n{keys[0]}\n  # another key\n{keys[1]}\n")
    lines = rendered(destinations("a", options(key), "db:1"))
    assert lines == [f"{key_options(['db:1'], [])} {each}" for each in keys]


def test_a_key_in_two_files_gets_one_line(key: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.pub").write_text(public(key))
    (line,) = rendered(destinations("a", options(key, tmp_path / "copy"), "db:1"))
    assert line == f"{key_options(['db:1'], [])} {public(key)}"


@pytest.mark.parametrize(
    "content",
    ["", "# only a comment\n", 'command="id" KEY\n', "KEY\nnonsense\n", "ssh-ed25519 AAAA x\n", "\udcff KEY"],
)
def test_a_file_with_other_content_than_public_keys_is_an_error(key: Path, content: str) -> None:
    text = content.replace("KEY", public(key))
    key.with_name("key.pub").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(GatewayError, match=r"key\.pub: "):
        rendered(destinations("a", options(key), "db:1"))


def test_a_comment_with_a_line_break_adds_no_line(tmp_path: Path) -> None:
    private = asyncssh.generate_private_key("ssh-ed25519", comment="a\nssh-ed25519 AAAA unrestricted")
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(private.export_private_key())
    (line,) = rendered(destinations("a", options(path), "db:1"))
    assert line.count("\n") == 0


def test_a_wrong_passphrase_is_an_error(tmp_path: Path) -> None:
    make_key(tmp_path / "key", "ssh-ed25519", "right")
    (tmp_path / "key.pub").unlink()
    (tmp_path / "passphrase").write_text("wrong")
    (tmp_path / "passphrase").chmod(0o600)
    chosen = SshOptions(
        host="edge", user="u", identity_files=(tmp_path / "key",), passphrase=Secret(path=tmp_path / "passphrase")
    )
    with pytest.raises(GatewayError, match=r"key: the key cannot be decrypted: check passphrase_file"):
        rendered(destinations("a", chosen, "db:1"))


def test_tunnels_with_the_same_login_and_key_share_one_line(key: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    tunnels = (
        destinations("a", options(key), "db:1", "nas:2"),
        destinations("b", options(key), "nas:2", "web:3"),
        destinations("c", options(tmp_path / "other"), "db:1"),
        destinations("d", options(key, user="v"), "x:4"),
    )
    expected = [("db:1", "nas:2", "web:3"), ("db:1",), ("x:4",)]
    keys = [public(key), public(tmp_path / "other"), public(key)]
    lines = [f"{key_options(targets, [])} {each}" for targets, each in zip(expected, keys, strict=True)]
    assert rendered(*tunnels) == lines
    comments = render_authorized_keys(tunnels, [])
    assert "# the line of the tunnel a also permits the connections of this tunnel" in comments


def test_the_line_for_an_engine_on_a_unix_socket_has_no_permitopen(key: Path) -> None:
    engine = destinations("dock", options(key), unix_sockets=True)
    lines = render_authorized_keys([engine], [])
    assert lines[-1] == f"{key_options([], [])} {public(key)}"
    assert "permitopen" not in lines[-1]
    assert "#       AllowStreamLocalForwarding local" in lines
    both = (engine, destinations("b", options(key), "db:1"))
    with pytest.raises(UsageError, match=r"tunnels\.dock: docker\.host needs a key without permitopen"):
        render_authorized_keys(both, [])


def test_a_tunnel_without_a_key_file_gets_the_options_in_a_comment() -> None:
    lines = render_authorized_keys([destinations("a", options(), "db:1")], [])
    assert lines[-1] == f"# {key_options(['db:1'], [])} PUBLIC-KEY"
    assert all(line.startswith("#") for line in lines)
    with pytest.raises(UsageError, match=r"docker\.host needs a key without permitopen"):
        render_authorized_keys([destinations("a", options(), "db:1", unix_sockets=True)], [])


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["192.0.2.7/24"], "has host bits set"),
        (["10.0.0.0/33"], "10.0.0.0/33"),
        (["10.0.0.0/255.0.0.0"], "write the length of the prefix"),
        (["!10.0.0.1"], "add a network that is permitted"),
    ],
)
def test_a_source_with_which_sshd_refuses_every_login_is_an_error(sources: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        key_options(["db:1"], sources)


@pytest.mark.parametrize("sources", [["192.0.2.0/24", "!192.0.2.7"], ["fd00::/64"], ["*.example.com"], ["10.0.0.?"]])
def test_networks_addresses_and_patterns_are_valid_sources(sources: list[str]) -> None:
    assert key_options(["db:1"], sources).endswith(f'from="{",".join(sources)}"')
