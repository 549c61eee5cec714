from gateway.app.lanes import Lane, backend_lane, required_lanes
from gateway.config import Config, Sources, load

TUNNELS = ("inner=ssh://u@i?via=edge", "edge=ssh://u@e", "spare=ssh://u@s?via=edge")


def config(*backends: str) -> Config:
    return load(Sources(tunnels=TUNNELS, backends=backends, environment={}))


def test_each_traffic_class_has_its_own_lane_through_every_hop() -> None:
    both = config("orders=mysql://db?via=inner", "media=nfs://nas/x?via=inner", "straight=tcp://a:1")
    found = required_lanes(both, both.backends, separate_bulk=True)
    assert found == [
        Lane("edge", bulk=False), Lane("edge", bulk=True), Lane("inner", bulk=False), Lane("inner", bulk=True),
        Lane("spare", bulk=False),
    ]  # fmt: skip
    assert backend_lane(both, "media", separate_bulk=True) == Lane("inner", bulk=True)
    assert backend_lane(both, "straight", separate_bulk=True) is None


def test_a_tunnel_for_bulk_traffic_only_has_one_lane() -> None:
    bulk = config("media=nfs://nas/x?via=inner", "orders=mysql://db?via=edge")
    assert Lane("inner", bulk=False) not in required_lanes(bulk, bulk.backends, separate_bulk=True)


def test_a_worker_has_one_lane_and_the_owner_opens_nothing_for_it() -> None:
    both = config("orders=mysql://db?via=inner", "media=nfs://nas/x?via=inner")
    assert required_lanes(both, {"media"}, separate_bulk=False)[:2] == [
        Lane("edge", bulk=False),
        Lane("inner", bulk=False),
    ]
    owner = required_lanes(both, {"orders"}, separate_bulk=True)
    assert not any(lane.bulk for lane in owner)
