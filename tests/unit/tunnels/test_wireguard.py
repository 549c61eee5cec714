from pathlib import Path

import pytest

from gateway.contracts.link import RemoteNetworkId
from gateway.errors import TunnelError
from gateway.relay.direct_link import DirectLink
from gateway.tunnels.wireguard import WireGuardTunnel
from gateway.vpn.options import WireGuardOptions


async def test_a_tunnel_inside_another_is_refused_and_the_error_names_the_outer_one() -> None:
    """WireGuard uses UDP, which other tunnels do not carry."""
    outer = DirectLink()
    outer.network = RemoteNetworkId(("tunnel@bastion:22",))
    tunnel = WireGuardTunnel(WireGuardOptions(config=Path("wg0.conf")))
    with pytest.raises(TunnelError, match="which the tunnel to tunnel@bastion:22 cannot carry: remove via") as caught:
        async with tunnel.open(outer, lambda *_: None):
            pass
    assert caught.value.fatal


def test_a_network_is_shown_as_the_tunnels_that_lead_to_it() -> None:
    inner = RemoteNetworkId().behind("tunnel@bastion:22").behind("socks5://proxy:1080")
    assert (str(inner), str(RemoteNetworkId())) == ("tunnel@bastion:22 > socks5://proxy:1080", "this host")
