"""Tests `gateway import` with common setups: a gateway with the printed configuration reaches real servers."""

from pathlib import Path

import pytest
import yaml

from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import query_mysql
from tests.support.gateway_process import Gateway, command

pytestmark = pytest.mark.integration


def ssh_command(bastion: Bastion, listen: int, target: int) -> str:
    return (
        f"ssh -N -f -i {bastion.client_key} -o UserKnownHostsFile={bastion.known_hosts} -p {bastion.port}"
        f" -L {listen}:127.0.0.1:{target} {bastion.user}@127.0.0.1"
    )


def serve(gateway: Gateway, *sources: str) -> None:
    """Import the sources, and start a gateway with the result."""
    done = command("import", *sources)
    assert done.returncode == 0, done.stderr
    gateway.write(done.stdout)
    checked = command("validate", "-c", str(gateway.config))
    assert checked.returncode == 0, checked.stderr
    gateway.start()


def test_an_ssh_command_and_the_variables_of_an_application(
    gateway: Gateway, shared_bastion: Bastion, shared_mariadb: MariaDB, tmp_path: Path
) -> None:
    port = free_port()
    secret = tmp_path / "secret"
    secret.write_text(shared_mariadb.check_password)
    secret.chmod(0o600)
    variables = tmp_path / "app.env"
    variables.write_text(
        f"DB_HOST=127.0.0.1\nDB_PORT={port}\nDB_CONNECTION=mysql\nDB_USER={shared_mariadb.check_user}\n"
        f"DB_PASSWORD_FILE={secret}\nDB_DATABASE={shared_mariadb.database}\n"
    )
    serve(gateway, ssh_command(shared_bastion, port, shared_mariadb.port), str(variables))
    (name,) = yaml.safe_load(gateway.config.read_text())["backends"]
    gateway.wait_up(name)
    assert query_mysql(shared_mariadb, port) > 0


def test_an_ssh_command_and_a_compose_file_with_an_nfs_volume(
    gateway: Gateway, shared_bastion: Bastion, shared_nfs: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    file = tmp_path / "compose.yaml"
    file.write_text(f"""
services:
  app: {{image: app, volumes: ["nfs-volume:/mnt/shared"]}}
volumes:
  nfs-volume:
    driver: local
    driver_opts: {{type: nfs, o: "addr=localhost,port={port},rw", device: ":{shared_nfs.pseudo}"}}
""")
    serve(gateway, ssh_command(shared_bastion, port, shared_nfs.port), str(file))
    gateway.wait_up("nfs-volume")
