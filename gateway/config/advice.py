"""What a valid configuration is better without."""

from collections.abc import Iterator

from gateway.config.model import Config
from gateway.config.strict import weaknesses


def advice(config: Config) -> list[str]:
    """A sentence each, which names the key and the remedy; empty where there is nothing to say."""
    weak = [f"{each.problem.key}: {each.problem.message}" for each in weaknesses(config) if each.advised]
    return [*weak, *_nfs_servers(config)]


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
