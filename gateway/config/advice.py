"""What a valid configuration is better without."""

from collections.abc import Iterator

from gateway.config.model import Config
from gateway.config.ops_rules import ops_advice


def advice(config: Config) -> list[str]:
    """A sentence each, which names the place and the remedy; empty where there is nothing to say."""
    return [*_host_keys(config), *ops_advice(config.ops), *_nfs_servers(config)]


def _host_keys(config: Config) -> Iterator[str]:
    for name, spec in config.tunnels.items():
        if getattr(spec.options, "insecure_host_key", False):
            yield f"tunnel {name}: insecure_host_key is on: whoever is on the path can read and change everything."


def _nfs_servers(config: Config) -> Iterator[str]:
    """A kernel takes two ports of one server for one (RFC 8881 section 2.10.5), whatever they lead through."""
    first: dict[object, str] = {}
    for name, spec in config.backends.items():
        if spec.kind.name != "nfs":
            continue
        for target in spec.targets:
            other = first.setdefault((spec.via, target), name)
            if other != name:
                yield (
                    f"backend {name}: {target} is also the server of backend {other}, and a kernel takes two ports of"
                    " one NFS server for one: mount every export through one backend."
                )
                break
