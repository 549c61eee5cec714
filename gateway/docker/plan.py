"""From what is wanted and what there is to what must be done. Pure: `gateway plan` shows what the service does."""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from gateway.backends.common.volume import VolumeSpec
from gateway.docker import labels
from gateway.docker.labels import Wish
from gateway.docker.model import LIVE, Container, EndpointInfo, NetworkInfo, Observed, Service
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.trouble import Blocked
from gateway.docker.volumes import VolumeStanding, body, hindrances, judge

_POOL = ipaddress.ip_network("10.201.0.0/16")
_SUBNET_BITS = 22
_WIDE = 20
OWNER_ALIAS = "gw-owner-"
_NO_HOST_NAME = re.compile(r"[^a-z0-9-]")
_MARK_LENGTH = 50


class Verb(StrEnum):
    """What is done: a closed list, used in metrics."""

    CREATE_NETWORK = "create_network"
    REMOVE_NETWORK = "remove_network"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    REATTACH = "reattach"
    UPDATE_SERVICE = "update_service"
    CREATE_VOLUME = "create_volume"
    RECREATE_VOLUME = "recreate_volume"


@dataclass(frozen=True)
class Action:
    """One change.

    Args:
        network: The name of the network or volume.
        network_id: Its ID, or its name where this engine does not see it yet.
        container: The name of the container or service; empty for a network.
        container_id: Its ID.
        aliases: For an attachment.
        why: In a few words.
        body: What the engine is sent, where it is more than that.
        version: Of a service that is changed.
    """

    verb: Verb
    network: str
    network_id: str = ""
    container: str = ""
    container_id: str = ""
    aliases: tuple[str, ...] = ()
    why: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, compare=False)
    version: int = 0
    address: str = ""
    """To have again, for an attachment that is made anew."""

    @property
    def key(self) -> tuple[str, str]:
        """Which attachment, or network, it is about."""
        return (self.network, self.container_id)


class Standing(StrEnum):
    """What an attachment is."""

    ATTACHED = "attached"
    PENDING = "pending"
    DRIFTED = "drifted"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Condition:
    """One attachment that is wanted.

    Args:
        reason: Why it is not simply attached.
        message: What to do about it.
    """

    network: str
    container: str
    state: Standing
    reason: Blocked | None = None
    message: str = ""
    container_id: str = ""


@dataclass(frozen=True)
class Desired:
    """What the configuration wants.

    Args:
        instance: This gateway's name.
        options: The configuration's section.
        backends: Those that clients may reach by name.
        busy: IDs of containers that have connections through us.
        volumes: Those that are to be kept.
        serving: Whether anybody at all has connections through us.
    """

    instance: str
    options: DockerOptions
    backends: tuple[str, ...]
    busy: frozenset[str] = frozenset()
    volumes: tuple[VolumeSpec, ...] = ()
    serving: bool = False

    @property
    def mark(self) -> str:
        """The alias that every endpoint of ours carries."""
        return OWNER_ALIAS + _NO_HOST_NAME.sub("-", self.instance.lower())[:_MARK_LENGTH]


@dataclass(frozen=True)
class Plan:
    """What must be done, what stands, and what is strange."""

    actions: tuple[Action, ...] = ()
    conditions: tuple[Condition, ...] = ()
    warnings: tuple[str, ...] = ()
    postponed: int = 0
    """Detachments beyond what may be done at once."""
    volumes: tuple[VolumeStanding, ...] = ()


def plan(desired: Desired, observed: Observed, ours: frozenset[tuple[str, str]]) -> Plan:
    """What must be done.

    Args:
        desired: What is wanted.
        observed: What there is.
        ours: Endpoints that we made, by the container's ID and the network's name.
    """
    return _Planner(desired, observed, ours).plan()


def carried(desired: Desired, network: str) -> tuple[str, ...]:
    """The backends that are reached by name on a network."""
    wanted = desired.options.networks[network].backends
    return tuple(name for name in desired.backends if not wanted or name in wanted)


def marked(desired: Desired, observed: Observed) -> set[tuple[str, str]]:
    """The endpoints that carry our mark, by the container's ID and the network's name."""
    return {
        (container.id, name)
        for container in observed.containers
        for name, endpoint in container.endpoints.items()
        if desired.mark in (endpoint.aliases or ())
    }


