import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.errors import UsageError

TUNNEL = "ssh://tunnel@bastion.example.com?identity_files=/k&known_hosts=/h"


def rendered(*backends: str, arguments: tuple[str, ...] = ()) -> str:
    given = [word for each in backends for word in ("--backend", each)]
    done = CliRunner().invoke(cli, ["render", "exports", "--tunnel", f"bastion={TUNNEL}", *given, *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("m=nfs://nas:2049/media?via=bastion", "/media bastion.example.com(rw,sync,no_subtree_check,insecure)"),
        ("m=nfs://localhost:2049/media?via=bastion", "/media localhost(rw,sync,no_subtree_check,insecure)"),
        (
            "m=nfs://bastion.example.com:2049/m?via=bastion",
            "/m bastion.example.com(rw,sync,no_subtree_check,insecure) localhost(rw,sync,no_subtree_check,insecure)",
        ),
        (
            "m=nfs://nas:2049/a%20b?via=bastion&volume.name=mm&volume.read_only=true",
            "/a\\040b bastion.example.com(ro,sync,no_subtree_check,insecure)",
        ),
    ],
)
def test_an_export_permits_the_client_of_the_server(backend: str, line: str) -> None:
    assert rendered(backend).splitlines()[1] == line


@pytest.mark.parametrize(
    ("tunnel", "client"),
    [("socks5://proxy.example.com:1080", "proxy.example.com"), ("http://[fd00::1]:3128", "fd00::1")],
)
def test_a_proxy_is_the_client_of_the_server(tunnel: str, client: str) -> None:
    text = rendered("m=nfs://nas/media?via=web", arguments=("--tunnel", f"web={tunnel}"))
    assert text.splitlines()[1] == f"/media {client}(rw,sync,no_subtree_check,insecure)"


def test_each_path_has_its_client() -> None:
    text = rendered("m=nfs://nas/media?via=bastion,web", arguments=("--tunnel", "web=http://proxy:3128"))
    assert text.splitlines()[1] == (
        "/media bastion.example.com(rw,sync,no_subtree_check,insecure) proxy(rw,sync,no_subtree_check,insecure)"
    )


def test_each_server_has_its_lines_once() -> None:
    text = rendered(
        "a=nfs://nas/a?via=bastion", "b=nfs://nas/b?via=bastion", "c=nfs://other/a?via=bastion", "d=tcp://x:1"
    )
    assert re.findall(r"^# (\w+):", text, re.MULTILINE) == ["nas", "other"]
    assert len(text.splitlines()) == 5


def test_an_export_that_several_backends_use_has_one_line() -> None:
    reader = "r=nfs://nas/media?via=bastion&volume.name=rr&volume.read_only=true"
    writer = "w=nfs://nas/media?via=bastion&volume.name=ww"
    other = "o=nfs://nas/media?via=web&volume.name=oo&volume.read_only=true"
    expected = (
        "/media bastion.example.com(rw,sync,no_subtree_check,insecure) proxy(ro,sync,no_subtree_check,insecure)"
    )
    capitals = "c=nfs://NAS/media/?via=bastion&volume.name=cc"
    for backends in ((reader, writer, other), (writer, reader, other), (reader, capitals, other)):
        text = rendered(*backends, arguments=("--tunnel", "web=http://proxy:3128"))
        assert text.splitlines()[1:] == [expected]


def test_a_client_that_is_not_in_the_configuration_must_be_named() -> None:
    with pytest.raises(UsageError, match=r"backends\.m: .* --from"):
        rendered("m=nfs://nas/m")
    with pytest.raises(UsageError, match=r"backends\.m: .* --from"):
        rendered("m=nfs://nas/m?via=office", arguments=("--tunnel", "office=openvpn:///office.ovpn"))
    text = rendered("m=nfs://nas/m", arguments=("--from", "10.8.0.0/24", "--from", "host.example.com"))
    assert text.splitlines()[1] == (
        "/m 10.8.0.0/24(rw,sync,no_subtree_check,insecure) host.example.com(rw,sync,no_subtree_check,insecure)"
    )


@pytest.mark.parametrize(
    "client", ["10.0.0.5", "10.0.0.0/255.255.0.0", "fd00::/64", "fd00::1", "*.example.com", "@clients", "host-[ab]"]
)
def test_a_client_of_each_form_is_accepted(client: str) -> None:
    text = rendered("m=nfs://nas/m", arguments=("--from", client))
    assert text.splitlines()[1] == f"/m {client}(rw,sync,no_subtree_check,insecure)"


@pytest.mark.parametrize(
    "client", ["10.0.0.5(rw)", "a b", "", "-rw", "10.0.0.0/99", "a,b", "a/24", "[fd00::1]", "a\n/ *", "#a"]
)
def test_an_invalid_client_is_an_error(client: str) -> None:
    with pytest.raises(UsageError, match=r"--from .* is not an address, a network or a name"):
        rendered("m=nfs://nas/m", arguments=("--from", client))


@pytest.mark.parametrize(("client", "warned"), [("*", True), ("0.0.0.0/0", True), ("::/0", True), ("*.a", False)])
def test_a_client_that_matches_every_host_is_reported(client: str, warned: bool) -> None:
    arguments = ["render", "exports", "--backend", "m=nfs://nas/m", "--from", client]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, repr(done.exception)
    assert (f"# --from {client}: every host" in done.stderr) is warned


def test_a_configuration_without_exports_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no backend of kind nfs"):
        rendered("m=tcp://nas:1")
