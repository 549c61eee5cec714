"""Containers that use another container's network (`network_mode: service:…`)."""

from gateway.docker.errors import BlockedReason
from gateway.docker.model import Container
from gateway.docker.plan import Standing
from gateway.docker.planning.draft import Draft


def joined(draft: Draft, container: Container, network: str, aliases: tuple[str, ...], *, coming: bool) -> None:
    """Note how such a container stands on a network.

    Args:
        draft: The plan.
        container: Uses another one's network.
        network: One that it asks for.
        aliases: Those that it asks for.
        coming: Whether the other one is wanted there.
    """

    def report(state: Standing, reason: BlockedReason | None, message: str) -> None:
        draft.report_container(container, network, state, reason, message)

    base = draft.observed.base(container)
    if base is None:
        message = "it uses the network of a container that is gone: create it again"
        report(Standing.BLOCKED, BlockedReason.SHARED_NETWORK, message)
        return
    through = f"it uses the network of container {base.name}"
    endpoint = base.endpoints.get(network)
    if endpoint is None:
        refused = next(
            (each for each in draft.conditions
             if (each.container_id, each.network, each.state) == (base.id, network, Standing.BLOCKED)),
            None,
        )  # fmt: skip
        if refused is not None:
            report(Standing.BLOCKED, BlockedReason.SHARED_NETWORK, f"{through}, which is blocked: {refused.message}")
        elif coming:
            report(Standing.PENDING, None, f"{through}, which is attached first")
        else:
            message = f"{through}, which is not attached: set the labels on that one"
            report(Standing.BLOCKED, BlockedReason.SHARED_NETWORK, message)
        return
    missing = [each for each in aliases if endpoint.aliases is not None and each.lower() not in endpoint.names]
    if missing:
        message = f"{through}, which lacks {', '.join(missing)}: set the aliases on that one"
        report(Standing.DRIFTED, BlockedReason.SHARED_NETWORK, message)
    else:
        report(Standing.ATTACHED, None, f"{through}, which is attached")
