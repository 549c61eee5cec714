"""Does one action of a plan."""

from collections.abc import Awaitable

from gateway.docker.engine import Engine, has_gateway_priority
from gateway.docker.failed_starts import read
from gateway.docker.plan import Action, Verb
from gateway.docker.trouble import EngineError, Kind


async def act(engine: Engine, action: Action) -> None:
    """Do an action.

    Raises:
        EngineError: It was not done.
    """
    match action.verb:
        case Verb.CREATE_NETWORK:
            await engine.post("networks/create", dict(action.body))
        case Verb.REMOVE_NETWORK:
            await _unless(Kind.NOT_FOUND, engine.delete(f"networks/{action.network_id}"))
        case Verb.CONNECT:
            await _connect(engine, action)
        case Verb.DISCONNECT:
            await _disconnect(engine, action.network_id, action.container_id)
        case Verb.REATTACH:
            await _reattach(engine, action)
        case Verb.CREATE_VOLUME:
            await engine.post("volumes/create", dict(action.body))
        case Verb.RECREATE_VOLUME:
            # Without force: the engine refuses if a container uses it.
            await _unless(Kind.NOT_FOUND, engine.delete(f"volumes/{action.network_id}"))
            await engine.post("volumes/create", dict(action.body))
        case Verb.START | Verb.RESTART:
            await _start(engine, action)
        case Verb.UPDATE_SERVICE:
            await engine.post(f"services/{action.container_id}/update", dict(action.body), version=action.version)


async def _start(engine: Engine, action: Action) -> None:
    try:
        await engine.post(f"containers/{action.container_id}/{action.verb}")
    except EngineError as trouble:
        # The message of a failed mount has all options of the mount, and with them passwords.
        if failed := read(trouble.message):
            raise EngineError(trouble.kind, failed.detail) from None
        raise


async def _reattach(engine: Engine, action: Action) -> None:
    try:
        # By name: the network that it was on may be another one of that name.
        await _disconnect(engine, action.network, action.container_id)
    except EngineError as trouble:
        if "is not connected" not in trouble.message:  # a 500
            raise
    await _connect(engine, action)


async def _connect(engine: Engine, action: Action) -> None:
    settings: dict[str, object] = {"Aliases": list(action.aliases)}
    if has_gateway_priority(engine.api_version):
        settings["GwPriority"] = -1  # of networks with a route out, the container's others come first
    if action.addresses:
        settings["IPAMConfig"] = {"IPv6Address" if ":" in each else "IPv4Address": each for each in action.addresses}
    body = {"Container": action.container_id, "EndpointConfig": settings}
    # "Already exists" is an error, too: the next look shows whether the endpoint is as it should be.
    try:
        await engine.post(f"networks/{action.network_id}/connect", body)
    except EngineError as trouble:
        if engine.flavour.leaves_failed_connects and trouble.kind is Kind.FAILED:
            await _clear(engine, action)
        raise


async def _clear(engine: Engine, action: Action) -> None:
    """Have Podman forget a connection that failed: until then it lists no container at all, of whatever network."""
    try:
        await _disconnect(engine, action.network_id, action.container_id)
    except EngineError as trouble:  # it forgets, and fails to take down what was never set up
        if trouble.kind is not Kind.FAILED:
            raise


async def _disconnect(engine: Engine, network: str, container: str) -> None:
    await engine.post(f"networks/{network}/disconnect", {"Container": container, "Force": False})


async def _unless(kind: Kind, asked: Awaitable[object]) -> None:
    try:
        await asked
    except EngineError as trouble:
        if trouble.kind is not kind:
            raise
