from gateway.app.tunnel_lanes import TunnelLane, backend_lanes, required_lanes
from gateway.config import Config, ConfigSources, load
from gateway.contracts.states import TrafficClass

QUERIES, BULK = TrafficClass.INTERACTIVE, TrafficClass.BULK
TUNNELS = ("inner=ssh://u@i?via=edge", "edge=ssh://u@e", "spare=ssh://u@s?via=edge")


def config(*backends: str) -> Config:
    return load(ConfigSources(tunnels=TUNNELS, backends=backends, environment={}))


def test_each_traffic_class_has_its_own_lane_through_every_hop() -> None:
    both = config("orders=mysql://db?via=inner", "media=nfs://nas/x?via=inner", "straight=tcp://a:1")
    found = required_lanes(both)
    assert found == [
        TunnelLane("edge", QUERIES), TunnelLane("edge", BULK), TunnelLane("inner", QUERIES),
        TunnelLane("inner", BULK),
        TunnelLane("spare", QUERIES),
    ]  # fmt: skip
    assert backend_lanes(both, "media") == {"inner": TunnelLane("inner", BULK)}
    assert backend_lanes(both, "straight") == {}


def test_each_path_has_its_own_lane_and_a_tunnel_opens_after_all_tunnels_that_can_carry_it() -> None:
    several = load(
        ConfigSources(
            tunnels=("a=ssh://u@a?via=x,y", "x=ssh://u@x?via=y", "y=ssh://u@y", "z=ssh://u@z"),
            backends=("orders=mysql://db?via=a,z", "media=nfs://nas/x?via=z"),
            environment={},
        )
    )
    assert [lane for lane in required_lanes(several) if lane.traffic_class is QUERIES] == [
        TunnelLane("y", QUERIES), TunnelLane("z", QUERIES), TunnelLane("x", QUERIES),
        TunnelLane("a", QUERIES),
    ]  # fmt: skip
    assert [lane for lane in required_lanes(several) if lane.traffic_class is BULK] == [TunnelLane("z", BULK)]


def test_a_tunnel_for_bulk_traffic_only_has_one_lane() -> None:
    bulk = config("media=nfs://nas/x?via=inner", "orders=mysql://db?via=edge")
    assert TunnelLane("inner", QUERIES) not in required_lanes(bulk)
