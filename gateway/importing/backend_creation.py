"""Creates backends from imported local forwards (`ssh -L`) and from imported clients of remote services."""

import re
from typing import Any

from gateway.backends import KINDS, kind_of_port
from gateway.errors import UsageError
from gateway.importing.client_change_instructions import note_client
from gateway.importing.import_result import (
    ImportResult,
    checks_login,
    has_check_key,
    short_name,
    split_target,
)
from gateway.importing.imported_setup import ANY_ADDRESS, HOST_NAMES, ImportedClient, ImportedLocalForward
from gateway.importing.tunnels_of_imported_clients import forward_of, join_networks, needs_backend
from gateway.unique_name import unique_name

_VOLUME_PORT = 20490
_OPS_PORT = 9090


def create_backends(result: ImportResult) -> None:
    """Create a backend for each local forward, and for each client that uses none of these forwards.

    Args:
        result: Contains tunnels, forwards, clients and containers. The function adds the backends, the instructions
            for the clients, and notes.
    """
    result.reserved |= {name for each in result.containers if not each.replaced for name in each.names}
    join_networks(result)
    matched: dict[int, list[ImportedClient]] = {}
    for client in result.clients:
        forward = forward_of(client, result)
        if forward is not None:
            matched.setdefault(id(forward), []).append(client)
    for forward in result.forwards:
        _add_forward(forward, matched.get(id(forward), []), result)
    used = {id(client) for clients in matched.values() for client in clients}
    for client in result.clients:
        if id(client) not in used and needs_backend(client, result):
            _add_direct(client, result)
    for client in result.clients:
        if client.backend:
            note_client(client, result)


def _add_forward(forward: ImportedLocalForward, clients: list[ImportedClient], result: ImportResult) -> None:
    host, port = split_target(forward.target)
    kinds = [client.kind for client in clients if client.kind not in ("", "tcp")]
    kind = KINDS[kinds[0]] if kinds else kind_of_port(port)
    listen = forward.listen
    if any(each.where == forward.where and each.network != "host" for each in result.containers):
        # The host's kernel mounts volumes, so the listener for a volume must be on the host, not in a container.
        mounted = kind.kernel_mounts
        address, place = ("127.0.0.1", "on this host") if mounted else (ANY_ADDRESS, "in its own container")
        listen = re.sub(r"^(127\.0\.0\.1|\[::1\]|0\.0\.0\.0)(?=:)", address, listen)
        if listen != forward.listen:
            result.add_note(
                f"{forward.where}: the gateway listens on {listen} {place}, instead of on {forward.listen}"
            )
    listen = _free_listener(listen, forward.where, result)
    volume = next((client.volume for client in clients if client.volume), "")
    if clients and (kind.name == clients[0].kind or volume):
        name = result.new_backend_name(volume or _host_name(host, clients[0], port))
        keys: dict[str, Any] = {"kind": kind.name}
        if forward.via is not None:
            keys["via"] = forward.via
        result.backends[name] = {**keys, "targets": [forward.target], "listen": listen}
    else:
        name = result.add_backend(forward.via, forward.target, listen)
    forward.backend = name
    for client in clients:
        _merge(client, name, result)
    _note_missing(name, result)


def _host_name(host: str, client: ImportedClient, port: int) -> str:
    short = short_name(host)
    return (
        short
        if short not in ("localhost", "127", "")
        else client.keys.get("check", {}).get("database") or f"{client.kind}-{port}"
    )


def _add_direct(client: ImportedClient, result: ImportResult) -> None:
    target = f"[{client.host}]:{client.port}" if ":" in client.host else f"{client.host}:{client.port}"
    targets = [target, *client.more]
    for each in targets:
        split_target(each)
    via = client.via
    for name, keys in result.backends.items():
        same = [each.lower() for each in keys["targets"]] == [each.lower() for each in targets]
        if keys.get("via") == via and same and keys["kind"] == client.kind:
            _merge(client, name, result)
            _note_missing(name, result)
            return
    kernel = KINDS[client.kind].kernel_mounts
    on_host = client.container is None or client.container.network == "host"
    host = "127.0.0.1" if kernel or on_host else ANY_ADDRESS
    port = _VOLUME_PORT if kernel else client.port
    if via is None and client.host in HOST_NAMES and port == client.port:
        port += 1  # the target is on this host: if the listener used the same port, the gateway would dial itself
    listen = _free_listener(f"{host}:{port}", "", result)
    name = result.new_backend_name(client.volume or client.name)
    backend: dict[str, Any] = {"kind": client.kind}
    if via is not None:
        backend["via"] = via
    result.backends[name] = {**backend, "targets": targets, "listen": listen}
    _merge(client, name, result)
    _note_missing(name, result)


