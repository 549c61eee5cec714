"""Does what a plan says, one action at a time."""

from collections.abc import Awaitable

from gateway.docker.engine import Engine
from gateway.docker.plan import Action, Verb
from gateway.docker.trouble import EngineError, Kind


async def act(engine: Engine, action: Action) -> None:
    """Do it; what turns out to be done already is done.

    Raises:
        EngineError: It was not done.
    """
    match action.verb:
        case Verb.CREATE_NETWORK:
            await _unless(Kind.CONFLICT, engine.post("networks/create", dict(action.body)))
        case Verb.REMOVE_NETWORK:
            await _unless(Kind.NOT_FOUND, engine.delete(f"networks/{action.network_id}"))
        case Verb.CONNECT:
            await _connect(engine, action)
        case Verb.DISCONNECT:
            await _disconnect(engine, action)
        case Verb.REATTACH:
            await _disconnect(engine, action)
            await _connect(engine, action)
        case Verb.CREATE_VOLUME:
            await engine.post("volumes/create", dict(action.body))
        case Verb.RECREATE_VOLUME:
            # Without force: the engine refuses when somebody uses it after all.
            await _unless(Kind.NOT_FOUND, engine.delete(f"volumes/{action.network_id}"))
            await engine.post("volumes/create", dict(action.body))
        case Verb.UPDATE_SERVICE:
            await engine.post(f"services/{action.container_id}/update", dict(action.body), version=action.version)


async def _connect(engine: Engine, action: Action) -> None:
    settings: dict[str, object] = {"Aliases": list(action.aliases)}
    if tuple(map(int, engine.api_version.split("."))) >= (1, 48):
        settings["GwPriority"] = -1  # never the container's default route
    body = {"Container": action.container_id, "EndpointConfig": settings}
    try:
        await engine.post(f"networks/{action.network_id}/connect", body)
    except EngineError as trouble:
        # 403 on a bridge, 409 on an overlay; whether it is as it should be, the next look tells.
        if "already exists" not in trouble.message:
            raise


async def _disconnect(engine: Engine, action: Action) -> None:
    try:
        await engine.post(
            f"networks/{action.network_id}/disconnect", {"Container": action.container_id, "Force": False}
        )
    except EngineError as trouble:
        if trouble.kind is not Kind.NOT_FOUND and "is not connected" not in trouble.message:  # the latter is a 500
            raise


async def _unless(kind: Kind, asked: Awaitable[object]) -> None:
    try:
        await asked
    except EngineError as trouble:
        if trouble.kind is not kind:
            raise
