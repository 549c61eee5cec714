"""The gateway detects a mounted file that the host has replaced while the container still has the old file."""

from pathlib import Path

from gateway.app.stale_bind_mounts import find_stale_files, stale_files

MOUNTS = """\
22 1 0:20 / / rw - overlay overlay rw
30 22 8:1 /srv/gateway.yaml//deleted /etc/gateway/gateway.yaml ro - ext4 /dev/sda1 rw
31 22 8:1 /srv/key /run/secrets/key ro - ext4 /dev/sda1 rw
32 22 8:1 /srv/old//deleted /run/my\\040keys ro - ext4 /dev/sda1 rw
33 22 8:1 /srv/a//deleted /etc/covered ro - ext4 /dev/sda1 rw
34 33 8:1 /srv/b /etc/covered ro - ext4 /dev/sda1 rw
"""


def test_a_replaced_file_or_folder_is_reported() -> None:
    found = stale_files(
        [Path("/etc/gateway/gateway.yaml"), Path("/run/my keys/one"), Path("/run/my keys/two")], MOUNTS
    )
    file, folder = found
    assert file == (
        "/etc/gateway/gateway.yaml was replaced on the host, but this container still sees the old one: restart the"
        " container, and mount the file's folder, not the file"
    )
    assert folder == (
        "/run/my keys was replaced on the host, but this container still sees the old one: restart the container, and"
        " mount a parent folder that is not replaced"
    )


def test_files_shared_with_the_host_are_not_reported() -> None:
    assert (
        stale_files([Path("/run/secrets/key"), Path("/etc/covered"), Path("/etc/gateway/other"), Path("/x")], MOUNTS)
        == []
    )
    assert stale_files([Path("/x")], "") == []


def test_a_symbolic_link_to_itself_does_not_raise_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "known_hosts"
    loop.symlink_to(loop)
    assert find_stale_files([loop]) == []
