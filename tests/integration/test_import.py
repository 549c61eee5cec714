"""Runs `gateway import` on examples, starts a gateway with the printed configuration, and connects clients.

In the examples, the test replaces the hosts and the SSH users with those of real servers, and the paths of keys,
secrets and exports with existing paths. The servers are reachable at their standard ports.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.server_process import find
from gateway.demo.sshd import Bastion
from tests.support.clients import query_mysql, query_postgres, read_nfs
from tests.support.gateway_process import Gateway, command
from tests.support.import_cases import FOLDER, sections
from tests.support.netns import inside, run
from tests.support.requirements import need

pytestmark = pytest.mark.integration

ADDRESS = "10.66.0.1"
"""The address at which the gateway and the SSH server reach all servers."""


HOSTS = (
    r"\b((bastion|edge|remote-db)\.example\.com|db\.internal|sql\.corporate\.internal\.tld|NFS_SERVER|10\.0\.0\.5"
    r"|203\.0\.113\.7)\b"
    r"|(?<=u@)b(astion)?\b|(?<=TUNNEL_HOST: )\S+|(?<=2049:)nas|(?<=3306 )db|(?<=5432 )pg"
)
"""A pattern that matches the host names and addresses in the examples."""
USERS = rf"\w+(?=@{re.escape(ADDRESS)})|(?<=User )\w+|(?<=SSH_USER[:=])\w+|(?<=SSH_USER: )\w+"
"""A pattern that matches the SSH users in the examples, after the hosts have been replaced by `ADDRESS`."""


@dataclass
class Site:
    """Servers in a network namespace, and a home directory with keys.

    Args:
        home: A directory with `.ssh`, and the files for secrets.
        bastion: An SSH server on port 22.
        mariadb: A MariaDB server on port 3306, with the users and the database of the examples.
        postgres: A PostgreSQL server on port 5432.
        nfs: An NFS server on port 2049.
    """

    home: Path
    bastion: Bastion
    mariadb: mariadb.MariaDB
    postgres: postgres.Postgres
    nfs: nfs.NfsServer

    def orders(self, port: int = 3306) -> bool:
        return query_mysql(self.mariadb, port) > 0

    def reports(self) -> bool:
        return query_postgres(self.postgres, 5432) > 0

    def file(self) -> bool:
        return read_nfs(2049) == "hello over NFS\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server_folder: Path) -> Iterator[Site]:
    need(os.geteuid() == 0 and find("sshd") is not None, "root, and sshd (package openssh-server)")
    need(mariadb.available() and postgres.available() and nfs.available(), "mariadbd, postgres and ganesha.nfsd")
    namespace, place = f"gwt-import-{os.getpid()}", server_folder / "import"
    home = tmp_path_factory.mktemp("home")
    with contextlib.ExitStack() as stack:
        run(f"ip netns add {namespace}")
        stack.callback(run, f"ip netns del {namespace}")
        stack.enter_context(inside(namespace))
        made = Site(
            home,
            Bastion(place / "bastion"),
            mariadb.MariaDB(place / "mariadb"),
            postgres.Postgres(place / "postgres"),
            nfs.NfsServer(place / "nfs"),
        )
        run(
            f"set -e; ip link set lo up; ip addr add {ADDRESS}/32 dev lo;"
            f"iptables -t nat -A POSTROUTING -s {ADDRESS} -d 127.0.0.1 -j SNAT --to-source 127.0.0.1"
        )
        for port, server in ((22, made.bastion), (3306, made.mariadb), (5432, made.postgres), (2049, made.nfs)):
            stack.callback(server.stop)
            server.start()
            run(f"iptables -t nat -A OUTPUT -p tcp -d {ADDRESS} --dport {port} -j REDIRECT --to-ports {server.port}")
        (made.nfs.export / "hello.txt").write_text("hello over NFS\n")
        made.mariadb.execute(
            "CREATE DATABASE mydatabase", "CREATE USER myuser@'%' IDENTIFIED BY 'mypassword'",
            "GRANT SELECT ON mydatabase.* TO myuser@'%'", "CREATE USER shop@'%' IDENTIFIED BY 'envsecret1'",
        )  # fmt: skip
        (home / ".ssh").mkdir()
        host_key = made.bastion.known_hosts.read_text().partition(" ")[2]
        (home / ".ssh" / "known_hosts").write_text(f"{ADDRESS} {host_key}")
        for name in ("id", "id_rsa", "tunnel"):
            (home / ".ssh" / name).write_bytes(made.bastion.client_key.read_bytes())
            (home / ".ssh" / name).chmod(0o600)
        yield made


@pytest.fixture(scope="module")
def agent(site: Site) -> Iterator[str]:
    """The path of the socket of an SSH agent that holds the client's key."""
    path = site.home / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the agent prints a line as soon as its socket exists
            subprocess.run(["ssh-add", "-q", site.home / ".ssh" / "id"], check=True, timeout=10,
                           env={**os.environ, "SSH_AUTH_SOCK": str(path)})  # fmt: skip
            yield str(path)
        finally:
            process.terminate()


def replaced(text: str, site: Site) -> str:
    """Return the text of an example with the addresses, users, keys and exports of the test's servers."""
    for old, new in (
        (HOSTS, ADDRESS),
        (USERS, site.bastion.user),
        (r"/path/to/private_key|/etc/tunnel/key|/k\b", str(site.home / ".ssh" / "id")),
        (r"/path/to/shared/folder|/export/home", site.nfs.pseudo),
    ):
        text = re.sub(old, new, text)
    return text


CASES: dict[str, tuple[int, list[Callable[[Site], bool]]]] = {
    "ssh_one_forward": (0, [Site.orders]),
    "ssh_config": (0, [Site.orders, Site.reports]),
    "systemd_unit": (0, [Site.orders]),
    "env_file_and_ssh": (1, [lambda site: site.orders(3307)]),
    "compose_database_over_ssh": (1, [Site.orders]),
    "docker_run_database": (1, [Site.orders]),
    "compose_hsborges_autossh": (0, [Site.reports]),
    "nfs_volume_and_ssh": (1, [Site.file]),
    "fstab_and_ssh": (1, [Site.file]),
}
"""For each example, the number of backends with a check, and the client requests that must succeed."""


@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_corpus_works(case: str, site: Site, agent: str, gateway: Gateway, tmp_path: Path) -> None:
    checked, asked = CASES[case]
    arguments, sources = [], ""
    for head, body in sections(FOLDER / "corpus" / f"{case}.txt"):
        text = replaced(body, site)
        if head == "argument":
            arguments.append(text.rstrip("\n"))
        elif head.startswith("file "):
            (tmp_path / head[5:]).write_text(text)
            arguments.append(str(tmp_path / head[5:]))
        if head not in ("configuration", "notes"):
            sources += text
    done = command("import", *arguments)
    assert done.returncode == 0, done.stderr
    backends = yaml.safe_load(done.stdout)["backends"]
    for variable, path in re.findall(r"write the value of (\w+) to (\S+)", done.stderr):
        (password,) = re.findall(rf"{variable}\W+(\w+)", sources)
        secret = site.home / path.rpartition("/")[2]
        secret.write_text(password)
        secret.chmod(0o600)
    gateway.write(done.stdout.replace("/run/secrets/", f"{site.home}/"))
    gateway.start(environment={"HOME": str(site.home), "USER": site.bastion.user, "SSH_AUTH_SOCK": agent})
    up = [name for name, each in backends.items() if each["kind"] == "nfs" or "check" in each]
    assert len(up) == checked
    gateway.wait_up(*up)
    for ask in asked:
        assert ask(site)
