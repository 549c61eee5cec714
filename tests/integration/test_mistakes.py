"""Tests the exact messages for wrong configurations that the gateway detects only when it connects to a server.

`UPDATE_GOLDEN=1` rewrites the messages in `mistakes.yaml`.
"""

import json
import os
from pathlib import Path

import asyncssh
import pytest
import yaml

from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.certificates import Authority
from tests.support.configs import database_check, ssh_tunnel
from tests.support.gateway_process import command

pytestmark = pytest.mark.integration

PATIENT = "interval: 1s, timeout: 20s"
GOLDEN = Path(__file__).parent / "mistakes.yaml"
"""The file with the expected state, reason and message of each backend in the configuration."""


def fingerprint(path: Path) -> str:
    return asyncssh.read_public_key(str(path)).get_fingerprint()


def test_each_mistake_has_its_message(
    shared_bastion: Bastion, shared_mariadb: MariaDB, shared_postgres: Postgres, tmp_path: Path
) -> None:
    good, closed = ssh_tunnel(shared_bastion), free_port()
    server, user, key = f"127.0.0.1:{shared_bastion.port}", shared_bastion.user, shared_bastion.client_key
    other, hosts, changed = tmp_path / "other_key", tmp_path / "no_hosts", tmp_path / "changed_hosts"
    for path in (other, tmp_path / "host_key"):
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(path))
        path.chmod(0o600)
    hosts.write_text("")
    other_host = asyncssh.read_private_key(str(tmp_path / "host_key")).export_public_key().decode()
    changed.write_text(f"[127.0.0.1]:{shared_bastion.port} {other_host}")
    listed, orders = str(shared_bastion.known_hosts), database_check(shared_mariadb, tmp_path, PATIENT)
    reports = database_check(shared_postgres, tmp_path, PATIENT)
    ca_file = Authority(tmp_path / "authority").ca
    wrong = tmp_path / "wrong.secret"
    wrong.write_text("wrong")
    wrong.chmod(0o600)

    def with_wrong_password(check: str, server: MariaDB | Postgres) -> str:
        return check.replace(f"{type(server).__name__}.secret", "wrong.secret")

    file = tmp_path / "gateway.yaml"
    file.write_text(f"""
tunnels:
  good: {good}
  wrong-user: {good.replace(f"user: {user}", "user: no-user")}
  wrong-key: {good.replace(str(key), str(other))}
  wrong-port: {good.replace(f"port: {shared_bastion.port}", f"port: {closed}")}
  not-ssh: {good.replace(f"port: {shared_bastion.port}", f"port: {shared_mariadb.port}")}
  unknown-host: {good.replace(listed, str(hosts))}
  changed-host: {good.replace(listed, str(changed))}
  no-name: {good.replace("host: 127.0.0.1", "host: no-such-host.invalid")}
backends:
  wrong-user: {{kind: tcp, via: wrong-user, targets: ["db:1"], check: {{{PATIENT}}}}}
  wrong-key: {{kind: tcp, via: wrong-key, targets: ["db:1"], check: {{{PATIENT}}}}}
  wrong-port: {{kind: tcp, via: wrong-port, targets: ["db:1"], check: {{{PATIENT}}}}}
  not-ssh: {{kind: tcp, via: not-ssh, targets: ["db:1"], check: {{{PATIENT}}}}}
  unknown-host: {{kind: tcp, via: unknown-host, targets: ["db:1"], check: {{{PATIENT}}}}}
  changed-host: {{kind: tcp, via: changed-host, targets: ["db:1"], check: {{{PATIENT}}}}}
  no-name: {{kind: tcp, via: no-name, targets: ["db:1"], check: {{{PATIENT}}}}}
  refused: {{kind: tcp, targets: ["127.0.0.1:{closed}"], check: {{{PATIENT}}}}}
  refused-behind: {{kind: tcp, via: good, targets: ["127.0.0.1:{closed}"], check: {{{PATIENT}}}}}
  mysql-password:
    kind: mysql
    targets: ["127.0.0.1:{shared_mariadb.port}"]
    check: {with_wrong_password(orders, shared_mariadb)}
  mysql-database:
    kind: mysql
    targets: ["127.0.0.1:{shared_mariadb.port}"]
    check: {orders.replace(f"database: {shared_mariadb.database}", "database: mysql")}
  mysql-at-ssh: {{kind: mysql, targets: ["{server}"], check: {orders}}}
  postgres-password:
    kind: postgres
    targets: ["127.0.0.1:{shared_postgres.port}"]
    check: {with_wrong_password(reports, shared_postgres)}
  postgres-database:
    kind: postgres
    targets: ["127.0.0.1:{shared_postgres.port}"]
    check: {reports.replace(f"database: {shared_postgres.database}", "database: nothing")}
  postgres-tls:
    kind: postgres
    targets: ["127.0.0.1:{shared_postgres.port}"]
    check: {reports.replace("interval", f"tls: {{mode: verify, ca_file: {ca_file}}}, interval")}
""")
    names = {
        str(key): "KEY",
        str(other): "OTHER",
        str(changed): "KNOWN_HOSTS",
        fingerprint(key): "FINGERPRINT",
        fingerprint(other): "OTHER_FINGERPRINT",
        fingerprint(shared_bastion.folder / "host_key.pub"): "HOST_FINGERPRINT",
        f":{shared_bastion.port}": ":SSH",
        f"-p {shared_bastion.port}": "-p SSH",
        f":{shared_mariadb.port}": ":MYSQL",
        f":{closed}": ":CLOSED",
        f"{user}@": "USER@",
        f"of {user} ": "of USER ",
    }
    done = command("check", "-c", str(file), "-o", "json")
    found = {}
    for each in json.loads(done.stdout):
        detail = each["detail"]
        for text, name in names.items():
            detail = detail.replace(text, name)
        found[each["backend"]] = f"{each['state']}: {each['reason']}: {detail}"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(yaml.safe_dump(found, width=118, allow_unicode=True))
    assert found == yaml.safe_load(GOLDEN.read_text())
