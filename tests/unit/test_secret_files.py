"""Private keys are read once: what was checked is what is used."""

import os
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.demo.sshd import make_key
from gateway.errors import Reason, TunnelError
from gateway.secret_files import read_private_key
from gateway.ssh.credentials import load_keys
from gateway.ssh.options import SshOptions


def options(*paths: Path, **more: Any) -> SshOptions:
    return SshOptions(host="h", user="u", identity_files=paths, **more)


def test_a_key_that_takes_the_place_of_the_checked_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_only_its_owner_may_read_a_key(tmp_path: Path, mode: int, *, private: bool) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    if private:
        assert read_private_key(path) == b"secret"
        return
    with pytest.raises(TunnelError, match=f"chmod 600 {path}") as caught:
        read_private_key(path)
    assert (caught.value.reason, caught.value.fatal) == (Reason.AUTH, True)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(TunnelError, match=why):
            read_private_key(path)


def test_the_certificate_beside_a_key_is_used_and_one_that_cannot_be_read_is_told(tmp_path: Path) -> None:
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
