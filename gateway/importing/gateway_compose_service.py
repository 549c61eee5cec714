"""Adapts the imported configuration for a gateway that runs as a service in the Compose file."""

import copy
import posixpath
import re
from dataclasses import dataclass, field, fields
from typing import Any

from gateway.backend_support.volume_definition import VolumeOptions, VolumeSpec
from gateway.backends import KINDS
from gateway.contracts.config_types import HostPort
from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import ANY_ADDRESS, LOOPBACK
from gateway.importing.tunnels_of_imported_clients import published_ports
from gateway.tunnels import KINDS as TUNNEL_KINDS

BRIDGE = "172.17.0.1"
"""The usual address of the host on Docker's default bridge. `host-gateway` usually resolves to this address."""
_FILES = {
    "identity_files": "key", "certificate_files": "certificate", "passphrase_file": "passphrase",
    "password_file": "password", "private_key_file": "private_key", "preshared_key_file": "preshared_key",
    "known_hosts": "known_hosts", "config": "config",
}  # fmt: skip
"""Maps each configuration key with a file path to the last part of the Compose secret's name. For example, the key
`password_file` of the tunnel `bastion` becomes the secret `bastion_password`."""


@dataclass
class GatewayComposeServiceConfig:
    """The imported configuration, adapted for a gateway that runs as a Compose service.

    Args:
        tunnels: The tunnels.
        backends: The backends.
        folder: The directory of the Compose file.
        secrets: Maps the name of each Compose secret to the path of its file on the host.
        agent: Whether at least one tunnel logs in with the SSH agent.
        on_host: Whether the gateway runs in the host's network namespace, because the host's kernel mounts the file
            system of a backend.
    """

    tunnels: dict[str, dict[str, Any]]
    backends: dict[str, dict[str, Any]]
    folder: str = ""
    secrets: dict[str, str] = field(default_factory=dict)
    agent: bool = False
    on_host: bool = False

    @property
    def needs_capabilities(self) -> bool:
        """Whether at least one tunnel needs Linux capabilities, and therefore the image with VPN clients."""
        return any(TUNNEL_KINDS[keys["kind"]].needs_capabilities for keys in self.tunnels.values())


def adapt_to_compose(result: ImportResult, folder: str) -> GatewayComposeServiceConfig:
    """Return the imported configuration, adapted for a gateway that runs as a Compose service.

    Args:
        result: The imported configuration, which this function does not change.
        folder: The directory of the Compose file.
    """
    found = GatewayComposeServiceConfig(copy.deepcopy(result.tunnels), copy.deepcopy(result.backends), folder)
    found.on_host = any(KINDS[keys["kind"]].kernel_mounts for keys in found.backends.values())
    for keys in found.tunnels.values():
        if keys.get("config") in result.files:
            # The diff for the Compose file also creates the VPN's configuration file, in the same directory.
            keys["config"] = posixpath.join(folder, posixpath.basename(keys["config"]))
    for section in (found.tunnels, found.backends):
        for name, keys in section.items():
            _move_files(name, keys, found)
            if "check" in keys:
                _move_files(name, keys["check"], found)
    for keys in found.tunnels.values():
        if not found.on_host:
            keys.update(TUNNEL_KINDS[keys["kind"]].keys_in_container)
    served = {client.backend for client in result.clients if client.container and client.container.network != "host"}
    published = {each.backend: published_ports(each, result) for each in result.forwards}
    for name, keys in found.backends.items():
        if "listen" in keys:
            keys["listen"] = _listener(keys, found, published.get(name), for_containers=name in served)
    return found


def _listener(
    keys: dict[str, Any], found: GatewayComposeServiceConfig, published: list[int] | None, *, for_containers: bool
) -> Any:
    """Return the listeners of a backend for a gateway that runs as a Compose service.

    Args:
        keys: The imported keys of the backend.
        found: The configuration of the gateway's service.
        published: The result of `published_ports` for the local forward that the backend replaces; None if the
            backend replaces no forward.
        for_containers: Whether containers on a Docker network are clients of the backend.
    """
    listen = keys["listen"]
    if listen.startswith("/") or KINDS[keys["kind"]].kernel_mounts:
        return listen
    host, port = split_target(listen)
    if not found.on_host:
        return f"{ANY_ADDRESS}:{port}" if host in LOOPBACK else listen
    if published is not None:
        listeners = [f"127.0.0.1:{each}" for each in published or ([] if for_containers else [port])]
        listeners += [f"{BRIDGE}:{port}"] if for_containers else []
        return listeners if len(listeners) > 1 else listeners[0]
    if not for_containers:
        return listen
    return [f"127.0.0.1:{port}", f"{BRIDGE}:{port}"] if host in LOOPBACK else f"{BRIDGE}:{port}"


