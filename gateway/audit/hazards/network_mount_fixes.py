"""Writes commands that replace a hazardous network mount. Does no I/O."""

from gateway.audit.container_recreate_commands import recreate, volume_for
from gateway.audit.host_filesystem_model import HostMount
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.shell_command_builder import command, only_on_host
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditedVolume, AuditSnapshot
from gateway.audit.storage_behind_mount import SECRETS, StorageBehindMount, StorageMedium, nfs_version
from gateway.nfs.mount_options_set_by_gateway import REPLACED
from gateway.octal_escapes import escaped
from gateway.text_sanitizer import one_line
from gateway.unique_name import unique_name

_SMB_VERSION = "3"
"""With this value of the mount option `vers`, client and server use the latest SMB version that both support, but no
version before 3.0 (mount.cifs(8))."""
_LOGIN = {"user", "username", "pass", "passwd", "password", "password2"}
"""Mount options for the user name and the password. A credentials file can contain these options (mount.cifs(8))."""
_KEPT_OF_HOST = {"addr", "port", "sec", "ro", "nosuid", "nodev", "noexec"}
"""Options in the host's mount table that a new volume also needs. All other options are left out, because the table
also lists defaults and values that are specific to the existing mount."""


def safe_volume(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> str:
    """Return commands that recreate the container with a volume in place of `mount`.

    The volume mounts the same export or share with safe options.
    """
    volume = snapshot.volumes.get(mount.volume)
    used = {*snapshot.volumes, mount.volume}
    name = unique_name(mount.volume, used) if mount.volume else volume_for(snapshot, container, mount.path)
    read_only = frozenset(() if mount.writable else (mount.path,))
    options = _driver_options(volume, store)
    change = ProposedMountChanges({mount.path: name}, read_only=read_only, driver_options=options)
    return recreate(snapshot, container, change)


def safe_replacement(snapshot: AuditSnapshot, volume: AuditedVolume, store: StorageBehindMount) -> str:
    """Return commands that recreate an unused volume with safe options."""
    labels = [word for key, value in volume.labels.items() for word in ("--label", f"{key}={value}")]
    remove = command(snapshot.cli, "volume", "rm", volume.name)
    if SECRETS & store.options.keys():
        return f"{remove}\n# then mount {store.title} on the host with credentials=FILE, and use a bind mount"
    options = _driver_options(volume, store)
    return f"{remove} &&\n{command(snapshot.cli, 'volume', 'create', *labels, *options, volume.name)}"


def _driver_options(volume: AuditedVolume | None, store: StorageBehindMount) -> tuple[str, ...]:
    device, kind, chosen = safe_options(volume, store)
    return ("-o", f"type={kind}", "-o", f"device={device}", "-o", f"o={chosen}")


def safe_options(volume: AuditedVolume | None, store: StorageBehindMount) -> tuple[str, str, str]:
    """Return the device, the type and safe options of a volume for the export or share `store`."""
    found = dict(store.options)
    if store.host_mount is not None:
        device, kind = store.device, store.file_system
        found = {key: value for key, value in found.items() if key in _KEPT_OF_HOST}
    else:
        device, kind = (volume.options.get("device", ""), volume.options.get("type", "")) if volume else ("", "")
    if store.medium is StorageMedium.NFS:
        version = nfs_version(store)
        proto = "tcp6" if ":" in found.get("addr", "") else "tcp"
        found = {key: value for key, value in found.items() if key not in REPLACED}
        found |= {"nfsvers": version if version in ("4.1", "4.2") else "4.2", "proto": proto, "hard": ""}
        kind = "nfs"
    else:
        found.pop("nobrl", None)
        if found.get("vers", "").startswith("1"):
            found["vers"] = _SMB_VERSION
    return device, kind, ",".join(f"{key}={value}" if value else key for key, value in found.items())


def start_engine_after_mount(mount: HostMount) -> str:
    """Return commands that make systemd mount a directory before it starts the engine (systemd.unit(5))."""
    if not mount.point.isprintable():
        return "# the name of the directory contains control characters: no command is safe to print"
    folder = "/etc/systemd/system/docker.service.d"
    escaped = mount.point.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    # Append a line and do not replace the file, because the fix of another finding may have written a line to it.
    write = command("printf", r"%s\n", "[Unit]", f'RequiresMountsFor="{escaped}"')
    return f"mkdir -p {folder} && {write} >> {folder}/audit-mounts.conf\nsystemctl daemon-reload"


def changed_options(mount: HostMount) -> str:
    """Return shell comments: the manual steps that make the options of the host's SMB mount safe.

    The steps are not commands, because the audit does not know whether fstab or a systemd unit defines the mount.
    """
    point, is_old = command(one_line(mount.point)), mount.options.get("vers", "").startswith("1")
    changes = [f"set vers={_SMB_VERSION}"] if is_old else []
    changes += ["remove nobrl"] if "nobrl" in mount.options else []
    return "\n".join((
        f"# in the options of {point}, for example in /etc/fstab: {' and '.join(changes)}",
        f"# then stop the containers that use {point}, run: umount {point} && mount {point}",
        "# and start the containers again",
    ))  # fmt: skip


def host_mount(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> str:
    """Return commands that replace a volume with a mount on the host. The volume's options contain a password.

    The mount on the host reads the password from a credentials file. A volume cannot use such a file: only
    mount.cifs(8) reads it, and the engine calls mount(2) directly.
    """
    volume, cli = snapshot.volumes[mount.volume], snapshot.cli
    if ",," in volume.options.get("o", ""):  # two commas represent a comma in a password (mount.cifs(8))
        then = f"mount {one_line(store.title)} on the host with credentials=FILE, and use a bind mount"
        return f"# an option contains a comma, so no command is safe to print: {then} instead of {mount.volume}"
    device, _, options = safe_options(volume, store)
    address = store.options.get("addr", "")
    # Omit `addr` if it only repeats the server in `device`. It can be a host name, but mount.cifs(8) accepts only an
    # IP address in `addr`.
    left_out = _LOGIN | ({"addr"} if device.startswith(f"//{address}/") else set())
    kept = [each for each in options.split(",") if each.partition("=")[0] not in left_out]
    name = f"{container.name}-{volume.name}"
    point, credentials = f"/mnt/{name}", f"/etc/{name}.credentials"
    fields = (device, point, "cifs", ",".join((f"credentials={credentials}", *kept, "_netdev")), "0", "0")
    line = " ".join(map(escaped, fields))
    read = command(cli, "volume", "inspect", "-f", "{{.Options.o}}", volume.name)
    has_volume = f"{command(cli, 'volume', 'inspect', volume.name)} > /dev/null 2>&1"
    login = command("grep", "-E", f"^({'|'.join(sorted(_LOGIN))})=")
    setup = (
        only_on_host(cli),
        # Pipe the password from the options of the volume to the credentials file. The password then appears neither
        # in the output nor in arguments. On a swarm node without this volume, the user must first copy the
        # file from another node.
        f"if {has_volume}; then (umask 077; {read} | tr , '\\n' | {login} > {command(credentials)}); fi",
        f"test -s {command(credentials)} || {{ echo {command(f'{credentials} is missing: copy it')} >&2; exit 1; }}",
        command("chmod", "600", credentials),
        command("mkdir", "-p", point),
        f"grep -qxF {command(line)} /etc/fstab || echo {command(line)} >> /etc/fstab",
        f"{command('mountpoint', '-q', point)} || {command('mount', point)}",
    )
    read_only = frozenset(() if mount.writable else (mount.path,))
    commands = recreate(
        snapshot, container, ProposedMountChanges({mount.path: point}, read_only=read_only, setup=setup)
    )
    return f"{commands}\n# when {container.name} works: {command(cli, 'volume', 'rm', mount.volume)}"
