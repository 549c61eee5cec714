"""Defines the rules of `gateway audit`, one for each kind of hazard. docs/audit.md explains the rules."""

from gateway.audit.report import HazardRule

LAYER_DATABASE = HazardRule(
    "database-in-layer",
    "a database's files in a writable layer",
    "docker rm removes the writable layer and its data. docker compose up also removes them if the image or the "
    "configuration has changed.",
)
LAYER_DATA = HazardRule(
    "data-in-layer",
    "data in a writable layer",
    "docker rm removes the writable layer and its data. docker compose up also removes them if the image or the "
    "configuration has changed.",
)
ANONYMOUS = HazardRule(
    "anonymous-volume",
    "data in an anonymous volume",
    "After docker rm, the next docker run mounts a new, empty volume. The old volume remains, with only an ID as its "
    "name, until docker volume prune removes it. With -v, docker rm also removes the volume.",
)
REMOVED = HazardRule(
    "removed-with-container",
    "--rm removes a volume with data",
    "With --rm, the engine removes the container and its anonymous volumes when the container stops.",
)
MEMORY = HazardRule(
    "data-in-memory",
    "data in memory",
    "The data in a tmpfs is lost when the container stops. The data in a host directory in memory is lost at the "
    "next boot.",
)
REMOTE_DATABASE = HazardRule(
    "database-on-remote-mount",
    "a database's files on a network or FUSE mount",
    "Databases need locks, atomic renames and synchronous writes. SMB and FUSE mounts lack some of these functions. "
    "On NFS, the locks of SQLite fail between clients. An NFS mount that is soft, has no locks, or uses UDP can "
    "corrupt database files.",
)
UNUSED = HazardRule(
    "unused-volume",
    "a volume that no container uses",
    "The engine does not record which application the volume belongs to. docker volume prune -a removes the volume. "
    "If the application's next container mounts a volume with another name, the application does not find the data.",
)
WRITERS = HazardRule(
    "several-writers",
    "several containers write to one place",
    "If the containers do not all use the same locks, they overwrite each other's changes, and corrupt the files of "
    "databases.",
)
WRITABLE_HOST = HazardRule(
    "writable-host-directory",
    "a system directory of the host, writable",
    "The container can change programs, accounts and configuration of the host, and become root there.",
)
PRIVATE_KEY = HazardRule(
    "private-key",
    "a private key in an application's container",
    "Anyone who controls the application can log in with the key from anywhere. The gateway can hold the key "
    "instead, and the application then only connects to the gateway.",
)
ENGINE_SOCKET = HazardRule(
    "engine-socket",
    "the engine's socket in a container",
    "A process that can use the socket can become root on the host. A read-only mount does not prevent this, because "
    "it protects only the socket file, and not the API.",
)
NETWORK_BIND = HazardRule(
    "network-bind",
    "a bind mount of a network file system",
    "If the container starts before the host mounts the network file system, the container writes to the empty "
    "directory on the host's disk. If the host mounts the file system later, the mount is missing in the container.",
)
HIDES = HazardRule(
    "hides-image-files",
    "a mount hides files of the image",
    "The program does not find the files that its image contains at this path. After an update of the image, a "
    "volume still contains the files of the earlier image.",
)
SINGLE_FILE = HazardRule(
    "single-file",
    "a single file is mounted",
    "The mount refers to the file itself, and not to its name. Editors, sed -i and most tools write a new file and "
    "rename it. The container then still reads the old file, until the container is restarted.",
)
SOFT = HazardRule(
    "soft-mount",
    "a soft network mount",
    "After a timeout, the kernel returns an error to the program, and discards data that it has not written yet. "
    "Programs that do not check every write lose data silently (nfs(5), soft).",
)
NO_LOCKS = HazardRule(
    "no-locks",
    "a network mount without locks",
    "Locks apply only to programs on the same host. They do not stop programs on other hosts from writing at the same"
    " time.",
)
OLD_VERSION = HazardRule(
    "nfs-version",
    "an NFS version that hangs or loses locks",
    "Without a version, mount(2) uses NFS 3. The lock and mount protocols of NFS 3 use additional ports, which "
    "tunnels do not forward. When the server restarts, locks are lost. With nfsvers=4, mount(2) uses NFS 4.0, which "
    "does not reliably recognize repeated requests. NFS 4.1 and later recognize them (RFC 8881, section 2.10.6).",
)
UDP = HazardRule(
    "nfs-udp",
    "NFS over UDP",
    "IP identifies the fragments of a packet by a 16-bit number. On fast networks, the number repeats within "
    "seconds. The kernel can then combine fragments of different packets, which silently corrupts data (nfs(5), NFS "
    "over UDP).",
)
SMB_VERSION = HazardRule(
    "smb-version",
    "SMB 1",
    "SMB 1 is not encrypted, its signatures are weak, and current servers refuse it.",
)
PASSWORD = HazardRule(
    "password-in-options",
    "a password in the options of a volume",
    "Every user of the engine can read the options with docker volume inspect.",
)
NOT_WRITABLE = HazardRule(
    "not-writable",
    "the container's user cannot write to a mount",
    "Writes fail with EACCES, often only when the program first saves something.",
)

RULES = tuple(each for each in list(globals().values()) if isinstance(each, HazardRule))
