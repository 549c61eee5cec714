"""What becomes of OpenVPN's directives in a client's file: they stay, are left out, or are refused. Pure."""

from gateway.errors import GatewayError
from gateway.vpn.openvpn_grammar import BLOCKS, NO_VARIABLES, check_shape, is_allowed
from gateway.vpn.openvpn_syntax import Directive, shown

_OURS = {
    # The process and its output.
    "daemon", "inetd", "log", "log-append", "syslog", "writepid", "status", "status-version", "verb", "mute", "echo",
    "parameter", "suppress-timestamps", "machine-readable-output", "errors-to-stderr", "nice", "mlock", "chroot",
    "user", "group", "cd", "tmp-dir", "remap-usr1", "persist-key", "disable-dco", "setcon",
    "management", "management-client", "management-hold", "management-query-passwords", "management-query-remote",
    "management-up-down", "management-signal", "management-forget-disconnect", "management-log-cache",
    # The device, addresses, routes and names.
    "dev", "dev-type", "dev-node", "ifconfig-noexec", "ifconfig-nowarn", "route-noexec", "route-up", "route-pre-down",
    "up", "down", "up-delay", "up-restart", "down-pre", "ipchange", "script-security", "dns-updown", "persist-tun",
    # How attempts follow each other.
    "connect-retry", "connect-retry-max", "connect-timeout", "server-poll-timeout", "resolv-retry", "auth-retry",
    "auth-nocache", "single-session", "ping-exit", "preresolve", "ip-remote-hint",
    # What does nothing here: Windows, and what OpenVPN itself ignores.
    "ip-win32", "route-method", "register-dns", "block-outside-dns", "dhcp-renew", "dhcp-release", "dhcp-pre-release",
    "show-net-up", "tap-sleep", "pause-exit", "service", "win-sys", "windows-driver", "tun-ipv6", "http-proxy-retry",
    "http-proxy-timeout", "socks-proxy-retry", "max-routes", "prng", "mtu-test", "comp-noadapt",
    "ignore-unknown-option",
}  # fmt: skip
"""Directives that the gateway gives itself, that would take from it what it has to do, or that do nothing."""
REPORTED = {"up", "down", "route-up", "route-pre-down", "ipchange", "dns-updown"}
"""Those of ours whose loss somebody may notice."""
_REFUSED = {
    "loads code into the client": {"plugin", "providers", "engine", "pkcs11-providers", "pkcs11-id"},
    "runs a program": {"iproute"},
    "reads a further file, which is not looked at; put its lines here": {"config"},
    "reads a folder; put its certificates into <ca>": {"capath"},
    "reads a file; give key_password_file": {"askpass"},
    "writes files": {"replay-persist", "tls-export-cert", "memstats"},
    "decides by a script; use verify-x509-name or remote-cert-tls": {"tls-verify"},
    "is for scripts, which do not run": {"setenv-safe", "x509-track"},
    "is a static key without forward secrecy; ask the VPN's operator for TLS": {"secret"},
    "switches a protection off": {"no-replay", "compat-mode"},
    "changes what verify-x509-name compares": {"x509-username-field"},
    "asks a person at each connection": {"static-challenge"},
    "needs Windows": {"cryptoapicert", "allow-nonadmin"},
    "belongs to a server": {
        "auth-gen-token", "auth-gen-token-secret", "auth-user-pass-optional", "auth-user-pass-verify",
        "bcast-buffers", "ccd-exclusive", "client-cert-not-required", "client-config-dir", "client-connect",
        "client-crresponse", "client-disconnect", "client-to-client", "connect-freq", "connect-freq-initial", "dh",
        "disable", "duplicate-cn", "hash-size", "ifconfig-ipv6-pool", "ifconfig-ipv6-push", "ifconfig-pool",
        "ifconfig-pool-persist", "ifconfig-push", "ifconfig-push-constraint", "iroute", "iroute-ipv6",
        "learn-address", "max-clients", "max-routes-per-client", "mode", "multihome", "opt-verify", "port-share",
        "push", "push-remove", "push-reset", "server", "server-bridge", "server-ipv6", "stale-routes-check",
        "tcp-queue-limit", "tls-crypt-v2-verify", "tls-server", "username-as-common-name", "verify-client-cert",
        "vlan-accept", "vlan-pvid", "vlan-tagging",
    },
    "is a command of its own": {
        "genkey", "gremlin", "help", "mktun", "rmtun", "show-ciphers", "show-curves", "show-digests", "show-engines",
        "show-gateway", "show-groups", "show-pkcs11-ids", "show-tls", "test-crypto", "version",
    },
    "is not for a client's file": {
        "auth-token", "auth-token-user", "bind-dev", "force-tls-key-material-export", "http-proxy-override",
        "key-derivation", "keying-material-exporter", "lladdr", "management-client-auth", "management-client-group",
        "management-client-user", "management-external-cert", "management-external-key", "management-query-proxy",
        "mark", "peer-id", "pkcs11-cert-private", "pkcs11-id-management", "pkcs11-pin-cache", "pkcs11-private-mode",
        "pkcs11-protected-authentication", "protocol-flags", "push-continuation", "compat-names", "no-name-remapping",
        "mtu-dynamic", "use-prediction-resistance",
    },
}  # fmt: skip
"""What the other directives of OpenVPN do. Whatever is in none of these tables is refused too."""


def is_left_out(directive: Directive) -> bool:
    """Whether it is not for OpenVPN: the gateway says it itself, or it does nothing here."""
    if directive.name == "setenv":
        return not NO_VARIABLES.isdisjoint(directive.values[:1])
    return directive.block is None and directive.name in _OURS


def is_known(name: str) -> bool:
    """Whether it is decided what becomes of a directive of this name."""
    return is_allowed(name) or name in _OURS or _refusal(name) is not None


def check(directive: Directive, *, connection: bool = False) -> None:
    """Refuse what a client's file may not have.

    Args:
        directive: One that is not left out; its block is looked at elsewhere.
        connection: It stands in a `<connection>`.

    Raises:
        GatewayError: With what it is, and what to do.
    """
    name = directive.name
    if (refusal := _refusal(name)) is not None:
        raise GatewayError(f"{name} {refusal}: remove it")
    if directive.block is None:
        if name == "setenv" and directive.values[:1] == ("opt",):
            raise GatewayError("setenv opt hides a directive: write what follows it alone, or remove it")
        check_shape(directive, connection=connection)
    elif name not in BLOCKS or connection:
        where = "in a <connection>" if connection else "in a client's file"
        raise GatewayError(f"<{shown(name)}> is not a block that is allowed {where}: remove it")


def _refusal(name: str) -> str | None:
    return next((why for why, names in _REFUSED.items() if name in names), None)
