"""Tests the units of configs/systemd and their hardening with a real systemd in a virtual machine."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.files import REPOSITORY
from tests.support.guest import HOST, Guest, need_guest
from tests.support.requirements import download, need
from tests.support.servers import echoing, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

_PACKAGES = "systemd,systemd-sysv,iproute2,kmod,python3"
_SITE = "usr/local/lib/python3.13/dist-packages"
_COMMAND = """#!/usr/bin/python3
import sys
from gateway.__main__ import main
sys.exit(main())
"""
_CLIENT = """import socket
client = socket.create_connection(("{host}", {port}), 200)
client.sendall(b"hello")
print("{word}", client.recv(16).decode())
"""
_SCRIPT = """
systemctl start gateway.socket; echo "BEFORE $(systemctl show -p ActiveState --value gateway)"
timeout 400 python3 /early.py &
i=0
until [ "$(systemctl show -p ActiveState --value gateway)" != inactive ] || [ $i = 300 ]; do sleep 1; i=$((i+1)); done
systemctl start docker
wait $! || journalctl -u gateway -u gateway.socket -o cat --no-pager
ready=$(systemctl show -p ActiveEnterTimestampMonotonic --value gateway)
[ "$ready" -le "$(systemctl show -p ExecMainStartTimestampMonotonic --value docker)" ] && echo "ORDER gateway, docker"
systemctl start gateway && echo "STARTED $(systemctl show -p ActiveState --value gateway)"
gateway wait --max 60s echo --url http://127.0.0.1:9090 && echo UP
ip addr add 172.17.0.1/32 dev lo; timeout 200 python3 /bridge.py
[ "$(stat -c %u /proc/$(systemctl show -p MainPID --value gateway))" = 0 ] && echo "IT IS ROOT"
echo "CORE $(grep core /proc/$(systemctl show -p MainPID --value gateway)/limits)"
echo "MEMORY $(systemctl show -p MemoryMax --value gateway)"
systemd-analyze security --no-pager --threshold=15 gateway >/dev/null && echo "EXPOSURE at most 1.5"
echo "CAPS $(grep CapEff /proc/$(systemctl show -p MainPID --value gateway)/status | cut -f2)"
sed -i "s/level: info/level: debug/" /etc/gateway/gateway.yaml
systemctl reload gateway && echo RELOADED
echo "broken: {" >> /etc/gateway/gateway.yaml
systemctl reload gateway; echo "STILL $(systemctl show -p ActiveState --value gateway)"
sed -i '$d' /etc/gateway/gateway.yaml
first=$(systemctl show -p MainPID --value gateway)
kill -STOP $first
i=0; while [ "$(systemctl show -p NRestarts --value gateway)" = 0 ] && [ $i -lt 120 ]; do sleep 1; i=$((i+1)); done
echo "WATCHDOG $(systemctl show -p NRestarts --value gateway)"
systemctl restart gateway; systemctl stop gateway
timeout 400 python3 /late.py
systemctl stop gateway.socket gateway
echo "STOPPED $(systemctl show -p ActiveState --value gateway) $(systemctl show -p Result --value gateway)"
journalctl -u gateway -o cat --no-pager | grep reload
"""
_DOCKER = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The root directory of a Debian system with systemd and the gateway."""
    need_guest()
    need(find("mmdebstrap") is not None, "mmdebstrap (package of this name)")
    made = tmp_path / "root"
    download("mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", "trixie", str(made), creates=made)
    for folder in ("var/cache/apt", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(made / folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--target", str(made / _SITE), "--require-hashes")
    wheels = ("--python-version", "3.13", "--only-binary", ":all:")
    download(*pip, "-r", str(REPOSITORY / "requirements.lock"), *wheels)
    shutil.copytree(REPOSITORY / "gateway", made / _SITE / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    # Compile the modules here, because the unit cannot write the compiled files.
    compile_all = ("chroot", str(made), "python3", "-m", "compileall", "-q", f"/{_SITE}")
    subprocess.run(compile_all, check=True, timeout=300)
    (made / "usr/local/bin/gateway").write_text(_COMMAND)
    (made / "usr/local/bin/gateway").chmod(0o755)
    for unit in ("gateway.service", "gateway.socket"):
        shutil.copy(REPOSITORY / "configs/systemd" / unit, made / "etc/systemd/system")
    # The virtual machine is slow while other tests run, so the start timeout is long.
    drop_in = made / "etc/systemd/system/gateway.service.d"
    drop_in.mkdir()
    (drop_in / "slow.conf").write_text("[Service]\nTimeoutStartSec=600s\n")
    yield made
    shutil.rmtree(made)


def test_the_systemd_units_start_reload_are_watched_and_stop(root: Path, tmp_path: Path) -> None:
    """systemd starts the gateway when the first client connects to the socket unit.

    The address of Docker's bridge is assigned only after the socket unit and the gateway have started.
    """
    listen = free_port()
    unit = root / "etc/systemd/system/gateway.socket"
    streams = f"127.0.0.1:{listen}\nListenStream=172.17.0.1:{listen}"
    unit.write_text(unit.read_text().replace("127.0.0.1:20490", streams))
    (root / "etc/systemd/system/docker.service").write_text(_DOCKER)
    for word, host in (("early", "127.0.0.1"), ("late", "127.0.0.1"), ("bridge", "172.17.0.1")):
        (root / f"{word}.py").write_text(_CLIENT.format(host=host, port=listen, word=word.upper()))
    bastion = Bastion(tmp_path / "bastion").start()
    try:
        with serving(echoing) as port:
            etc = root / "etc/gateway"
            (etc / "secrets").mkdir(parents=True)
            shutil.copy(bastion.client_key, etc / "secrets/tunnel_key")
            (etc / "secrets/tunnel_key").chmod(0o600)
            (etc / "known_hosts").write_text(bastion.known_hosts.read_text().replace("127.0.0.1", HOST))
            (etc / "gateway.yaml").write_text(
                # Automatic reloads are off, because the test counts the reloads that `_SCRIPT` requests.
                f"log: {{level: info}}\ngateway: {{reload_on_change: false}}\n"
                f"tunnels: {{bastion: {{kind: ssh, host: {HOST}, port: {bastion.port}, user: {bastion.user}, "
                "identity_files: ['${CREDENTIALS_DIRECTORY}/tunnel_key'], known_hosts: [/etc/gateway/known_hosts]}}\n"
                f"backends: {{echo: {{kind: tcp, via: bastion, targets: ['127.0.0.1:{port}'], "
                f"listen: ['127.0.0.1:{listen}', '172.17.0.1:{listen}'], hold: 300s}}}}\n"
            )
            with Guest(tmp_path / "guest", _SCRIPT, memory=2048, root=root) as guest:
                guest.wait_for("STARTED active", 300)
                guest.wait_for("UP", 300)
                guest.wait_for("GUEST-DONE", 1200)
                words = ("BEFORE", "EARLY", "BRIDGE", "CAPS", "STILL", "WATCHDOG", "LATE", "STOPPED", "ORDER")
                said = {word: guest.said(rf"^{word} (.*)") for word in words}
                assert said == {
                    "BEFORE": ["inactive"],
                    "EARLY": ["hello"],
                    "BRIDGE": ["hello"],
                    "LATE": ["hello"],
                    "CAPS": ["0000000000000000"],
                    "STILL": ["active"],
                    "WATCHDOG": ["1"],
                    "STOPPED": ["inactive success"],
                    "ORDER": ["gateway, docker"],
                }, guest.lines
                assert "IT IS ROOT" not in guest.lines
                assert guest.said(r"^CORE Max core file size +(0) +0 "), guest.lines
                assert guest.said(r"^MEMORY (2147483648)$"), guest.lines
                assert guest.said(r"^EXPOSURE (.*)"), guest.lines
                assert "RELOADED" in guest.lines
                assert guest.said(r'"reloaded".*"changes": "(.*?)"') == ["sections changed: log"], guest.lines
                assert guest.said(r"(reload failed: the previous configuration is in effect)")
    finally:
        bastion.stop()