def _free_listener(listen: str, where: str, result: ImportResult) -> str:
    """Return a free address to listen on: `listen`, or the same address with the next free port.

    Args:
        listen: The preferred listener: `host:port` or the path of a unix socket.
        where: The name of the forward in messages; empty for a client.
        result: Contains the backends. If the port of a forward changes, the function adds a note. If the listener
            takes the default port of `ops`, the function configures another port for `ops`.

    Raises:
        UsageError: Another backend uses the unix socket.
    """
    if listen.startswith("/"):
        if any(each["listen"] == listen for each in result.backends.values()):
            raise UsageError(f"{where}: another forward already listens on {listen}: choose another socket path")
        return listen
    taken = {
        split_target(each["listen"])[1] for each in result.backends.values() if not each["listen"].startswith("/")
    }
    if ops := result.sections.get("ops"):
        taken.add(split_target(ops["listen"])[1])
    host, port = split_target(listen)
    free = next(each for each in range(port, 65536) if each not in taken)
    if free != port and where:
        result.add_note(
            f"{where}: another backend listens on port {port}, so the backend of this forward listens on port {free}"
        )
    if free == _OPS_PORT:
        ops_port = next(each for each in range(_OPS_PORT + 1, 65536) if each not in taken)
        result.sections["ops"] = {"listen": f"127.0.0.1:{ops_port}"}
    return f"[{host}]:{free}" if ":" in host else f"{host}:{free}"


def _merge(client: ImportedClient, name: str, result: ImportResult) -> None:
    """Add a client's configuration keys to a backend, except keys that the backend already has."""
    client.backend = name
    backend = result.backends[name]
    if "check" in client.keys and not checks_login(backend["kind"]):
        _remove_login(client)
    keys = dict(client.keys)
    if "database" in keys.get("check", {}) and not has_check_key(backend["kind"], "database"):
        keys["check"] = {key: value for key, value in keys["check"].items() if key != "database"}
    if keys.get("check", {}).get("password_file") == "PASSWORD_FILE":
        keys["check"] = {**keys["check"], "password_file": f"/run/secrets/{name}_password"}
    path = KINDS[client.kind].path_key
    if path in keys and backend.get(path, keys[path]) != keys[path] and client.volume:
        result.add_note(
            f"{client.where}: backend {name} has another {path}; create the volume {client.volume} yourself, with"
            f" addr=127.0.0.1, port={split_target(backend['listen'])[1]} and {path} {keys[path]}"
        )
        keys.pop("volume", None)
    if "volume" in backend and "volume" in keys and client.volume != backend["volume"]["name"]:
        result.add_note(f"{client.where}: use volume {backend['volume']['name']} of backend {name} instead")
    if "volume" in keys and "volume" not in backend:
        keys["volume"] = _unique_volume(client, keys["volume"], result)
    for key, value in keys.items():
        backend.setdefault(key, value)
    if "check" in keys:
        _merge_check(client, keys["check"], name, result)


def _remove_login(client: ImportedClient) -> None:
    del client.keys["check"]
    client.notes = tuple(each for each in client.notes if "PASSWORD_FILE" not in each)


def _merge_check(client: ImportedClient, check: dict[str, Any], name: str, result: ImportResult) -> None:
    """Use a client's login for the health check of a backend, unless the check logs in as another user.

    If the check does not use the client's login or database, add a note.
    """
    backend = result.backends[name]
    others: list[str] = []
    if check.get("user") == backend["check"].get("user"):
        backend["check"] = {**check, **backend["check"]}
    else:
        _remove_login(client)
        others = [f"user {check['user']}" if "user" in check else "a password without a user"]
    if check.get("database", "") not in ("", backend["check"].get("database")):
        others.append(f"database {check['database']}")
    if others:
        login = ", ".join(f"{key} {backend['check'][key]}" for key in ("user", "database") if key in backend["check"])
        result.add_note(
            f"{client.where}: this client uses {', '.join(others)}, but the check of backend {name} uses"
            f" {login or 'a password without a user'}"
        )


def _unique_volume(client: ImportedClient, keys: dict[str, Any], result: ImportResult) -> dict[str, Any]:
    """Return the `volume` section of a client's backend. If the volume's name is taken, choose a new name."""
    taken = {each["volume"]["name"] for each in result.backends.values() if "volume" in each}
    old, client.volume = client.volume, unique_name(client.volume, taken)
    if old != client.volume:
        result.add_note(
            f"{client.where}: another backend has a volume {old}, so this volume is named {client.volume}"
        )
    return {**keys, "name": client.volume}


def _note_missing(name: str, result: ImportResult) -> None:
    """Add a placeholder for each required key (`ImportedBackendDefaults.keys`) that a backend lacks.

    Add the kind's note for the user (`ImportedBackendDefaults.note`) if a key was missing, or if the kind has no
    required keys and the backend has no `check`. Otherwise, remove the note that an earlier call added.
    """
    backend = result.backends[name]
    imports = KINDS[backend["kind"]].imports
    missing = {key: value for key, value in imports.keys.items() if key not in backend}
    note = f"backends.{name}: {imports.note}"
    if missing or (imports.note and not imports.keys and "check" not in backend):
        backend.update(missing)
        result.add_note(note)
    elif note in result.notes:
        result.notes.remove(note)
