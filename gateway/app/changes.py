"""What a new configuration changes in a running one. Pure."""

from dataclasses import dataclass

from gateway.app.differences import differences
from gateway.config import Config
from gateway.errors import UsageError


@dataclass(frozen=True)
class Changes:
    """Names by what happens to them; what is named nowhere is left alone.

    Args:
        tunnels_gone: To be closed, once their clients are.
        tunnels_new: To be opened: new, changed, or going through a changed one.
        backends_gone: To be drained.
        backends_new: To be started.
        backends_changed: To be changed under their clients.
        sections: The other sections that changed, such as `log` and `docker`.
    """

    tunnels_gone: frozenset[str]
    tunnels_new: frozenset[str]
    backends_gone: frozenset[str]
    backends_new: frozenset[str]
    backends_changed: frozenset[str]
    sections: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = {
            "tunnels opened": self.tunnels_new,
            "tunnels closed": self.tunnels_gone - self.tunnels_new,
            "backends added": self.backends_new,
            "backends changed": self.backends_changed,
            "backends removed": self.backends_gone,
            "sections changed": self.sections,
        }
        told = [f"{what}: {', '.join(sorted(names))}" for what, names in parts.items() if names]
        return "; ".join(told) or "no change"


def compare(old: Config, new: Config) -> Changes:
    """What to do to get from `old` to `new`.

    Raises:
        UsageError: What changed needs a restart.
    """
    fixed = [key for key in differences(old, new)["changed"] if key.partition(".")[0] in ("ops", "gateway")]
    if fixed:
        places = [": ".join(filter(None, (new.places.get(key), key))) for key in fixed]
        raise UsageError(f"{', '.join(places)}: changed, and the sections gateway and ops need a restart")
    replaced = {name for name in new.tunnels if old.tunnels.get(name) != new.tunnels[name]}
    while True:  # a tunnel through a replaced tunnel has to be opened anew, and so on inwards
        through = {name for name, spec in new.tunnels.items() if spec.via in replaced} - replaced
        if not through:
            break
        replaced |= through
    common = old.backends.keys() & new.backends.keys()
    changed = {
        name
        for name in common
        if old.backends[name] != new.backends[name]
        or new.backends[name].via in replaced
        or (old.docker is None) != (new.docker is None)  # who comes in depends on it
    }
    return Changes(
        tunnels_gone=frozenset(name for name in old.tunnels if name in replaced or name not in new.tunnels),
        tunnels_new=frozenset(replaced),
        backends_gone=frozenset(old.backends.keys() - new.backends.keys()),
        backends_new=frozenset(new.backends.keys() - old.backends.keys()),
        backends_changed=frozenset(changed),
        sections=frozenset(
            name for name in ("log", "audit", "shutdown", "docker") if getattr(old, name) != getattr(new, name)
        ),
    )
