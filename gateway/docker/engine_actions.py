"""Executes one planned action, such as attaching a container, with requests to the engine."""

from collections.abc import Awaitable

from gateway.docker.engine_client import EngineClient, has_gateway_priority
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.start_failure import read_error


async def execute(engine: EngineClient, action: PlannedAction) -> None:
    """Execute an action.

    Raises:
        EngineError: The request failed. After a timeout, it is unknown whether the engine executed the action.
    """
    match action.verb:
        case ActionKind.CREATE_NETWORK:
            await engine.post("networks/create", dict(action.body))
        case ActionKind.REMOVE_NETWORK:
            await _unless(EngineErrorKind.NOT_FOUND, engine.delete(f"networks/{action.network_id}"))
        case ActionKind.CONNECT:
            await _connect(engine, action)
        case ActionKind.DISCONNECT:
            await _disconnect(engine, action.network_id, action.container_id)
        case ActionKind.REATTACH:
            await _reattach(engine, action)
        case ActionKind.CREATE_VOLUME:
            await engine.post("volumes/create", dict(action.body))
        case ActionKind.RECREATE_VOLUME:
            # Do not set `force`: without it, the engine refuses to remove a volume that a container uses.
            await _unless(EngineErrorKind.NOT_FOUND, engine.delete(f"volumes/{action.network_id}"))
            await engine.post("volumes/create", dict(action.body))
        case ActionKind.START | ActionKind.RESTART:
            await _start(engine, action)
        case ActionKind.UPDATE_SERVICE:
            await engine.post(f"services/{action.container_id}/update", dict(action.body), version=action.version)


def can_need_several_requests(engine: EngineClient, action: PlannedAction) -> bool:
    """Return whether `execute` can send several requests that change the engine.

    On Podman, an attachment that fails needs a second request.
    """
    return action.verb in (ActionKind.REATTACH, ActionKind.RECREATE_VOLUME) or (
        action.verb is ActionKind.CONNECT and engine.flavor.leaves_failed_connects
    )


async def _start(engine: EngineClient, action: PlannedAction) -> None:
    try:
        await engine.post_start(f"containers/{action.container_id}/{action.verb}")
    except EngineError as error:
        # The message of a failed mount contains the mount options, which can include passwords.
        if failed := read_error(error.message):
            raise EngineError(error.kind, failed.detail) from None
        raise


async def _reattach(engine: EngineClient, action: PlannedAction) -> None:
    try:
        # Use the name of the network, not its ID: the container can still be attached to a removed network that had
        # the same name and another ID.
        await _disconnect(engine, action.network, action.container_id)
    except EngineError as error:
        if "is not connected" not in error.message:  # the engine reports a missing endpoint with status 500
            raise
    await _connect(engine, action)


async def _connect(engine: EngineClient, action: PlannedAction) -> None:
    settings: dict[str, object] = {"Aliases": list(action.aliases)}
    if has_gateway_priority(engine.api_version):
        settings["GwPriority"] = -1  # prefer the container's other networks for the default route
    if action.addresses:
        settings["IPAMConfig"] = {"IPv6Address" if ":" in each else "IPv4Address": each for each in action.addresses}
    body = {"Container": action.container_id, "EndpointConfig": settings}
    # Do not ignore the error "already exists": the existing endpoint can have the wrong aliases.
    try:
        await engine.post(f"networks/{action.network_id}/connect", body)
    except EngineError as error:
        if engine.flavor.leaves_failed_connects and error.kind is EngineErrorKind.FAILED:
            await _clear(engine, action)
        raise


async def _clear(engine: EngineClient, action: PlannedAction) -> None:
    """Remove the endpoint that Podman keeps after it could not connect a container to a network.

    Until the endpoint is removed, Podman's Docker API cannot list containers.
    """
    try:
        await _disconnect(engine, action.network_id, action.container_id)
    except EngineError as error:
        # Ignore the failure: Podman has removed the endpoint, and fails only because the interface does not exist.
        if error.kind is not EngineErrorKind.FAILED:
            raise


async def _disconnect(engine: EngineClient, network: str, container: str) -> None:
    await engine.post(f"networks/{network}/disconnect", {"Container": container, "Force": False})


async def _unless(kind: EngineErrorKind, request: Awaitable[object]) -> None:
    try:
        await request
    except EngineError as error:
        if error.kind is not kind:
            raise
