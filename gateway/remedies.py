"""Defines the default remedy for each reason why a tunnel or target can fail.

`gateway explain` prints the remedy as its last line, and docs/troubleshooting.md describes each reason in detail.
"""

from collections.abc import Mapping

from gateway.errors import Reason

TUNNEL_REMEDIES: Mapping[str, str] = {
    Reason.TIMEOUT: "check the address and the port of the tunnel's server, and firewalls on the path",
    Reason.REFUSED: "start the tunnel's server, or correct its address and port",
    Reason.RESET: "read the log of the tunnel's server; the gateway retries",
    Reason.DNS: "correct the host name of the tunnel's server, or the DNS server of this host",
    Reason.HOST_KEY: "compare the host key with the server's console, then correct known_hosts or host_keys",
    Reason.AUTH: "correct the user, or permit the key on the server (gateway render authorized-keys prints the line)",
    Reason.CHANNEL_PROHIBITED: "permit the address in the configuration of the outer tunnel's server",
    Reason.CHANNEL_FAILED: "check that the outer tunnel's server can reach the inner one",
    Reason.TLS: "correct ca_file, or renew the certificate of the tunnel's server",
    Reason.TOO_MANY_CONNECTIONS: "raise MaxStartups of the SSH server, or wait until its penalty ends",
    Reason.PROTOCOL: "check that the address and the port belong to a server of this kind",
    Reason.PERMISSION: "give the gateway the capability or the device that the detail names",
    Reason.TUNNEL: "repair the outer tunnel first",
}
"""For each reason for which a tunnel can fail: the remedy, as an instruction to the operator."""

TARGET_REMEDIES: Mapping[str, str] = {
    Reason.TIMEOUT: "check that the server responds on its own host, and raise check.timeout if it is only slow",
    Reason.REFUSED: "start the server, or correct the address in targets",
    Reason.RESET: "read the log of the server: it closes connections before it responds",
    Reason.DNS: "correct the host name in targets; the tunnel's server resolves it",
    Reason.HOST_KEY: "correct known_hosts or host_keys of the tunnel",
    Reason.AUTH: "correct check.user and check.password_file",
    Reason.UNAUTHENTICATED: "make the server request a password: without one, every client can log in",
    Reason.CHANNEL_PROHIBITED: "permit the target on the tunnel's server (gateway render authorized-keys prints how)",
    Reason.CHANNEL_FAILED: "check that the tunnel's server can reach the target",
    Reason.TLS: "correct check.tls, or renew the certificate of the server",
    Reason.TOO_MANY_CONNECTIONS: "raise the limit of the server, or lower max_connections of the backend",
    Reason.HOST_BLOCKED: "unblock the address on the server (mysqladmin flush-hosts)",
    Reason.STARTING: "wait until the server has started",
    Reason.ROLE: "promote a primary, or correct prefer",
    Reason.LAG: "read the replication status of the server",
    Reason.QUERY: "correct check.database, or the privileges of check.user",
    Reason.PROTOCOL: "check that targets and kind match the server",
    Reason.EXPORT: "correct export, or accept a replaced export with gateway resume",
    Reason.PERMISSION: "stop the other program that listens on the local port of the tunnel's program",
    Reason.READ_ONLY: "export the file system writable, or set check.write: false",
    Reason.NO_SPACE: "free space on the server",
    Reason.TUNNEL: "repair the tunnel first",
}
"""For each reason for which a target can fail: the remedy, as an instruction to the operator."""
