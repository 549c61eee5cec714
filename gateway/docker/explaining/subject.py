"""One container among everything: what both parts of its explanation look at."""

from gateway.docker import labels
from gateway.docker.grants import granted
from gateway.docker.model import Container, EndpointInfo, Observed
from gateway.docker.plan import Condition, Desired, Plan


class Subject:
    """The container that is explained.

    Args:
        desired: What is wanted.
        observed: What there is.
        planned: Made of both.
        container: One of `observed`.
    """

    def __init__(self, desired: Desired, observed: Observed, planned: Plan, container: Container) -> None:
        self.desired = desired
        self.command = observed.flavour.command
        self.options = desired.options
        self.container = container
        self.base = observed.base(container)
        """The container whose network it uses, which may be itself; None: that one is gone."""
        self.gateway = observed.own_container
        """The gateway's own container; None: it is in none of this engine."""
        self.networks = planned.networks
        """The backends that are reached by name on each network that is kept."""
        self.conditions = {each.network: each for each in planned.conditions if each.container_id == container.id}
        self.dead = next((each for each in planned.dead if each.container_id == container.id), None)
        """Why it does not run, or has no network; None: for another reason, or it does."""
        base = self.base.name if self.base is not None else None
        self.shadows = [each for each in planned.shadows if each.container == base]
        prefix = f"{container.name}: "
        found = sorted(each for each in planned.mistakes if each.startswith(prefix))
        self.mistakes = [each.removeprefix(prefix) for each in found]
        """What is wrong with its labels."""
        self.grant = granted(self.options.grants, container.name, container.labels)
        rules = () if desired.strict else self.options.attach
        self.rule = labels.by_rules(container.name, container.labels, rules)

    def endpoint(self, network: str) -> EndpointInfo | None:
        """Return where it is on a network; None: it is not."""
        return self.base.endpoints.get(network) if self.base is not None else None

    def label(self, key: str) -> str:
        """Return one of the gateway's labels, with its prefix."""
        return f"{self.options.label_prefix}.{key}"


def reason(condition: Condition) -> str:
    """Return why an attachment stands as it does; empty: there is nothing to say."""
    return ": ".join(filter(None, (condition.reason and str(condition.reason), condition.message)))
