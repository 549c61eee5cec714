"""Compares two configurations: lists the tunnels and backends that a reload must start, change or stop."""

from dataclasses import dataclass

from gateway.app.changed_config_keys import changed_config_keys
from gateway.config import Config
from gateway.errors import UsageError

_FIXED = ("gateway", "ops", "traces")
"""Sections that a reload cannot change. A change requires a restart."""
NO_CHANGE = "no change"
"""The text of an empty `ConfigDiff`."""


@dataclass(frozen=True)
class ConfigDiff:
    """The names of the tunnels, backends and sections that a reload must start, change or stop.

    Args:
        tunnels_closed: Tunnels to close after their clients have drained: removed tunnels, changed tunnels, and
            tunnels inside a changed tunnel. All of these except removed tunnels are also in `tunnels_opened`.
        tunnels_opened: Tunnels to open: new tunnels, changed tunnels, and tunnels inside a changed tunnel.
        backends_removed: Backends to drain.
        backends_added: Backends to start.
        backends_changed: Backends to change while their clients stay connected.
        sections: Other sections that differ, such as `log` and `docker`.
    """

    tunnels_closed: frozenset[str]
    tunnels_opened: frozenset[str]
    backends_removed: frozenset[str]
    backends_added: frozenset[str]
    backends_changed: frozenset[str]
    sections: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = {
            "tunnels opened": self.tunnels_opened,
            "tunnels closed": self.tunnels_closed - self.tunnels_opened,
            "backends added": self.backends_added,
            "backends changed": self.backends_changed,
            "backends removed": self.backends_removed,
            "sections changed": self.sections,
        }
        lines = [f"{what}: {', '.join(sorted(names))}" for what, names in parts.items() if names]
        return "; ".join(lines) or NO_CHANGE


def diff_configs(old: Config, new: Config) -> ConfigDiff:
    """Return the difference between the configurations `old` and `new`.

    Raises:
        UsageError: A key that requires a restart differs.
    """
    # Ignore keys that neither configuration sets. Their defaults can change by themselves, for example with the
    # hostname. The values from the startup remain in effect.
    fixed = [
        key
        for key in changed_config_keys(old, new)["changed"]
        if key.partition(".")[0] in _FIXED and (key in old.places or key in new.places)
    ]
    if fixed:
        places = [": ".join(filter(None, (new.places.get(key), key))) for key in fixed]
        raise UsageError(
            f"{', '.join(places)}: the gateway reads the sections gateway, ops and traces only at startup: restart"
            " the gateway, or undo the change"
        )
    reopened = {name for name in new.tunnels if old.tunnels.get(name) != new.tunnels[name]}
    while True:  # also reopen every tunnel inside a reopened tunnel, at any depth
        inner = {name for name, spec in new.tunnels.items() if reopened.intersection(spec.via)} - reopened
        if not inner:
            break
        reopened |= inner
    common = old.backends.keys() & new.backends.keys()
    changed = {
        name
        for name in common
        if old.backends[name] != new.backends[name]
        or reopened.intersection(new.backends[name].tunnels)
        # Adding or removing the section `docker` counts as a change of every backend, because the gateway identifies
        # the containers of clients only if this section exists.
        or (old.docker is None) != (new.docker is None)
    }
    return ConfigDiff(
        tunnels_closed=frozenset(name for name in old.tunnels if name in reopened or name not in new.tunnels),
        tunnels_opened=frozenset(reopened),
        backends_removed=frozenset(old.backends.keys() - new.backends.keys()),
        backends_added=frozenset(new.backends.keys() - old.backends.keys()),
        backends_changed=frozenset(changed),
        sections=frozenset(
            name
            for name in ("log", "audit", "fleet", "shutdown", "docker")
            if getattr(old, name) != getattr(new, name)
        ),
    )
