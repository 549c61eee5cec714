"""Defines the default remedy for each reason why a tunnel or target can fail.

`gateway explain` prints the remedy as its last line, and docs/troubleshooting.md describes each reason in detail.
"""

from collections.abc import Mapping

from gateway.errors import FailureReason

TUNNEL_REMEDIES: Mapping[str, str] = {
    FailureReason.TIMEOUT: "check firewalls, and the address and the port of the tunnel's server",
    FailureReason.REFUSED: "start the tunnel's server, or correct its address and port",
    FailureReason.RESET: "read the log of the tunnel's server; the gateway retries",
    FailureReason.DNS: "correct the host name of the tunnel's server, or the DNS server of this host",
    FailureReason.HOST_KEY: "compare the host key with the server's console, then correct known_hosts or host_keys",
    FailureReason.AUTH: (
        "correct the user, or permit the key on the server (gateway render authorized-keys prints the line)"
    ),
    FailureReason.CHANNEL_PROHIBITED: "permit the address in the configuration of the outer tunnel's server",
    FailureReason.CHANNEL_FAILED: "check that the outer tunnel's server can reach the inner tunnel's server",
    FailureReason.TLS: "correct ca_file, or renew the certificate of the tunnel's server",
    FailureReason.TOO_MANY_CONNECTIONS: (
        "raise MaxStartups of the SSH server, or wait until the server accepts the gateway's address again"
    ),
    FailureReason.PROTOCOL: "check that the address and the port belong to a server of this kind",
    FailureReason.PERMISSION: (
        "give the gateway the capability, the device or the write access that is missing, as the error shows"
    ),
    FailureReason.TUNNEL: "repair the outer tunnel first",
}
"""Maps each reason for the failure of a tunnel to its remedy, an instruction to the operator."""

TARGET_REMEDIES: Mapping[str, str] = {
    FailureReason.TIMEOUT: (
        "check that the server responds on its own host, and raise check.timeout if it is only slow"
    ),
    FailureReason.REFUSED: "start the server, or correct the address in targets",
    FailureReason.RESET: "read the log of the server: it closes connections before it responds",
    FailureReason.DNS: (
        "correct the host name in targets (with via, the tunnel's server or the VPN's name servers resolve it)"
    ),
    FailureReason.HOST_KEY: "correct known_hosts or host_keys of the tunnel",
    FailureReason.AUTH: "correct check.user and check.password_file",
    FailureReason.UNAUTHENTICATED: "configure the server to require a password: otherwise, every client can log in",
    FailureReason.CHANNEL_PROHIBITED: (
        "permit the target on the tunnel's server (gateway render authorized-keys prints the lines)"
    ),
    FailureReason.CHANNEL_FAILED: "check that the tunnel's server can reach the target",
    FailureReason.TLS: "correct check.tls, or renew the certificate of the server",
    FailureReason.TOO_MANY_CONNECTIONS: "raise the limit of the server, or lower max_connections of the backend",
    FailureReason.HOST_BLOCKED: "unblock the address on the server (mysqladmin flush-hosts)",
    FailureReason.STARTING: "wait until the server has started",
    FailureReason.ROLE: "promote a server to primary, or correct the key prefer",
    FailureReason.LAG: "read the replication status of the server",
    FailureReason.QUERY: "correct check.database, or the privileges of check.user",
    FailureReason.PROTOCOL: "check that the address in targets belongs to a server of the backend's kind",
    FailureReason.EXPORT: (
        "correct the key export; if the export was replaced on purpose, remount it, and run gateway resume"
    ),
    FailureReason.PERMISSION: "stop the other program that listens on the local port that the tunnel's command uses",
    FailureReason.READ_ONLY: "export the file system read-write, or set check.write: false",
    FailureReason.NO_SPACE: "free space on the server",
    FailureReason.TUNNEL: "repair the tunnel first",
}
"""Maps each reason for the failure of a target to its remedy, an instruction to the operator."""
