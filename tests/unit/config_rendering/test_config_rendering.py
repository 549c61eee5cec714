"""What `gateway render` prints for configurations with backends of several kinds."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.backends import KINDS
from gateway.config import Config, ConfigSources, load
from gateway.config_rendering.application_container_settings import compose, docker_run, env, reachability_warnings
from gateway.config_rendering.authorized_keys import authorized_keys
from gateway.config_rendering.kubernetes_workload import kubernetes
from gateway.demo.sshd import make_key
from gateway.errors import GatewayError, UsageError


def config(text: str, folder: Path) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return load(ConfigSources(file=file, environment={}))


def test_authorized_keys_permit_the_servers_of_inner_tunnels_of_any_kind(tmp_path: Path) -> None:
    key = tmp_path / "key"
    make_key(key)
    site = config(
        f"""
tunnels:
  edge: {{kind: ssh, host: edge, user: t, identity_files: [{key}], known_hosts: [/h]}}
  inner: {{kind: ssh, via: edge, host: inner, port: 2222, user: t, identity_files: [{key}], known_hosts: [/h]}}
  egress: {{kind: proxy, via: [inner, edge], url: "socks5://proxy:1080"}}
backends:
  orders: {{kind: tcp, via: [inner, edge], targets: ["db:3306"], listen: "127.0.0.1:3306"}}
  split: {{kind: tcp, targets: ["a:1", {{address: "b:1", via: edge}}], via: inner, listen: "127.0.0.1:3307"}}
  shop: {{kind: postgres, via: edge, targets: [pg-1, pg-2], check: {{via_http: {{port: 8008}}}}}}
""",
        tmp_path,
    )
    permits = [line for line in authorized_keys(site, []) if "permitopen" in line]
    shop = "pg-1:5432 pg-1:8008 pg-2:5432 pg-2:8008"
    of_edge, of_inner = f"inner:2222 proxy:1080 db:3306 b:1 {shop}", "proxy:1080 db:3306 a:1"
    for line, dialed in zip(permits, (of_edge, of_inner), strict=True):
        assert re.findall(r'permitopen="(\S+?)"', line) == dialed.split()


def test_authorized_keys_need_a_tunnel_with_such_a_file(tmp_path: Path) -> None:
    site = config("backends: {a: {kind: tcp, targets: ['b:1'], listen: '127.0.0.1:7000'}}", tmp_path)
    with pytest.raises(GatewayError, match="no tunnel of kind ssh is configured"):
        authorized_keys(site, [])


def test_authorized_keys_need_a_readable_passphrase_for_a_private_key_alone(tmp_path: Path) -> None:
    key, passphrase = tmp_path / "key", tmp_path / "missing"
    key.write_text("")
    site = config(
        f"""
