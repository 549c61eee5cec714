"""Recognizes OpenVPN and WireGuard containers: Gluetun, and other images with a mounted configuration file."""

import re
from typing import Any

from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer
from gateway.secret_redaction import redacted

_SERVERS = re.compile(r"kylemanna/openvpn|wg-easy|openvpn-as|wg-access-server")
_CHOICE = ("VPN_SERVICE_PROVIDER", "VPNSP", "SERVER_COUNTRIES", "SERVER_REGIONS", "SERVER_CITIES", "SERVER_HOSTNAMES",
           "SERVER_NAMES", "COUNTRY", "REGION", "CITY", "OWNED_ONLY", "ISP")  # fmt: skip
"""Gluetun variables that select the VPN provider and its servers."""
_WIREGUARD_FILE = re.compile(r"(^|/)wg\w*\.conf$")


def import_vpn(container: ImportedContainer, result: ImportResult) -> bool:
    """Add the tunnel of a VPN client container. Return whether the container is a VPN client.

    Args:
        container: The container.
        result: The imported configuration, to which the function adds the tunnel and notes.
    """
    if _SERVERS.search(container.image) or (
        "wireguard" in container.image and ({"PEERS", "SERVERURL"} & container.environment.keys())
    ):
        result.add_note(f"{container.where}: a VPN server is not imported; only VPN clients are imported")
        return False
    keys = _gluetun(container, result) or _openvpn(container, result) or _wireguard(container)
    if not keys:
        return False
    container.tunnel = result.add_tunnel(keys, container.name or str(keys["kind"]))
    container.replaced = True
    result.add_note(
        f"tunnels.{container.tunnel}: the gateway needs CAP_NET_ADMIN and CAP_SYS_ADMIN, and, for OpenVPN or"
        " wireguard-go, /dev/net/tun"
    )
    return True


def _openvpn(container: ImportedContainer, result: ImportResult) -> dict[str, Any] | None:
    line = " ".join(container.command)
    named = re.search(r"--config[ =](\S+)", line)
    mount = next((each for each in container.mounts if ".ovpn" in (each.source[-5:], each.target[-5:])), None)
    folder = next((each for each in container.mounts if each.target.rstrip("/").endswith("openvpn")), None)
    if named:
        config = container.host_path(named[1]) or named[1]
        container.use("command", "entrypoint")
        rest = [word for word in line.replace(named[0], "").split() if word not in ("openvpn", "/usr/sbin/openvpn")]
        if rest:
            result.add_note(f"{container.where}: options of openvpn that are not imported: {redacted(rest)}")
    elif mount is not None:
        config = mount.source
        container.use(f"mount.{mount.target}")
    elif "openvpn" in container.image and (folder or (container.mounts and "vpn" in container.mounts[0].target)):
        found = folder or container.mounts[0]
        container.use(f"mount.{found.target}")
        config = f"{found.source}/client.ovpn"
        result.add_note(f"{container.where}: set config to the .ovpn file in {found.source}")
    else:
        return None
    if "nordvpn" in line or ";" in line:
        result.add_note(f"{container.where}: the login in the command is not imported: set user and password_file")
    keys: dict[str, Any] = {"kind": "openvpn", "config": config}
    return keys | _login(container, "OPENVPN_USER", "OPENVPN_USERNAME", "VPN_USER", "VPN_USERNAME", result=result)


def _login(container: ImportedContainer, *users: str, result: ImportResult) -> dict[str, Any]:
    user = container.variable(*users)
    if not user:
        return {}
    path = f"/run/secrets/{container.name or 'vpn'}_password"
    password = next((name for name in container.environment if re.search("PASS", name)), "")
    container.use(f"environment.{password}")
    if not password.endswith(("_FILE", "_SECRETFILE")):
        value = f"the value of {password}" if password else "the password"
        result.add_note(f"{container.where}: write {value} to {path}")
    else:
        path = container.environment[password]
    return {"user": user, "password_file": path}