def _move_files(name: str, keys: dict[str, Any], found: GatewayComposeServiceConfig) -> None:
    """Define a Compose secret for each file in `keys`, and replace the file's path with the secret's path.

    If the tunnel uses an SSH agent, also change `agent` to the path of the agent's socket in the container.

    Args:
        name: The name of the tunnel or backend, for the names of the secrets.
        keys: The configuration keys of the tunnel or backend, or of its check. The function changes them.
        found: The configuration of the gateway's service. The function adds the secrets.
    """
    for key, suffix in _FILES.items():
        if key in keys and key != "known_hosts" and isinstance(keys[key], str):
            keys[key] = _secret(keys[key], f"{name}_{suffix}", found)
        elif isinstance(keys.get(key), list):
            base = suffix if key == "known_hosts" else f"{name}_{suffix}"
            keys[key] = [_secret(path, base, found) for path in keys[key]]
    if "agent" in keys:
        found.agent = True
        keys["agent"] = "/run/ssh-agent.sock"


def _secret(path: str, name: str, found: GatewayComposeServiceConfig) -> str:
    """Define a Compose secret for a file, and return the secret's path in the gateway's container."""
    if path.startswith("/run/secrets/"):
        name, path = path.rpartition("/")[2], f"./secrets/{path.rpartition('/')[2]}"
    elif not re.match(r"[/$]", path):
        path = posixpath.relpath(path, found.folder or ".")
        path = path if path.startswith("../") else f"./{path}"
    existing = next((each for each, file in found.secrets.items() if file == path), None)
    number, base = 2, name
    while existing is None and name in found.secrets:
        number, name = number + 1, f"{base}_{number}"
    found.secrets[existing or name] = path
    return f"/run/secrets/{existing or name}"


def volume_of(backend: dict[str, Any], **changes: Any) -> VolumeSpec | None:
    """Return the Docker volume of a backend; None if the backend has no volume.

    Args:
        backend: The keys of the backend.
        changes: New values for keys of the backend, such as `export`.
    """
    kind = KINDS[backend["kind"]]
    keys = {**backend, **changes}
    if kind.mount is None or "volume" not in keys:
        return None
    volume = dict(keys["volume"])
    volume["mount_options"] = tuple(volume.get("mount_options", ()))
    known = {each.name for each in fields(kind.options)}
    options = kind.options(**{key: value for key, value in keys.items() if key in known - {"volume"}},
                           volume=VolumeOptions(**volume))  # fmt: skip
    return kind.mount.build(options, HostPort(*split_target(str(backend["listen"]))), kind.hold)


def service(
    found: GatewayComposeServiceConfig, networks: dict[str, Any], ports: list[str], variables: list[str]
) -> dict[str, Any]:
    """Return the definition of the gateway's service in the Compose file.

    Args:
        found: The configuration of the gateway.
        networks: The networks of the service; ignored if the gateway runs in the host's network namespace.
        ports: The ports to publish; ignored if the gateway runs in the host's network namespace.
        variables: The environment variables that the configuration uses.
    """
    keys: dict[str, Any] = {
        "image": "${GATEWAY_VPN_IMAGE:-gateway-vpn}" if found.needs_capabilities else "${GATEWAY_IMAGE:-gateway}",
        "command": "run -c /etc/gateway/gateway.yaml",
    }
    if not found.needs_capabilities:
        keys["user"] = "${GATEWAY_USER:-10001}"
    if variables:
        keys["environment"] = {name: f"${{{name}}}" for name in variables}
    keys["configs"] = [{"source": "gateway", "target": "/etc/gateway/gateway.yaml"}]
    if found.secrets:
        keys["secrets"] = list(found.secrets)
    if found.agent:
        keys["volumes"] = ["${SSH_AUTH_SOCK:?start an SSH agent, or import again with a key}:/run/ssh-agent.sock"]
    if found.on_host:
        keys["network_mode"] = "host"
    else:
        keys["networks"] = networks
        if ports:
            keys["ports"] = ports
    keys |= {
        "restart": "always",
        "stop_grace_period": "30s",
        "read_only": True,
        "tmpfs": ["/run/gateway:mode=1777", "/var/lib/gateway:mode=1777"],
        "cap_drop": ["ALL"],
    }
    if found.needs_capabilities:
        keys["tmpfs"] += ["/tmp:mode=1777", "/run/wireguard:mode=0700"]  # noqa: S108 - in the container
        keys["cap_add"] = [
            "NET_ADMIN",
            *(["SYS_ADMIN"] if found.on_host else []),
            "CHOWN",
            "KILL",
            "SETGID",
            "SETUID",
        ]
        keys["devices"] = ["/dev/net/tun"]
    keys |= {"security_opt": ["no-new-privileges:true"], "ulimits": {"core": 0}}
    if not found.on_host:
        keys["sysctls"] = {"net.ipv4.ip_forward": 0}
    return keys