tunnels: {{edge: {{kind: ssh, host: edge, user: t, identity_files: [{key}], passphrase_file: {passphrase}}}}}
backends: {{orders: {{kind: tcp, via: edge, targets: ["db:3306"], listen: "127.0.0.1:3306"}}}}
""",
        tmp_path,
    )
    with pytest.raises(GatewayError, match=f"passphrase_file: {passphrase}: No such file"):
        authorized_keys(site, [])
    make_key(tmp_path / "other")
    public = (tmp_path / "other.pub").read_text()
    key.with_name("key.pub").write_text(public)
    assert authorized_keys(site, [])[-1].endswith(f" {public.strip()}")


def test_a_pod_of_podman_may_listen_on_loopback_and_a_service_needs_more(tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['b:1'], listen: '127.0.0.1:7000'}}"
    site = config(text, tmp_path)
    kinds = [each["kind"] for each in yaml.safe_load_all(kubernetes(site, text, "gateway", "image", podman=True))]
    assert kinds == ["ConfigMap", "Deployment"]
    with pytest.raises(UsageError, match=r"backends\.a\.listen: other pods cannot reach 127\.0\.0\.1:7000"):
        kubernetes(site, text, "gateway", "image")


def test_a_pod_has_no_unix_sockets_for_clients(tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['b:1'], listen: [0.0.0.0:7000, {unix: /run/gateway/a.sock}]}}"
    for podman in (False, True):
        with pytest.raises(UsageError, match=r"backends\.a\.listen: other pods cannot reach a unix socket"):
            kubernetes(config(text, tmp_path), text, "gateway", "image", podman=podman)


@pytest.mark.parametrize(("name", "valid"), [("a" * 52, True), ("a" * 53, False), ("A", False), ("a-", False)])
def test_the_name_of_the_objects_is_a_dns_label(name: str, valid: bool, tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['b:1'], listen: '0.0.0.0:7000'}}"
    site = config(text, tmp_path)
    if valid:
        assert name in kubernetes(site, text, name, "image")
    else:
        with pytest.raises(UsageError, match="--name"):
            kubernetes(site, text, name, "image")


def test_a_listener_on_loopback_gets_a_warning(tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['b:1'], listen: 127.0.0.1:7000}}"
    (warning,) = reachability_warnings(config(text, tmp_path))
    assert warning.startswith("backends.a.listen: only containers with the host's network reach 127.0.0.1:7000")


def test_containers_use_a_listener_that_is_not_on_loopback(tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['b:1'], listen: ['127.0.0.1:7000', '0.0.0.0:7001']}}"
    assert not list(reachability_warnings(config(text, tmp_path)))
    assert env(config(text, tmp_path), None) == ["A_HOST=a", "A_PORT=7001"]
    assert env(config(text, tmp_path), "127.0.0.1") == ["A_HOST=127.0.0.1", "A_PORT=7000"]


def test_backends_with_the_same_variables_are_an_error(tmp_path: Path) -> None:
    backend = "{kind: tcp, targets: ['b:1'], listen: '0.0.0.0:%d'}"
    text = f"backends: {{my-db: {backend % 7000}, my_db: {backend % 7001}}}"
    with pytest.raises(UsageError, match="backends my-db and my_db: both have the variable MY_DB_HOST: rename one"):
        env(config(text, tmp_path), None)


def test_a_name_that_starts_with_a_digit_gives_a_name_of_a_variable(tmp_path: Path) -> None:
    text = "backends: {10-0-0-5: {kind: tcp, targets: ['a:1'], listen: '0.0.0.0:7000'}}"
    assert env(config(text, tmp_path), None) == ["_10_0_0_5_HOST=10-0-0-5", "_10_0_0_5_PORT=7000"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_rendered_for_compose_docker_run_and_kubernetes(name: str, tmp_path: Path) -> None:
    """Backends of a kind with `mount` are rendered as volumes, and other backends as environment variables."""
    kind = KINDS[name]
    mounted = kind.mount is not None
    listen = "127.0.0.1:7000" if mounted else "0.0.0.0:7000"
    keys = {"kind": name, "targets": ["server:7001"], "listen": listen, **kind.imports.keys}
    text = yaml.safe_dump({"backends": {"data": {**keys, **({"volume": {"name": "files"}} if mounted else {})}}})
    site = config(text, tmp_path)
    assert env(site, None) == ([] if mounted else ["DATA_HOST=data", "DATA_PORT=7000"])
    document = yaml.safe_load(compose(site, None))
    commands = [shlex.split(each) for each in docker_run(site, None).replace(" \\\n", " ").splitlines()]
    documents = list(yaml.safe_load_all(kubernetes(site, text, "gateway", "image")))
    kinds = [each["kind"] for each in documents]
    assert commands[-1][:2] == ["docker", "run"]
    if not mounted:
        assert document["services"]["app"]["environment"] == {"DATA_HOST": "data", "DATA_PORT": "7000"}
        assert {"DATA_HOST=data", "DATA_PORT=7000"} <= set(commands[-1])
        assert kinds == ["ConfigMap", "Deployment", "Service"]
        return
    options = document["volumes"]["files"]["driver_opts"]
    assert commands[0][:3] == ["docker", "volume", "create"]
    assert {f"{key}={value}" for key, value in options.items()} < set(commands[0])
    assert any(word.startswith("type=volume,src=files,dst=/mnt/files") for word in commands[-1])
    assert kinds == ["ConfigMap", "DaemonSet", "PersistentVolume", "PersistentVolumeClaim"]
    shared = set(options["o"].split(",")) & set(documents[2]["spec"]["mountOptions"])
    assert {"port=7000", "hard"} <= shared