def _wireguard(container: ImportedContainer) -> dict[str, Any] | None:
    mount = next((each for each in container.mounts if _WIREGUARD_FILE.search(each.source)), None)
    if mount is None and "wireguard" in container.image:
        mount = next((each for each in container.mounts if re.search(r"config|wireguard", each.target)), None)
    if mount is None:
        return None
    container.use(f"mount.{mount.target}")
    if _WIREGUARD_FILE.search(mount.source):
        return {"kind": "wireguard", "config": mount.source}
    inner = "wg_confs/wg0.conf" if "linuxserver" in container.image else "wg0.conf"
    return {"kind": "wireguard", "config": f"{mount.source}/{inner}"}


def _gluetun(container: ImportedContainer, result: ImportResult) -> dict[str, Any] | None:
    if "gluetun" not in container.image and "VPN_SERVICE_PROVIDER" not in container.environment:
        return None
    name = container.name or "gluetun"
    choice = [f"{key}={container.environment[key]}" for key in _CHOICE if key in container.environment]
    vpn_type = container.variable("VPN_TYPE") or "openvpn"
    if vpn_type == "wireguard":
        return _gluetun_wireguard(container, name, ", ".join(choice), result)
    custom = container.variable("OPENVPN_CUSTOM_CONFIG")
    path = (container.host_path(custom) or custom) if custom else f"/etc/gateway/{name}.ovpn"
    if not custom:
        container.use(*[f"environment.{key}" for key in _CHOICE])
        result.add_note(
            f"{container.where}: download the .ovpn file of the provider to {path} ({', '.join(choice) or 'OpenVPN'})"
        )
    login = _login(container, "OPENVPN_USER", "USER", result=result)
    return {"kind": "openvpn", "config": path, **login}


def _gluetun_wireguard(container: ImportedContainer, name: str, choice: str, result: ImportResult) -> dict[str, Any]:
    mount = next((each for each in container.mounts if _WIREGUARD_FILE.search(each.target)), None)
    if mount is not None:
        container.use(f"mount.{mount.target}")
        return {"kind": "wireguard", "config": mount.source}
    path = f"/etc/gateway/{name}.conf"
    keys: dict[str, Any] = {"kind": "wireguard", "config": path}
    secrets = (("private_key", "WIREGUARD_PRIVATE_KEY"), ("preshared_key", "WIREGUARD_PRESHARED_KEY"))
    for key, variable in secrets:
        if container.variable(variable, f"{variable}_SECRETFILE"):
            keys[f"{key}_file"] = f"/run/secrets/{name}_{key}"
            result.add_note(f"{container.where}: write the value of {variable} to {keys[f'{key}_file']}")
    host = container.variable("WIREGUARD_ENDPOINT_IP", "VPN_ENDPOINT_IP")
    port = container.variable("WIREGUARD_ENDPOINT_PORT", "VPN_ENDPOINT_PORT") or "51820"
    lines = ["[Interface]", f"Address = {container.variable('WIREGUARD_ADDRESSES') or 'ADDRESS'}"]
    if mtu := container.variable("WIREGUARD_MTU"):
        lines.append(f"MTU = {mtu}")
    if dns := container.variable("DNS_ADDRESS", "DNS_UPSTREAM_PLAIN_ADDRESSES"):
        lines.append(f"DNS = {dns.partition(':')[0]}")
    public_key = container.variable("WIREGUARD_PUBLIC_KEY") or "PUBLIC_KEY"
    lines += [
        "[Peer]",
        f"PublicKey = {public_key}",
        f"Endpoint = {host or 'SERVER'}:{port}",
        "AllowedIPs = 0.0.0.0/0",
    ]
    result.files[path] = "\n".join(lines) + "\n"
    if not host:
        container.use(*[f"environment.{key}" for key in _CHOICE])
        result.add_note(
            f"{container.where}: copy Endpoint and PublicKey from the provider's file to {path} ({choice})"
        )
    return keys
