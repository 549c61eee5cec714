"""Tests Docker volumes through the gateway, on an engine in a virtual machine that has a kernel with NFS."""

import hashlib
import time
from pathlib import Path

import pytest
import yaml

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.gateway_process import Gateway, command
from tests.support.guest import HOST, Guest, need_guest
from tests.support.guest_engine import ENGINE, ENGINE_PROGRAMS
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

_VOLUME = "/var/lib/docker/volumes/media"
"""The directory of the volume. The script reads this directory instead of calling `docker`, because each call takes a
second in the virtual machine."""
_WRITES = 30
_WRITE = (
    f"for i in $(seq {_WRITES}); do dd if=/dev/urandom of=/piece bs=64k count=2 2>/dev/null; "
    "dd if=/piece of=/media/$NAME.$i bs=64k conv=fsync 2>/dev/null || echo IO-ERROR $i; "
    "echo PIECE $NAME.$i $(sha256sum < /piece); usleep 200000; done"
)


@pytest.fixture
def server(nfs_server: NfsServer) -> NfsServer:
    need_guest()
    need(all(find(program) for program in ENGINE_PROGRAMS), "a Docker Engine (packages docker.io docker-cli)")
    return nfs_server


def test_volumes_made_by_hand_and_by_the_gateway_are_used_by_containers(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    """Two containers write at the same time, while the test repeatedly kills all SSH connections.

    `gateway import` creates the configuration from commands that mount an export through `ssh -L`.
    """
    port, engine = free_port(), free_port()
    (server.export / "hello").write_text("hello over NFS\n")
    imported = command(
        "import",
        f"ssh -i {bastion.client_key} -o UserKnownHostsFile={bastion.known_hosts} -p {bastion.port} -N -f"
        f" -L {port}:127.0.0.1:{server.port} {bastion.user}@127.0.0.1",
        "docker run -d --mount type=volume,source=media,target=/media --volume-driver local --opt type=nfs"
        f" --opt o=addr=localhost,port={port},rw --opt device=:{server.pseudo} box",
    )
    sections = yaml.safe_load(imported.stdout)
    backend = sections["backends"]["media"]
    backend |= {"allow_unprivileged_ports": True, "volume": {**backend["volume"], "address": HOST}}
    sections["docker"] = {"host": f"tcp://127.0.0.1:{engine}", "resync": "2s"}
    # In YAML's flow style, a section can follow its key on the same line.
    gateway.write("".join(f"{key}: {yaml.safe_dump(each, default_flow_style=True, width=10**6)}"
                          for key, each in sections.items()))  # fmt: skip
    by_hand = f"addr={HOST},port={port},nfsvers=4.2,proto=tcp,hard,timeo=600,retrans=5"
    script = f"""{ENGINE}
docker volume create --driver local --opt type=nfs --opt device=:/media --opt o={by_hand} by-hand
run --rm -v by-hand:/media box cat /media/hello
until [ -d {_VOLUME} ]; do sleep 1; done
echo VOLUME-THERE
run -d --name one -e NAME=one -v media:/media box sh -c '{_WRITE}' >/dev/null
run -d --name two -e NAME=two -v media:/media box sh -c '{_WRITE}' >/dev/null
echo WRITING
docker wait one two
docker logs one; docker logs two
docker rm one two
echo WRITTEN
until grep -q nconnect=2 {_VOLUME}/opts.json; do sleep 1; done
echo MADE-AGAIN
run --rm -v media:/media box cat /media/hello > /got && echo "AGAIN $(cat /got)"
"""
    gateway.start()
    with Guest(tmp_path / "guest", script, memory=2048, programs=ENGINE_PROGRAMS, forwards={engine: 2375}) as guest:
        guest.wait_for("ENGINE-READY", 600)
        guest.wait_for("hello over NFS", 600)
        guest.wait_for("VOLUME-THERE", 600)
        guest.wait_for("WRITING", 600)
        kills = 0
        while not any("WRITTEN" in line for line in guest.lines) and kills < 120:
            bastion.kill_sessions()
            kills += 1
            time.sleep(1)
        guest.wait_for("WRITTEN", 600)
        assert not guest.said(r"(IO-ERROR.*)")
        written = dict(line.split() for line in guest.said(r"PIECE (\S+ \w+)"))
        plan = command("plan", "-c", str(gateway.config))
        assert "nothing to change" in plan.stdout, plan.stdout + plan.stderr
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace(f"address: {HOST}", f"address: {HOST}, mount_options: [nconnect=2]"))
        guest.wait_for("MADE-AGAIN", 600)
        guest.wait_for("AGAIN hello over NFS", 600)
    assert kills > 5
    assert len(written) == 2 * _WRITES
    for name, digest in written.items():
        assert hashlib.sha256((server.export / name).read_bytes()).hexdigest() == digest
