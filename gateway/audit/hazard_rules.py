"""Defines the rules of `gateway audit`, one for each kind of hazard. docs/audit.md explains the rules."""

from gateway.audit.report import HazardRule

LAYER_DATABASE = HazardRule(
    "database-in-layer",
    "a database's files in a writable layer",
    "The writable layer belongs to the container: docker rm, a new image and compose up remove it with the data.",
)
LAYER_DATA = HazardRule(
    "data-in-layer",
    "data in a writable layer",
    "The writable layer belongs to the container: docker rm, a new image and compose up remove it with the data.",
)
ANONYMOUS = HazardRule(
    "anonymous-volume",
    "data in an anonymous volume",
    "docker rm and docker run mount a new, empty volume; the old one stays without a name, until docker rm -v or "
    "docker volume prune removes it.",
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
    "Databases need locks, atomic renames and synchronous writes. SMB and FUSE mounts lack some of them; on NFS, "
    "locks of SQLite fail between clients, and a mount that is soft, without locks or of version 3 corrupts files.",
)
UNUSED = HazardRule(
    "unused-volume",
    "a volume that no container uses",
    "The engine does not record which application it belongs to. docker volume prune -a removes it, and a container "
    "that uses another volume name does not find the data.",
)
WRITERS = HazardRule(
    "several-writers",
    "several containers write to one place",
    "Unless all of them use the same locks, they overwrite each other's changes. Database files are corrupted.",
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
    "instead, and the application only connects to it.",
)
ENGINE_SOCKET = HazardRule(
    "engine-socket",
    "the engine's socket in a container",
    "The socket gives root on the host, also when it is mounted read-only: read-only protects the file, not the API.",
)
NETWORK_BIND = HazardRule(
    "network-bind",
    "a bind of a network mount",
    "If the host has not mounted it when the container starts, the container writes to the empty directory on the "
    "host's disk, and does not see the mount that comes later.",
)
HIDES = HazardRule(
    "hides-image-files",
    "a mount hides files of the image",
    "The program does not find the files that its image has at this path. After an update of the image, a volume "
    "still has the files of the first image.",
)
SINGLE_FILE = HazardRule(
    "single-file",
    "a single file is mounted",
    "The mount follows the file, not its name. Editors, sed -i and most tools write a new file and rename it: the "
    "container then still sees the old one, until it is restarted.",
)
SOFT = HazardRule(
    "soft-mount",
    "a soft network mount",
    "After a timeout the kernel gives the program an error, and discards data that were not written yet. Programs "
    "that do not check every write lose data silently (nfs(5), soft).",
)
NO_LOCKS = HazardRule(
    "no-locks",
    "a network mount without locks",
    "Locks apply only on this client. Programs on other clients do not see them, and write at the same time.",
)
OLD_VERSION = HazardRule(
    "nfs-version",
    "an NFS version that hangs or loses locks",
    "Without a version, mount(2) uses NFS 3. Its locks and its mount protocol use other ports, which tunnels do not "
    "forward, and after a restart of the server locks are lost. With nfsvers=4, mount(2) uses NFS 4.0, which does "
    "not recognize repeated requests reliably; 4.1 and later do (RFC 8881, section 2.10.6).",
)
UDP = HazardRule(
    "nfs-udp",
    "NFS over UDP",
    "IP reassembles fragments by a 16-bit number that repeats within seconds on fast networks, which corrupts data "
    "silently (nfs(5), NFS over UDP).",
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