def spec_hash(options: NetworkOptions, driver: str) -> str:
    """What tells whether a network was made from the same options."""
    told = {**asdict(options), "driver": driver, "backends": None, "create": None, "subnet": str(options.subnet)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def choose_subnet(networks: Iterable[NetworkInfo]) -> str | None:
    """A free range for a new network; None when all are taken."""
    taken = [ipaddress.ip_network(subnet, strict=False) for network in networks for subnet in network.subnets]
    for subnet in _POOL.subnets(new_prefix=_SUBNET_BITS):
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in taken):
            return str(subnet)
    return None


class _Planner:
    def __init__(self, desired: Desired, observed: Observed, ours: frozenset[tuple[str, str]]) -> None:
        self.desired = desired
        self.observed = observed
        self.ours = ours
        self.options = desired.options
        self.known: dict[str, NetworkInfo] = {}
        for network in observed.networks:
            self.known.setdefault(network.name, network)
        self.creatable: set[str] = set()
        self._detached = 0
        self.actions: list[Action] = []
        self.conditions: list[Condition] = []
        self.warnings: list[str] = []

    def plan(self) -> Plan:
        for name, options in self.options.networks.items():
            self._network(name, options)
        if self.options.networks and self.desired.backends and self.observed.own is None:
            self.warnings.append(
                "the gateway is in no container of this engine: nobody answers to the backends' names "
                "(docker.container tells which one it is)"
            )
        for container in self.observed.containers:
            for name, aliases in self._wanted(container).items():
                self._attachment(container, name, aliases)
        if self.options.services and self.observed.swarm.leader:
            for service in self.observed.services:
                self._service(service)
        postponed = self._detach()
        self._remove_networks()
        volumes = tuple(self._volumes())
        return Plan(tuple(self.actions), tuple(self.conditions), tuple(self.warnings), postponed, volumes)

    def _volumes(self) -> Iterator[VolumeStanding]:
        prefix, instance = self.options.label_prefix, self.desired.instance
        there = {each.name: each for each in self.observed.volumes}
        own = next((each.network_mode for each in self.observed.containers if each.id == self.observed.own), None)
        self.warnings += hindrances(self.observed.info, self.options.host, own, self.desired.volumes)
        for spec in self.desired.volumes:
            standing = judge(spec, there.get(spec.name), prefix, instance)
            yield standing
            if standing.change is not None:
                verb = Verb.CREATE_VOLUME if standing.change == "create" else Verb.RECREATE_VOLUME
                made = body(spec, prefix, instance)
                self.actions.append(Action(verb, spec.name, spec.name, why=standing.message, body=made))

    # Networks.

    def _driver(self, options: NetworkOptions) -> str:
        if options.driver != "auto":
            return options.driver
        return "overlay" if self.observed.swarm.active else "bridge"

    def _network(self, name: str, options: NetworkOptions) -> None:
        driver = self._driver(options)
        digest = spec_hash(options, driver)
        there = self.known.get(name)
        if options.subnet is not None and options.subnet.version == 4 and options.subnet.prefixlen < _WIDE:
            self.warnings.append(f"network {name}: {options.subnet} is wider than a /{_WIDE}: overlays get slow")
        if there is not None:
            if self._is_ours(there.labels) and there.labels.get(self._label(labels.SPEC_HASH)) != digest:
                self.warnings.append(
                    f"network {name} was made from other options: remove it when nothing is attached; it is made anew"
                )
            return
        if not options.create or (driver == "overlay" and not self.observed.swarm.leader):
            return
        subnet = str(options.subnet) if options.subnet else choose_subnet(self.observed.networks)
        if subnet is None:
            self.warnings.append(f"network {name}: every /{_SUBNET_BITS} of {_POOL} is taken: set its subnet")
            return
        self.creatable.add(name)
        self.actions.append(
            Action(
                Verb.CREATE_NETWORK, name, why="it is missing", body=self._spec(name, options, driver, subnet, digest)
            )
        )

    def _spec(self, name: str, options: NetworkOptions, driver: str, subnet: str, digest: str) -> dict[str, Any]:
        driver_options = {}
        if options.mtu is not None:
            driver_options["com.docker.network.driver.mtu"] = str(options.mtu)
        if options.encrypted and driver == "overlay":
            driver_options["encrypted"] = ""
        return {
            "Name": name,
            "Driver": driver,
            "Attachable": options.attachable and driver == "overlay",
            "Internal": options.internal,
            "EnableIPv6": ":" in subnet,
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Options": driver_options,
            "Labels": {
                self._label(labels.MANAGED_BY): "gateway",
                self._label(labels.INSTANCE): self.desired.instance,
                self._label(labels.SPEC_HASH): digest,
            },
        }

    def _remove_networks(self) -> None:
        """Those of ours that nobody wants and nobody is on; the engine refuses where others are."""
        # By name too: a container that was never started knows its network by no ID yet.
        used = {each.network_id for container in self.observed.containers for each in container.endpoints.values()}
        used |= {name for container in self.observed.containers for name in container.endpoints}
        for network in self.observed.networks:
            wanted = network.name in self.options.networks
            here = network.scope == "local" or self.observed.swarm.leader
            if self._is_ours(network.labels) and not wanted and here and not used & {network.id, network.name}:
                self.actions.append(
                    Action(Verb.REMOVE_NETWORK, network.name, network.id, why="it is not configured any more")
                )

    def _label(self, key: str) -> str:
        return f"{self.options.label_prefix}.{key}"

    def _is_ours(self, found: Mapping[str, str]) -> bool:
        return (
            found.get(self._label(labels.MANAGED_BY)) == "gateway"
            and found.get(self._label(labels.INSTANCE)) == self.desired.instance
        )

    # Attachments.

    def _wanted(self, container: Container) -> dict[str, tuple[str, ...]]:
        """The networks that a container should be on, with its aliases there."""
        if container.id == self.observed.own:
            return {name: carried(self.desired, name) for name in self.options.networks}
        wish = self._wish(container.name, container.labels)
        if wish is None or (wish.detach_on_stop and container.state not in LIVE):
            return {}
        return dict.fromkeys(self._networks_of(wish, container.name), wish.aliases)

    def _wish(self, name: str, found: Mapping[str, str]) -> Wish | None:
        prefix = self.options.label_prefix
        wish, problems = labels.read(found, prefix, self.desired.instance, self.desired.backends)
        self.warnings += [f"{name}: {problem}" for problem in problems]
        instance = found.get(f"{prefix}.instance", self.desired.instance)
        if f"{prefix}.enable" in found or instance != self.desired.instance:
            return wish  # what a container says of itself goes before what is said of many
        return labels.by_rules(name, found, self.options.attach)

    def _networks_of(self, wish: Wish, who: str) -> list[str]:
        configured = self.options.networks
        self.warnings += [
            f"{who}: network {name!r} is not configured" for name in wish.networks if name not in configured
        ]
        if wish.networks:
            return [name for name in wish.networks if name in configured]
        wanted = set(wish.backends or self.desired.backends)
        return [name for name in configured if wanted & set(carried(self.desired, name))]

    def _attachment(self, container: Container, name: str, aliases: tuple[str, ...]) -> None:
        endpoint = container.endpoints.get(name)
        if container.id != self.observed.own and container.name.lower() in self._taken(name):
            message = "a backend has the name of the container: rename one of them"
            self._tell(container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, message)
            return
        clash = {alias: other for alias in aliases if (other := self._clash(container, name, alias))}
        free = tuple(alias for alias in aliases if alias not in clash)
        if clash:
            told = "; ".join(f"{alias!r} is {other}'s" for alias, other in clash.items())
            if not free or (endpoint is None and container.id != self.observed.own):
                self._tell(container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, f"{told}: choose another alias")
                return
        if endpoint is None:
            self._connect(container, name, free)
            return
        ours = self._is_our_endpoint(container, name, endpoint)
        there = self.known.get(name)
        if there is not None and endpoint.network_id not in ("", there.id):
            self._stale(container, name, free, ours=ours)
            return
        missing = [alias for alias in free if endpoint.aliases is not None and alias not in endpoint.aliases]
        beyond = (
            sorted((endpoint.aliases or frozenset()) - {*free, self.desired.mark, container.id[:12]}) if ours else []
        )
        if ours and (missing or beyond):
            wrong = [f"it lacks {', '.join(missing)}"] if missing else []
            wrong += [f"it is still called {', '.join(beyond)}"] if beyond else []
            self._repair(container, name, endpoint, free, " and ".join(wrong))
        elif missing:
            message = f"somebody else attached it, without {', '.join(missing)}"
            self._tell(container, name, Standing.DRIFTED, None, message)
        elif clash:
            self._tell(container, name, Standing.DRIFTED, Blocked.ALIAS_CONFLICT, told)
        else:
            self._tell(container, name, Standing.ATTACHED)

    def _connect(self, container: Container, name: str, aliases: tuple[str, ...]) -> None:
        blocked, message = self._hindrance(container, name)
        if blocked is not None:
            self._tell(container, name, Standing.BLOCKED, blocked, message)
            return
        if container.state not in LIVE:
            self._tell(container, name, Standing.PENDING, None, f"it is {container.state}")
            return
        self._tell(container, name, Standing.PENDING)
        there = self.known.get(name)
        self.actions.append(
            Action(
                Verb.CONNECT,
                name,
                there.id if there else name,
                container.name,
                container.id,
                (*aliases, self.desired.mark),
                "it opted in" if container.id != self.observed.own else "backends are reached through it",
            )
        )

    def _hindrance(self, container: Container, name: str) -> tuple[Blocked | None, str]:
        mode = container.network_mode
        if mode.startswith("container:"):
            return Blocked.SHARED_NETWORK, "it lives in another container's network: attach that one"
        if mode == "host":
            return Blocked.HOST_NETWORK, "it uses the host's network: it reaches listeners at the host's addresses"
        if mode == "none":
            return Blocked.NO_NETWORK, "it was created with --network none"
        if container.is_task:
            return Blocked.SWARM_TASK, "it belongs to a service: label the service, and set docker.services"
        network = self.known.get(name)
        options = self.options.networks[name]
        overlay = network.driver == "overlay" if network else self._driver(options) == "overlay"
        if network is not None and overlay and not network.attachable:
            return Blocked.NOT_ATTACHABLE, f"network {name} admits services only: make it anew with --attachable"
        if network is None and name not in self.creatable:
            swarm = self.observed.swarm
            if overlay and not swarm.active:
                return Blocked.NOT_MANAGER, f"network {name} is an overlay, and this engine is in no swarm"
            if not overlay or swarm.leader:
                return Blocked.UNKNOWN_NETWORK, f"there is no network {name}, and it is not to be created"
        return None, ""

    def _clash(self, container: Container, name: str, alias: str) -> str | None:
        """Who has the alias already on that network, other than those who share it on purpose."""
        own = self.observed.own
        alias = alias.lower()
        if container.id != own and alias in self._taken(name):
            return "a backend of the gateway"
        for other in self.observed.containers:
            endpoint = other.endpoints.get(name)
            if other.id == container.id or endpoint is None or other.id == own:
                continue
            if other.name.lower() == alias:
                return f"container {other.name}"
            shared = self.desired.mark in (endpoint.aliases or ())
            if alias in {each.lower() for each in endpoint.aliases or ()} and not shared:
                return f"container {other.name}"
        return None

    def _taken(self, network: str) -> set[str]:
        """The names on a network that are backends'; names of hosts have no case (RFC 4343)."""
        return {each.lower() for each in carried(self.desired, network)}

    def _stale(self, container: Container, name: str, aliases: tuple[str, ...], *, ours: bool) -> None:
        """It was on another network of that name, which is gone: it could not even be started."""
        told = "it was attached to a network of that name that is gone"
        self._tell(container, name, Standing.DRIFTED, None, told)
        if ours:
            again = (*aliases, self.desired.mark)
            there = self.known[name].id
            self.actions.append(Action(Verb.REATTACH, name, there, container.name, container.id, again, told))

    def _is_our_endpoint(self, container: Container, name: str, endpoint: EndpointInfo) -> bool:
        known = endpoint.aliases is not None and self.desired.mark in endpoint.aliases
        return known and (container.id, name) in self.ours

    def _repair(
        self, container: Container, name: str, endpoint: EndpointInfo, aliases: tuple[str, ...], told: str
    ) -> None:
        own = container.id == self.observed.own
        busy = container.id in self.desired.busy or (own and self.desired.serving)
        allowed = self.options.repair == "disruptive" or (self.options.repair == "idle" and not busy)
        if not allowed:
            why = "it has connections" if self.options.repair == "idle" else "docker.repair is never"
            self._tell(container, name, Standing.DRIFTED, None, f"{told}, and is left alone: {why}")
            return
        self._tell(container, name, Standing.DRIFTED, None, told)
        marked_aliases = (*aliases, self.desired.mark)
        # The same address again, where it can be asked for, so that nobody has to resolve anew.
        kept = next((each for each in endpoint.addresses if "." in each), "")
        there = self.known.get(name)
        address = kept if there is not None and self._is_ours(there.labels) else ""
        self.actions.append(
            Action(
                Verb.REATTACH, name, endpoint.network_id, container.name, container.id, marked_aliases, told,
                address=address,
            )
        )  # fmt: skip

    def _detach(self) -> int:
        """Endpoints of ours that nobody wants any more; at most so many at once."""
        unwanted = [
            Action(
                Verb.DISCONNECT, name, endpoint.network_id, container.name, container.id, why="nothing asks for it"
            )
            for container in self.observed.containers
            for name, endpoint in container.endpoints.items()
            if self._is_our_endpoint(container, name, endpoint)
            and name not in self._quietly_wanted(container)
            and not self._may_be_ourselves(endpoint)
        ]
        self.actions += unwanted[: self.options.max_detaches]
        return len(unwanted) - len(unwanted[: self.options.max_detaches])

    def _may_be_ourselves(self, endpoint: EndpointInfo) -> bool:
        """Whether it is called like a backend, and we do not know which container we are."""
        backends = {each.lower() for each in self.desired.backends}
        return self.observed.own is None and bool(backends & {each.lower() for each in endpoint.aliases or ()})

    def _quietly_wanted(self, container: Container) -> dict[str, tuple[str, ...]]:
        told = len(self.warnings)
        wanted = self._wanted(container)
        del self.warnings[told:]
        return wanted

    def _tell(
        self, container: Container, name: str, state: Standing, reason: Blocked | None = None, message: str = ""
    ) -> None:
        self.conditions.append(Condition(name, container.name, state, reason, message, container.id))

    # Services.

    def _service(self, service: Service) -> None:
        mark, who = self.desired.mark, f"service {service.name}"
        wish = self._wish(who, service.labels)
        networks = dict(service.networks)
        wanted: set[str] = set()
        for name in self._networks_of(wish, who) if wish else []:
            there = self.known.get(name)
            if there is None:
                self._tell_service(service, name, Standing.PENDING, f"there is no network {name} yet")
                continue
            wanted.add(there.id)
            taken = [alias for alias in (wish.aliases if wish else ()) if alias.lower() in self._taken(name)]
            if taken:
                told = f"{', '.join(taken)}: a backend has that name: choose another alias"
                self.conditions.append(
                    Condition(name, who, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, told, service.id)
                )
                continue
            aliases = frozenset(wish.aliases if wish else ()) | {mark}
            found = networks.get(there.id)
            if found is None or (mark in found and found != aliases):
                networks[there.id] = aliases
                self._tell_service(service, name, Standing.PENDING, "")
            elif aliases - {mark} <= found:
                self._tell_service(service, name, Standing.ATTACHED, "")
            else:
                self._tell_service(service, name, Standing.DRIFTED, "somebody else attached it, with other aliases")
        for network_id, found in service.networks.items():
            if mark in found and network_id not in wanted and self._detached < self.options.max_detaches:
                self._detached += 1
                del networks[network_id]
        changed = sorted(each for each in networks.keys() | service.networks.keys()
                         if networks.get(each) != service.networks.get(each))  # fmt: skip
        if changed:
            name = next((each.name for each in self.observed.networks if each.id == changed[0]), changed[0])
            self.actions.append(
                Action(
                    Verb.UPDATE_SERVICE, name, changed[0], who, service.id, why="its networks change",
                    body=_with_networks(service.spec, networks), version=service.version,
                )
            )  # fmt: skip

    def _tell_service(self, service: Service, network: str, state: Standing, message: str) -> None:
        who = f"service {service.name}"
        self.conditions.append(Condition(network, who, state, None, message, service.id))


def _with_networks(spec: Mapping[str, Any], networks: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """The specification with these networks; what is there already stays as it is written."""
    template = dict(spec.get("TaskTemplate", {}))
    before = {each["Target"]: each for each in template.get("Networks") or []}
    template["Networks"] = [
        before[target]
        if target in before and frozenset(before[target].get("Aliases") or ()) == aliases
        else {"Target": target, "Aliases": sorted(aliases)}
        for target, aliases in networks.items()
    ]
    return {**spec, "TaskTemplate": template}
