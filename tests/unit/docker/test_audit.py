from typing import Any

from gateway.docker.audit import judge

VOLUMES: dict[str, dict[str, Any]] = {
    "data": {"Name": "data", "Driver": "local", "Options": None, "Labels": None},
    "a" * 64: {"Name": "a" * 64, "Driver": "local", "Labels": {"com.docker.volume.anonymous": ""}},
    "media": {
        "Name": "media", "Driver": "local",
        "Options": {"type": "nfs", "o": "addr=127.0.0.1,port=20490,hard", "device": "127.0.0.1:/media"},
    },
    "nas": {"Name": "nas", "Driver": "local", "Options": {"type": "nfs4", "o": "addr=10.0.0.9", "device": ":/x"}},
    "cloud": {"Name": "cloud", "Driver": "rexray", "Options": {}},
}  # fmt: skip


def container(*mounts: dict[str, Any], **host: object) -> dict[str, Any]:
    return {"Name": "/db", "Mounts": list(mounts), "HostConfig": host}


def volume(name: str) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Name": name,
        "Source": f"/var/lib/docker/volumes/{name}",
        "Destination": f"/{name[:5]}",
    }


def verdict(reported: dict[str, Any], layer: int = 0) -> list[tuple[str, str, str]]:
    return [(each.kind, each.place, each.risk) for each in judge(reported, layer, VOLUMES, {20490: "media"})]


def test_volumes_have_their_risk() -> None:
    assert verdict(container(volume("data"))) == [("volume", "data", "low")]
    assert verdict(container(volume("a" * 64))) == [("anonymous volume", "a" * 12, "medium")]
    assert verdict(container(volume("a" * 64), AutoRemove=True))[0][2] == "high"
    assert verdict(container(volume("media"))) == [
        ("network volume", "media of this gateway, 127.0.0.1:/media", "low")
    ]
    assert verdict(container(volume("nas"))) == [("network volume", "10.0.0.9:/x", "low")]
    assert verdict(container(volume("cloud"))) == [("volume", "cloud (rexray)", "low")]


def test_binds_tmpfs_and_the_container_layer_have_their_risk() -> None:
    bind = {"Type": "bind", "Source": "/srv/data", "Destination": "/data"}
    assert verdict(container(bind)) == [("bind", "/srv/data", "low")]
    assert verdict(container({**bind, "Source": "/run/x"}))[0][2] == "medium"
    assert verdict(container(Tmpfs={"/run": ""})) == [("tmpfs", "memory", "high")]
    assert verdict(container({"Type": "tmpfs", "Destination": "/t"}))[0][0] == "tmpfs"
    assert verdict(container(), layer=5_000_000) == [("layer", "writable layer, 5 MB", "high")]
    assert verdict(container(), layer=1000) == []
