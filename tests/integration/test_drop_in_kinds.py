"""Tests new kinds of backends and tunnels. Each kind is one file outside the package `gateway`."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import make_key
from tests.support.files import PYTHON_PATH, REPOSITORY
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SOURCE = Path(__file__).parent / "drop_in_kinds"
EXTEND = """
import os
import gateway.backends
import gateway.tunnels

folder = os.path.dirname(__file__)
gateway.backends.__path__.append(f"{folder}/backends")
gateway.tunnels.__path__.append(f"{folder}/tunnels")
"""
"""The content of sitecustomize.py, which Python imports at its start. It adds the directories of the new kinds."""
HELLO = b"hello from a drop-in kind\n"


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    folder = tmp_path / "kinds"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sitecustomize.py").write_text(EXTEND)
    return folder


def extended(kinds: Path) -> dict[str, str]:
    """Return the environment variables of a gateway that has the new kinds."""
    return {"PYTHONPATH": f"{kinds}:{PYTHON_PATH}"}


def run(kinds: Path, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = command(*arguments, environment=extended(kinds))
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done


@pytest.fixture
def web_port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "hello.txt").write_bytes(HELLO)
    port = free_port()
    serve = ["-m", "http.server", str(port), "-b", "127.0.0.1", "-d", str(tmp_path / "www")]
    server = ServerProcess([sys.executable, *serve], tmp_path / "www.log")
    server.start(port)
    yield port
    server.stop()


@pytest.fixture
def hop_port(tmp_path: Path, web_port: int) -> Iterator[int]:
    socat = find("socat")
    need(socat is not None, "socat")
    port = free_port()
    options = "bind=127.0.0.1,reuseaddr,fork"
    forwarder = ServerProcess(
        [socat or "", f"TCP-LISTEN:{port},{options}", f"TCP:127.0.0.1:{web_port}"], tmp_path / "hop.log"
    )
    forwarder.start(port)
    yield port
    forwarder.stop()


def test_a_service_checks_shows_and_forwards_added_kinds(
    kinds: Path, tmp_path: Path, hop_port: int, gateway: Gateway
) -> None:
    listen = free_port()
    # No server has the address of the target. The forwarder connects to a local HTTP server instead.
    given = [
        "--tunnel", f"near=hop://127.0.0.1:{hop_port}?comment=known",
        "--backend", f"files=webhead://192.0.2.1/hello.txt?via=near&listen=127.0.0.1:{listen}",
    ]  # fmt: skip
    assert run(kinds, "validate", *given).stdout == "valid: 1 tunnel, 1 backend\n"
    (checked,) = json.loads(run(kinds, "check", *given, "-o", "json").stdout)
    assert (checked["target"], checked["state"]) == ("192.0.2.1:8000", "up")
    wrong = run(kinds, "check", *given[:-1], given[-1].replace("hello", "missing"), "-o", "json", fails=True)
    assert "status 404" in json.loads(wrong.stdout)[0]["detail"]
    # The URL scheme `webhead` selects the HTTP method HEAD.
    assert '"HEAD /hello.txt HTTP/1.1" 200' in (tmp_path / "www.log").read_text()
    gateway.write("")
    gateway.start(*given, environment=extended(kinds))
    gateway.wait_up("files")
    with urllib.request.urlopen(f"http://127.0.0.1:{listen}/hello.txt", timeout=20) as response:
        assert response.read() == HELLO
    (target,) = gateway.backend("files")["targets"]
    assert target["version"].startswith("SimpleHTTP/")
    assert (target["file_bytes"], target["headers"]["Server"]) == (len(HELLO), 1)
    assert target["facts"] == [target["version"], f"file of {len(HELLO)} B", f"{len(target['headers'])} headers"]
    assert (target["lag_seconds"], target["space_bytes"]) == (None, {})
    # The check and the client have each dialed the forwarder at least once.
    gateway.wait(lambda: gateway.tunnel("near")["dials"] >= 2)
    tunnel = gateway.tunnel("near")
    assert tunnel["facts"] == [f"{tunnel['dials']} dials", "plain"]
    page = gateway.http.get("/")[1]
    assert re.search(r"hop, 127\.0\.0\.1:\d+, \d+ dials, plain</span>", page), page
    assert re.search(r"<dt>comment</dt>\s*<dd>\(hidden\)</dd>", page), page
    page = gateway.http.get("/backends/files")[1]
    assert f"file of {len(HELLO)} B, {len(target['headers'])} headers" in page
    metrics = gateway.http.get("/metrics")[1]
    for line in (
        "# HELP gateway_web_file_bytes Size of the file that the probe requests.",
        f'gateway_web_file_bytes{{backend="files",target="192.0.2.1:8000"}} {float(len(HELLO))}',
        'gateway_web_headers{backend="files",header="Server",target="192.0.2.1:8000"} 1.0',
        'gateway_hop_info{mode="plain",tunnel="near"} 1.0',
        'gateway_hop_dials{tunnel="near"} ',
    ):
        assert f"\n{line}" in metrics, line
    for shown in (gateway.command("status", "-o", "wide"), gateway.command("explain", "files")):
        assert f"file of {len(HELLO)} B" in shown.stdout, shown


def test_a_configuration_accepts_added_kinds(kinds: Path, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "tunnels: {near: {kind: forwarder, host: h, port: 1}}\n"
        "backends:\n  a: {kind: webserver, targets: a}\n  b: {kind: ninep, targets: b, tree: x, volume: {name: bb, "
        "mount_options: [trans=rdma, version=1]}}\n"
    )
    errors = run(kinds, "validate", "-c", str(file), fails=True).stderr
    for words in ("use 'hop'", "use 'web'", "must begin with / for a volume"):
        assert words in errors, errors
    assert "trans is set by the gateway" in errors
    assert "version=1: mounts through the gateway support only 9p2000.L" in errors
    two = ["--tunnel", "near=hop://h:1", "--backend", "a=web://a", "--backend", "b=web://b"]
    advised = run(kinds, "validate", *two).stderr
    assert "backend b: backend a is of kind web, too" in advised
    assert "tunnels.near.host: is a forwarder without encryption" in advised
    assert "backends.a.targets: are not encrypted" in advised
    assert (
        "a mysql URL must not have a path: remove '/x'"
        in run(kinds, "validate", "--backend", "a=mysql://a/x", fails=True).stderr
    )


def test_the_reference_lists_added_kinds(kinds: Path) -> None:
    program = "import sys; sys.path.insert(0, 'tools'); import reference; print(reference.text())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, cwd=REPOSITORY,
        env={**os.environ, **extended(kinds)},
    )  # fmt: skip
    text = done.stdout
    for words in (
        "### `backends.NAME`, kind `web`", "### `backends.NAME`, kind `web`, `check`", "8000 (`web`)", "10s (`web`)",
        "### `tunnels.NAME`, kind `hop`", "| `gateway_web_file_bytes` | gauge | `backend`, `target` |",
        "| `gateway_hop_info` | gauge | `tunnel`, `mode` |", "### `volume` (kinds `nfs`, `ninep`, `smb`)",
    ):  # fmt: skip
        assert words in text, words


def test_docker_networks_do_not_contain_the_server_of_an_added_tunnel(kinds: Path, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "tunnels: {near: {kind: hop, host: 10.201.0.5, port: 1}}\ndocker: {networks: {apps: {}}}\n"
        "backends: {files: {kind: web, via: near, targets: www, listen: 0.0.0.0:8000}}\n"
    )
    program = (
        "import pathlib, sys; from gateway.config import ConfigSources, load;"
        "from gateway.app.docker_desired_state import desired;"
        "print(desired(load(ConfigSources(pathlib.Path(sys.argv[1]), environment={}))).direct)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, **extended(kinds)},
    )  # fmt: skip
    assert done.stdout == "('10.201.0.5',)\n"


def test_import_writes_added_kinds(kinds: Path, tmp_path: Path) -> None:
    done = run(kinds, "import", "ssh", "ssh -i /k -L 8001:www:8001 -N me@edge")
    backend = yaml.safe_load(done.stdout)["backends"]["www"]
    assert (backend["kind"], backend["file"]) == ("web", "/")
    assert "set file to one that is always there" in done.stderr
    compose = tmp_path / "compose.yaml"
    volumes = {
        name: {"driver_opts": {"type": "9p", "device": "nas", "o": f"trans=tcp,aname=/{name}"}}
        for name in ("media", "music")
    }
    compose.write_text(json.dumps({"volumes": volumes}))
    done = run(kinds, "import", "compose", str(compose))
    assert yaml.safe_load(done.stdout)["backends"] == {
        "media": {
            "kind": "ninep", "targets": ["nas:564"], "tree": "/media", "listen": "127.0.0.1:20490",
            "volume": {"name": "media", "read_only": True},
        },
    }  # fmt: skip
    assert "volumes.media: look at tree" in done.stderr
    assert "backend media has another" in done.stderr
    assert "and tree /music" in done.stderr
    hop = tmp_path / "near.hop"
    hop.write_text("forwarder 7")
    done = run(kinds, "import", str(hop))
    assert yaml.safe_load(done.stdout)["tunnels"] == {"near": {"kind": "hop", "host": "forwarder", "port": "7"}}
    compose.write_text("services: {app: {image: app, environment: {DB_HOST: db, DB_PORT: '3306'}}}")
    assert "+    comment: known\n" in run(kinds, "import", "--diff", str(compose), str(hop)).stdout
    compose.write_text("services: {app: {image: app, environment: {PAGES: 'weblib://pages/'}}}")
    backend = yaml.safe_load(run(kinds, "import", "compose", str(compose)).stdout)["backends"]["pages"]
    assert (backend["kind"], backend["targets"]) == ("web", ["pages:8000"])
    fstab = tmp_path / "fstab"
    fstab.write_text("nas /mnt/media 9p trans=tcp,aname=/media 0 0\n")
    done = run(kinds, "import", "fstab", str(fstab))
    backend = yaml.safe_load(done.stdout)["backends"]["media"]
    assert (backend["kind"], backend["tree"]) == ("ninep", "/media")
    line = "127.0.0.1 /mnt/media 9p trans=tcp,port=20490,aname=/media,_netdev 0 0"
    assert f"new line of /etc/fstab: {line}" in done.stderr
    assert "line 1: the new line has no cache" in done.stderr


def test_render_uses_the_ports_and_mounts_of_added_kinds(kinds: Path, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    make_key(tmp_path / "key")
    edge = f"{{kind: ssh, host: edge, user: u, identity_files: {tmp_path}/key}}"
    file.write_text(
        f"tunnels:\n  edge: {edge}\n  near: {{kind: hop, host: forwarder, port: 7, via: edge}}\n"
        "backends:\n  files: {kind: web, via: near, targets: www, listen: 0.0.0.0:8000}\n"
    )
    key = run(kinds, "render", "authorized-keys", "-c", str(file)).stdout
    assert 'restrict,port-forwarding,permitopen="forwarder:7",permitlisten=' in key
    assert run(kinds, "render", "env", "-c", str(file)).stdout.split() == ["FILES_HOST=files", "FILES_PORT=8000"]
    file.write_text("backends: {files: {kind: web, targets: www, listen: 0.0.0.0:8000}}")
    documents = list(yaml.safe_load_all(run(kinds, "render", "kubernetes", "-c", str(file)).stdout))
    assert [each["kind"] for each in documents] == ["ConfigMap", "Deployment", "Service"]
    tree = "ninep, targets: nas, tree: /x, listen: 127.0.0.1:20490, volume: {name: media}"
    file.write_text(f"backends: {{tree: {{kind: {tree}}}}}")
    documents = list(yaml.safe_load_all(run(kinds, "render", "kubernetes", "-c", str(file)).stdout))
    assert [each["kind"] for each in documents] == [
        "ConfigMap", "DaemonSet", "PersistentVolume", "PersistentVolumeClaim",
    ]  # fmt: skip
    assert documents[2]["spec"]["csi"]["volumeHandle"] == "/x"
    assert run(kinds, "render", "env", "-c", str(file)).stdout.split() == []
    assert "--opt type=9p --opt device=127.0.0.1" in run(kinds, "render", "docker-run", "-c", str(file)).stdout
    file.write_text(f"backends: {{tree: {{kind: {tree}}}, files: {{kind: web, targets: www}}}}")
    mixed = run(kinds, "render", "kubernetes", "-c", str(file), fails=True).stderr
    assert "kind ninep needs a DaemonSet, and kind web needs a Deployment" in mixed
