"""Lists the NFS mount options (nfs(5)), such as `soft`, that the gateway replaces with its own options."""

REPLACED = frozenset({
    "soft", "softerr", "hard", "nolock", "lock", "local_lock", "udp", "tcp", "proto", "vers", "nfsvers",
    "minorversion", "v2", "v3", "v4", "v4.0", "v4.1", "v4.2", "mountport", "mountproto", "mountvers", "mountaddr",
})  # fmt: skip
"""Options for the NFS version, the transport, locks, and the reaction to failures. The gateway replaces them with its
own options, because all its mounts use NFSv4 over TCP with the option `hard`."""
