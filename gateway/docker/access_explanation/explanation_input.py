"""Collects the data that is necessary to explain which backends a container can reach."""

from gateway.docker import labels
from gateway.docker.desired_state import DesiredState
from gateway.docker.grants import granted
from gateway.docker.plan import DesiredAttachment, Plan
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint


class ExplanationInput:
    """All data that an explanation of a container's access to backends needs.

    Args:
        desired: The desired state.
        observed: The observed state.
        planned: The plan that changes `observed` to `desired`.
        container: The container, from `observed`.
    """

    def __init__(self, desired: DesiredState, observed: EngineSnapshot, planned: Plan, container: Container) -> None:
        self.desired = desired
        self.command = observed.flavor.command
        self.options = desired.options
        self.container = container
        self.base = observed.base(container)
        """The owner of the container's network namespace, usually the container itself; None if the owner was
        removed."""
        self.gateway = observed.own_container
        """The gateway's own container; None if the gateway does not run in a container of this engine."""
        self.networks = planned.networks
        """For each network of the gateway: the backends whose names resolve on the network."""
        self.attachments = {each.network: each for each in planned.attachments if each.container_id == container.id}
        self.unavailable = next((each for each in planned.unavailable if each.container_id == container.id), None)
        """Why the container is unavailable; None if it is available. See `gateway.docker.unavailable_containers`."""
        base = self.base.name if self.base is not None else None
        self.name_conflicts = [each for each in planned.name_conflicts if each.container == base]
        prefix = f"{container.name}: "
        found = sorted(each for each in planned.label_errors if each.startswith(prefix))
        self.label_errors = [each.removeprefix(prefix) for each in found]
        """The errors in the container's labels."""
        self.grant = granted(self.options.grants, container.name, container.labels)
        rules = () if desired.strict else self.options.attach
        self.rule = labels.by_rules(container.name, container.labels, rules)

    def endpoint(self, network: str) -> NetworkEndpoint | None:
        """Return the container's endpoint on a network; None if the container is not attached to the network."""
        return self.base.endpoints.get(network) if self.base is not None else None

    def label(self, key: str) -> str:
        """Return the full name of a label, such as `gateway.enable` for `enable`."""
        return f"{self.options.label_prefix}.{key}"


def reason(attachment: DesiredAttachment) -> str:
    """Return the reason and the message of an attachment's status as one string; empty if the status has neither."""
    return ": ".join(filter(None, (attachment.reason and str(attachment.reason), attachment.message)))
