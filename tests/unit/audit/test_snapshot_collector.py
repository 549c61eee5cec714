"""Tests of snapshots of a remote engine, and of an engine behind a proxy that refuses some requests."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.audit import snapshot_collector
from gateway.audit.engine_responses import image_reference
from gateway.audit.hazards import build_report
from gateway.audit.snapshot_collector import AuditScope, take_snapshot
from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.errors import EngineError, EngineErrorKind

ID = "c0ffee" * 10
INSPECTION = {
    "Id": ID, "Name": "/db", "Image": "sha256:1", "State": {"Running": True},
    "Config": {"Image": "app:1", "Env": ["A=1"]},
    "HostConfig": {"AutoRemove": False, "Tmpfs": {"/run": ""}},
    "Mounts": [
        {"Type": "volume", "Name": "data", "Source": "/v/data/_data", "Destination": "/data", "RW": False},
        {"Type": "bind", "Source": "/mnt/nas/x", "Destination": "/x", "RW": True},
    ],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "containers/json": [{"Id": ID, "SizeRw": 600_000}, {"Id": "gone", "SizeRw": 0}],
    f"containers/{ID}/json": INSPECTION,
    f"containers/{ID}/changes": [
        {"Path": "/var/lib/mysql/ibdata1", "Kind": 1}, {"Path": "/srv/pg/PG_VERSION", "Kind": 2},
        {"Path": "/opt/app", "Kind": 0},
    ],
    "images/sha256:1/json": {"Config": {"Env": ["A=1"], "Labels": {"a": "b"}}},
    "volumes": {"Volumes": [{"Name": "data", "Driver": "local", "Mountpoint": "/v/data/_data"}]},
    "system/df": {"Volumes": [{"Name": "data", "UsageData": {"Size": 7}}]},
    "info": {"SecurityOptions": [], "DockerRootDir": "/srv/docker"},
}  # fmt: skip


class FakeEngine:
    """An engine with prepared answers.

    Args:
        refused: Suffixes of the API paths for which requests fail.
        slow: The suffix of the API paths for which the engine never answers; empty if there is none.
        kind: The kind of the errors for `refused`.
    """

    flavor = DOCKER

    def __init__(self, *refused: str, slow: str = "", kind: EngineErrorKind = EngineErrorKind.FORBIDDEN) -> None:
        self._refused = refused
        self._slow = slow
        self._kind = kind

    async def get(self, path: str, **params: Any) -> Any:
        if (f"{path}?size=1" if "size" in params else path).endswith(self._refused or ("?",)):
            raise EngineError(self._kind, "no")
        if self._slow and path.endswith(self._slow):
            await asyncio.Event().wait()
        if path not in ANSWERS:
            raise EngineError(EngineErrorKind.NOT_FOUND, "no such container")
        return ANSWERS[path]

    async def events(self, since: float, kinds: tuple[str, ...], until: float) -> AsyncIterator[dict[str, Any]]:
        if "events" in self._refused:
            raise EngineError(EngineErrorKind.FORBIDDEN, "no")
        yield {
            "Type": "volume",
            "Action": "mount",
            "time": 1,
            "Actor": {"ID": "data", "Attributes": {"container": ID}},
        }


def made(*refused: str, slow: str = "", kind: EngineErrorKind = EngineErrorKind.FORBIDDEN) -> EngineClient:
    return cast("EngineClient", FakeEngine(*refused, slow=slow, kind=kind))


async def test_an_engine_elsewhere_is_audited_by_its_answers() -> None:
    found = await take_snapshot(made(), AuditScope({}, is_local=False))
    (container,) = found.containers
    assert (container.name, container.layer, container.is_own) == ("db", 600_000, False)
    assert (container.image, container.exact_image) == ("app:1", "sha256:1")
    assert container.changes == {"/var/lib/mysql/ibdata1": 1, "/opt/app": 1}
    assert not container.image_has_layer_directory
    assert [(each.kind, each.path, each.writable) for each in container.mounts] == [
        ("tmpfs", "/run", True), ("volume", "/data", False), ("bind", "/x", True),
    ]  # fmt: skip
    assert (found.volumes["data"].size, found.volumes["data"].last_use[:17]) == (7, "last used by db, ")
    assert found.volume_directory == "/srv/docker/volumes"
    assert len(found.unchecked) == 2
    assert {each.rule.id for each in build_report(found).findings} == {"database-in-layer"}


@pytest.mark.parametrize(("kind", "expected"), [(0, True), (1, False)])
async def test_a_directory_that_is_in_the_image_is_modified(
    kind: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"Path": "/srv/app", "Kind": kind}, {"Path": "/srv/app/app.sqlite3", "Kind": 1}]
    monkeypatch.setitem(ANSWERS, f"containers/{ID}/changes", found)
    (container,) = (await take_snapshot(made(), AuditScope({}, is_local=False))).containers
    assert container.image_has_layer_directory is expected


async def test_a_local_socket_may_lead_to_an_engine_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_collector, "mounted_id", list)
    here = {"SecurityOptions": [], "Name": socket.gethostname()}
    for answer, expected in ((here, False), ({**here, "Name": "docker-desktop"}, True)):
        monkeypatch.setitem(ANSWERS, "info", answer)
        found = await take_snapshot(made(), AuditScope({}))
        assert any("cannot read the mount table" in each for each in found.unchecked) is expected


async def test_a_copy_of_the_mount_table_shows_network_mounts() -> None:
    table = "120 22 0:55 / /mnt/nas rw - nfs4 nas:/x rw,vers=4.2,hard"
    found = await take_snapshot(made(), AuditScope({}, is_local=False, mounts=table))
    assert "network-bind" in {each.rule.id for each in build_report(found).findings}
    assert len(found.unchecked) == 1


async def test_the_containers_of_the_gateway_are_marked() -> None:
    assert (await take_snapshot(made(), AuditScope({}, is_local=False, own=frozenset({ID})))).containers[0].is_own


@pytest.mark.parametrize("kind", [EngineErrorKind.FORBIDDEN, EngineErrorKind.TIMEOUT])
@pytest.mark.parametrize("refused", ["volumes", "system/df", "info", "events", "changes", "images/sha256:1/json"])
async def test_requests_that_fail_are_reported(refused: str, kind: EngineErrorKind) -> None:
    everything = await take_snapshot(made(), AuditScope({}, is_local=False))
    found = await take_snapshot(made(refused, kind=kind), AuditScope({}, is_local=False))
    assert len(found.containers) == 1
    assert len(found.unchecked) == len(everything.unchecked) + 1


async def test_an_engine_that_is_slow_to_measure_layers_lists_them_without_sizes() -> None:
    found = await take_snapshot(made("?size=1", kind=EngineErrorKind.TIMEOUT), AuditScope({}, is_local=False))
    assert found.containers[0].changes == {"/var/lib/mysql/ibdata1": 1, "/opt/app": 1}
    assert any("sizes of writable layers" in each for each in found.unchecked)


@pytest.mark.parametrize("kind", [EngineErrorKind.TIMEOUT, EngineErrorKind.FAILED])
async def test_a_container_that_the_engine_does_not_inspect_is_reported(kind: EngineErrorKind) -> None:
    found = await take_snapshot(made(f"containers/{ID}/json", kind=kind), AuditScope({}, is_local=False))
    assert found.containers == ()
    assert any(f"cannot inspect {ID} (" in each for each in found.unchecked)


async def test_an_engine_that_compares_slowly_does_not_hold_up_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_collector, "_COMPARING", 0.05)
    found = await take_snapshot(made(slow="changes"), AuditScope({}, is_local=False))
    assert found.containers[0].changes is None
    assert any("changed files of 1 containers" in each for each in found.unchecked)


@pytest.mark.parametrize("kind", [EngineErrorKind.FORBIDDEN, EngineErrorKind.TIMEOUT])
async def test_an_engine_that_does_not_list_containers_is_an_error(kind: EngineErrorKind) -> None:
    with pytest.raises(EngineError):
        await take_snapshot(made("containers/json", "?size=1", kind=kind), AuditScope({}, is_local=False))


@pytest.mark.parametrize(
    ("name", "tags", "expected"),
    [
        ("app:1", ["app:1"], "app:1"),
        ("app", ["app:latest"], "app"),
        ("docker.io/library/app", ["app:latest"], "docker.io/library/app"),
        ("registry:5000/app", ["registry:5000/app:latest"], "registry:5000/app"),
        ("app@sha256:beef", [], "app@sha256:beef"),
        ("c0ffeec0ffee", [], "c0ffeec0ffee"),
        ("app:1", ["app:2", "other/app:1"], f"sha256:{ID}"),
        ("c0", [], f"sha256:{ID}"),
        ("app:1", None, f"sha256:{ID}"),
    ],
)
def test_a_name_that_leads_to_another_image_is_replaced_by_the_id(
    name: str, tags: list[str] | None, expected: str
) -> None:
    assert image_reference(name, f"sha256:{ID}", tags) == expected
