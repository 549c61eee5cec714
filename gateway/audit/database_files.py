"""Recognizes database files by their names, and by the directories and images that usually hold them. Does no I/O."""

import posixpath
import re
from collections.abc import Iterable

_FILES = (
    (re.compile(r"(^|/)(ibdata1|ib_logfile0|mysql\.ibd|aria_log_control)$"), "MySQL or MariaDB"),
    (re.compile(r"(^|/)(PG_VERSION|pg_wal)$"), "PostgreSQL"),
    (re.compile(r"(^|/)(WiredTiger|WiredTiger\.wt)$"), "MongoDB"),
    (re.compile(r"(^|/)(dump\.rdb|appendonly\.aof|appendonlydir)$"), "Redis"),
    (re.compile(r"(^|/)member/snap/db$"), "etcd"),
    (re.compile(r"(^|/)chunks_head$"), "Prometheus"),
    (re.compile(r"(^|/)segments_[0-9a-z]+$"), "Lucene"),
    (re.compile(r"\.(sqlite|sqlite3|db|db3)(-wal|-shm|-journal)?$"), "SQLite"),
)
_DIRECTORIES = {
    "/var/lib/mysql": "MySQL or MariaDB",
    "/bitnami/mysql": "MySQL or MariaDB",
    "/bitnami/mariadb": "MySQL or MariaDB",
    "/var/lib/postgresql": "PostgreSQL",
    "/bitnami/postgresql": "PostgreSQL",
    "/data/db": "MongoDB",
    "/var/lib/mongodb": "MongoDB",
    "/var/lib/redis": "Redis",
    "/var/lib/clickhouse": "ClickHouse",
    "/var/lib/cassandra": "Cassandra",
    "/var/lib/influxdb": "InfluxDB",
    "/var/lib/rabbitmq": "RabbitMQ",
    "/var/lib/grafana": "SQLite",
    "/usr/share/elasticsearch/data": "Lucene",
    "/prometheus": "Prometheus",
}
_IMAGES = (
    (re.compile(r"^(redis|valkey|keydb)"), "/data", "Redis"),
    (re.compile(r"^uptime-kuma"), "/app/data", "SQLite"),
    (re.compile(r"^(vaultwarden|gitea|forgejo)"), "/data", "SQLite"),
    (re.compile(r"^(sonarr|radarr|lidarr|prowlarr|jellyfin|plex|home-assistant)"), "/config", "SQLite"),
)
_SYSTEM = (
    "/usr/", "/etc/", "/lib/", "/proc/", "/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/", "/var/lib/rpm/",
    "/var/lib/dnf/", "/var/lib/yum/", "/var/lib/zypp/", "/var/lib/pacman/", "/var/lib/PackageKit/",
    "/var/lib/mlocate/", "/var/lib/plocate/",
)  # fmt: skip
"""Directories of Linux distributions. The audit ignores database files in them, because these files are only indexes
and logs of package managers and tools."""


def in_files(names: Iterable[str]) -> tuple[str, str]:
    """Recognize a database by its files. Return its kind and its directory; empty strings if no file matches.

    Args:
        names: Paths of files. If several match, the path with the fewest parent directories decides.
    """
    for name in sorted(names, key=lambda each: (each.count("/"), each)):
        if name.startswith(_SYSTEM):
            continue
        for pattern, database in _FILES:
            if pattern.search(name):
                return database, posixpath.dirname(name)
    return "", ""


def at(path: str, image: str, data_directory: str) -> str:
    """Return the kind of database that stores its files at a path in a container; empty if no kind is known.

    Args:
        path: The mount point.
        image: The name of the image.
        data_directory: The value of `PGDATA`; empty if the variable is not set.
    """
    if data_directory and f"{data_directory}/".startswith(f"{path.rstrip('/')}/"):
        return "PostgreSQL"
    for directory, database in _DIRECTORIES.items():
        if path == directory or path.startswith(f"{directory}/"):
            return database
    name = base_name(image)
    return next((database for pattern, where, database in _IMAGES if where == path and pattern.match(name)), "")


def base_name(image: str) -> str:
    """Return the last part of an image's name, without tag or digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]
