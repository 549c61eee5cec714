"""Decides which directives of an OpenVPN file the gateway keeps, ignores or refuses. Does no I/O."""

from gateway.errors import GatewayError
from gateway.vpn.openvpn_config_parser import OpenVpnDirective, printable_name
from gateway.vpn.openvpn_directive_allowlist import BLOCK_DIRECTIVES, IGNORED_VARIABLES, check_values, is_allowed

_IGNORED = {
    # The following directives control the `openvpn` process and its output.
    "daemon", "inetd", "log", "log-append", "syslog", "writepid", "status", "status-version", "verb", "mute", "echo",
    "parameter", "suppress-timestamps", "machine-readable-output", "errors-to-stderr", "nice", "mlock", "chroot",
    "user", "group", "cd", "tmp-dir", "remap-usr1", "persist-key", "disable-dco", "setcon",
    "management", "management-client", "management-hold", "management-query-passwords", "management-query-remote",
    "management-up-down", "management-signal", "management-forget-disconnect", "management-log-cache",
    # The following directives control the device, addresses, routes and name resolution.
    "dev", "dev-type", "dev-node", "ifconfig-noexec", "ifconfig-nowarn", "route-noexec", "route-up", "route-pre-down",
    "up", "down", "up-delay", "up-restart", "down-pre", "ipchange", "script-security", "dns-updown", "persist-tun",
    # The following directives control connection attempts.
    "connect-retry", "connect-retry-max", "connect-timeout", "server-poll-timeout", "resolv-retry", "auth-retry",
    "auth-nocache", "single-session", "ping-exit", "preresolve", "ip-remote-hint",
    # The following directives have no effect on Linux: they are for Windows, or OpenVPN ignores them.
    "ip-win32", "route-method", "register-dns", "block-outside-dns", "dhcp-renew", "dhcp-release", "dhcp-pre-release",
    "show-net-up", "tap-sleep", "pause-exit", "service", "win-sys", "windows-driver", "tun-ipv6", "http-proxy-retry",
    "http-proxy-timeout", "socks-proxy-retry", "max-routes", "prng", "mtu-test", "comp-noadapt",
    "ignore-unknown-option",
}  # fmt: skip
"""Directives that the gateway ignores: they have no effect on Linux, or the gateway controls their settings."""
REPORTED = {"up", "down", "route-up", "route-pre-down", "ipchange", "dns-updown"}
"""Ignored directives whose effect the operator probably expects. The gateway logs a warning for each of them."""
_REFUSED = {
    "loads code into the client": {"plugin", "providers", "engine", "pkcs11-providers", "pkcs11-id"},
    "runs a program": {"iproute"},
    "includes another file, which is not checked; copy the lines of that file here": {"config"},
    "reads a directory; copy its certificates into <ca>": {"capath"},
    "reads a file; set key_password_file": {"askpass"},
    "writes files": {"replay-persist", "tls-export-cert", "memstats"},
    "verifies the server with a script; use verify-x509-name or remote-cert-tls": {"tls-verify"},
    "is for scripts, which the gateway does not run": {"setenv-safe", "x509-track"},
    "is a static key without forward secrecy; ask the VPN's operator for TLS": {"secret"},
    "disables a protection": {"no-replay", "compat-mode"},
    "changes the field that verify-x509-name compares": {"x509-username-field"},
    "prompts a person at each connection": {"static-challenge"},
    "requires Windows": {"cryptoapicert", "allow-nonadmin"},
    "is for servers": {
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
    "is a separate command": {
        "genkey", "gremlin", "help", "mktun", "rmtun", "show-ciphers", "show-curves", "show-digests", "show-engines",
        "show-gateway", "show-groups", "show-pkcs11-ids", "show-tls", "test-crypto", "version",
    },
    "is not for client files": {
        "auth-token", "auth-token-user", "bind-dev", "force-tls-key-material-export", "http-proxy-override",
        "key-derivation", "keying-material-exporter", "lladdr", "management-client-auth", "management-client-group",
        "management-client-user", "management-external-cert", "management-external-key", "management-query-proxy",
        "mark", "peer-id", "pkcs11-cert-private", "pkcs11-id-management", "pkcs11-pin-cache", "pkcs11-private-mode",
        "pkcs11-protected-authentication", "protocol-flags", "push-continuation", "compat-names", "no-name-remapping",
        "mtu-dynamic", "use-prediction-resistance",
    },
}  # fmt: skip
"""The directives that the gateway refuses, by reason. The gateway also refuses all unknown directives."""


def is_ignored(directive: OpenVpnDirective) -> bool:
    """Return whether the gateway ignores a directive. For all other directives, call `check_allowed`."""
    if directive.name == "setenv":
        return not IGNORED_VARIABLES.isdisjoint(directive.values[:1])
    return directive.block is None and directive.name in _IGNORED


def is_known(name: str) -> bool:
    """Return whether a rule of the gateway explicitly allows, ignores or refuses a directive."""
    return is_allowed(name) or name in _IGNORED or _refusal(name) is not None


def check_allowed(directive: OpenVpnDirective, *, connection: bool = False) -> None:
    """Check that a directive is allowed in an OpenVPN client file. The content of a block is not checked.

    Args:
        directive: A directive for which `is_ignored` returns False.
        connection: Whether the directive is in a `<connection>` block.

    Raises:
        GatewayError: The directive is not allowed. The message contains the reason and the remedy.
    """
    name = directive.name
    if (refusal := _refusal(name)) is not None:
        raise GatewayError(f"{name} {refusal}: remove this directive")
    if directive.block is None:
        if name == "setenv" and directive.values[:1] == ("opt",):
            raise GatewayError(
                "setenv opt before a directive is not allowed: write only the directive, or remove the line"
            )
        check_values(directive, connection=connection)
    elif name not in BLOCK_DIRECTIVES or connection:
        where = "in a <connection> block" if connection else "in an OpenVPN client file"
        raise GatewayError(f"<{printable_name(name)}> is not allowed {where}: remove it")


def _refusal(name: str) -> str | None:
    return next((reason for reason, names in _REFUSED.items() if name in names), None)
