"""Tests how the gateway reads files with private keys and passwords, and checks their permissions."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway import secret_files
from gateway.config.loader import ConfigSources, load
from gateway.config.referenced_file_checks import check_files
from gateway.contracts.secret import Secret
from gateway.demo.sshd import make_key
from gateway.errors import FailureReason, TunnelError
from gateway.secret_files import ExposedSecretError, check_not_exposed, read_private_key, read_secret
from gateway.ssh.credentials import load_keys
from gateway.ssh.options import SshOptions


def options(*paths: Path, **more: Any) -> SshOptions:
    return SshOptions(host="h", user="u", identity_files=paths, **more)


def test_a_key_swapped_after_the_check_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, planted = tmp_path / "key", tmp_path / "planted"
    make_key(path)
    make_key(planted)
    planted.chmod(0o644)
    own = asyncssh.read_private_key(path).public_data
    swapped: list[Path] = []

    def swapping(look: Any) -> Any:
        def looked(*args: Any, **kwargs: Any) -> os.stat_result:
            status: os.stat_result = look(*args, **kwargs)
            if not swapped and os.path.samestat(status, os.lstat(path)):
                swapped.append(planted.replace(path))
            return status

        return looked

    monkeypatch.setattr(Path, "stat", swapping(Path.stat))
    monkeypatch.setattr(os, "fstat", swapping(os.fstat))
    (pair,) = load_keys(options(path))
    assert swapped
    assert pair.public_data == own


@pytest.mark.parametrize(("mode", "private"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
def test_a_key_must_be_readable_by_its_owner_only(tmp_path: Path, mode: int, *, private: bool) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    if private:
        assert read_private_key(path) == b"secret"
        return
    with pytest.raises(TunnelError, match=f"chmod 600 {path}") as caught:
        read_private_key(path)
    assert (caught.value.reason, caught.value.fatal) == (FailureReason.AUTH, True)


def test_a_path_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(TunnelError, match=why):
            read_private_key(path)
    with pytest.raises(IsADirectoryError):
        check_not_exposed(tmp_path)


def test_a_certificate_next_to_a_key_is_used_and_an_unreadable_one_is_reported(tmp_path: Path) -> None:
    path, beside = tmp_path / "key", tmp_path / "key-cert.pub"
    make_key(path)
    assert len(load_keys(options(path))) == 1
    authority = asyncssh.generate_private_key("ssh-ed25519")
    key = asyncssh.read_private_key(path)
    beside.write_bytes(authority.generate_user_certificate(key, "id").export_certificate())
    certified, plain = load_keys(options(path))
    assert certified.has_cert
    assert not plain.has_cert
    beside.write_text("garbage")
    with pytest.raises(TunnelError, match=r"key-cert\.pub"):
        load_keys(options(path))


_NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[int]:
    """If this process is root, run the block as another user, because root can read all files. Yield the user ID."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(_NOBODY)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(uid)


def test_an_unreadable_key_is_reported_with_the_user_and_advice() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "key"
        make_key(path)
        path.chmod(0o200)
        owner = path.stat().st_uid
        with as_nobody() as uid, pytest.raises(TunnelError) as caught:
            load_keys(options(path))
        assert caught.value.detail == (
            f"{path}: the gateway runs as uid {uid}, which may not read it (owner {owner}, mode 0200): chown {uid}"
            f" {path}, or run the gateway as uid {owner}"
        )
        # `gateway validate` reports the same error as the code that reads a password.
        with as_nobody():
            url = f"bastion=ssh://u@h?identity_files={path}&known_hosts={path}"
            problems = check_files(
                load(ConfigSources(tunnels=(url,), backends=("a=tcp://h:1?via=bastion",), environment={}))
            )
            with pytest.raises(OSError, match=f"the gateway runs as uid {uid}") as refused:
                Secret(path=path).reveal()
        assert str(path) in str(refused.value.filename)
        assert any(f"chown {uid} {path}" in each.message for each in problems)
        # If the configuration gives the path as a variable, the error shows the variable, not the path.
        with as_nobody(), pytest.raises(OSError, match=r"chown \d+ \$\{KEY\}") as hidden:
            Secret(path=path, unexpanded_path="${KEY}").reveal()
        assert str(path) not in str(hidden.value)
        Path(folder).chmod(0o600)
        with as_nobody(), pytest.raises(TunnelError, match="may not enter a folder above this file"):
            load_keys(options(path))
        Path(folder).chmod(0o700)


def test_an_error_requests_a_passphrase_only_if_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("no key at all\n")
    path.chmod(0o600)
    with pytest.raises(TunnelError) as caught:
        load_keys(options(path))
    assert "passphrase_file" not in caught.value.detail
    key = asyncssh.generate_private_key("ssh-ed25519")
    for form in ("openssh", "pkcs8-pem"):
        path.write_bytes(key.export_private_key(form, passphrase="open sesame"))
        with pytest.raises(TunnelError, match="set passphrase_file"):
            load_keys(options(path))


def test_a_folder_that_others_cannot_pass_keeps_its_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "password"
    path.write_text("x")
    path.chmod(0o644)
    check_not_exposed(path)
    assert not secret_files._is_traversable(path)
    assert secret_files._is_traversable(Path("/etc/passwd"))
    with pytest.raises(ExposedSecretError):
        read_secret(Path("/etc/passwd"))


MOUNTS = """\
20 1 0:20 / / rw - overlay overlay rw
21 20 0:21 / /run rw - tmpfs tmpfs rw
22 20 0:22 / /run/secrets/password rw - ext4 /dev/vda rw
23 20 0:23 / /run/secrets/swarm\\040secret ro - tmpfs tmpfs ro
24 20 0:24 / /run/secrets/kubernetes ro - tmpfs tmpfs rw
25 20 0:25 / /etc/gateway ro - ext4 /dev/vda rw
26 20 0:26 / /mnt/ramdisk rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "on_host", "in_pod"),
    [
        ("/run/secrets/password", True, True),  # Docker Compose mounts each secret file separately.
        ("/run/secrets/swarm secret", True, True),
        ("/run/secrets/kubernetes/..data/key", False, True),
        ("/run/secrets/other", False, True),
        ("/mnt/ramdisk/key", False, True),
        ("/etc/gateway/gateway.yaml", False, False),  # /etc/gateway is a bind mount from the host.
        ("/srv/secret", False, False),
    ],
)
def test_the_mode_of_a_file_that_a_container_runtime_mounts_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, *, on_host: bool, in_pod: bool
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(secret_files, "_MOUNTS", mounts)
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert secret_files._is_runtime_mount(Path(path)) is on_host
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert secret_files._is_runtime_mount(Path(path)) is in_pod


def test_a_world_readable_key_that_a_container_runtime_mounts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    key.chmod(0o444)
    with pytest.raises(TunnelError, match="chmod 600"):
        read_private_key(key)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:1 / {key} ro - ext4 x rw\n")
    monkeypatch.setattr(secret_files, "_MOUNTS", mounts)
    assert read_private_key(key) == b"secret"
