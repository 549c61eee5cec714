"""Runs the `openvpn` program as a child process, and controls it through its management interface."""

import asyncio
import logging
import os
import re
from collections.abc import Callable

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason, TunnelError
from gateway.processes.child_process import ChildProcess
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.openvpn_config_sanitizer import SanitizedOpenVpnFile
from gateway.vpn.openvpn_failures import OpenVpnFailure, more_specific, parse_failure
from gateway.vpn.openvpn_management import ManagementInterface
from gateway.vpn.openvpn_updown import parse_updown
from gateway.vpn.options import OpenVpnOptions

log = logging.getLogger(__name__)

_LOG_DELAY = 0.3
"""Seconds to wait for the last messages on the management interface after the child process has exited."""
_RETRY_PAUSE = 1.0
"""Seconds between two connection attempts of the child process."""
_UNKNOWN_OPTIONAL = re.compile(r"in \[CMD-LINE\]:\d+: (?:dns-updown|disable-dco)\b")
"""Matches the warning of an older OpenVPN about an option that `--setenv opt` makes optional."""


class OpenVpnProcess:
    """Runs an `openvpn` child process, and stores the state that it reports.

    Args:
        options: The options of the tunnel.
        file: The generated configuration file.
        device: The name for the device.
        redirect: Called with each server and its protocol. Returns the address to which OpenVPN must connect instead
            of the server, or None if OpenVPN must connect directly to the server. Raises `TunnelError` if a required
            redirect is not possible.
        on_state: Called with each connection state from `>STATE:` notifications, and with `DOWN` before OpenVPN
            removes the device.
    """

    def __init__(
        self,
        options: OpenVpnOptions,
        file: SanitizedOpenVpnFile,
        device: str,
        redirect: Callable[[HostPort, str], HostPort | None],
        on_state: Callable[[str], None],
    ) -> None:
        self.state_detail = ""
        """The description of the last state, such as the cause of RECONNECTING; empty if there is none."""
        self.received = 0
        """Number of bytes received from the server so far."""
        self.failure: OpenVpnFailure | None = None
        """The most specific failure since the last successful connection."""
        self.device_settings: DeviceSettings | None = None
        """The device settings that the server last pushed; None if the server has not pushed any."""
        self.server: HostPort | None = None
        self._options = options
        self._file = file if options.user is None else file.with_login_query()
        self._device = device
        self._redirect = redirect
        self._on_state = on_state
        self._management = ManagementInterface(self._on_notification)
        self._child: ChildProcess | None = None
        self._environment: dict[str, str] = {}

    async def start(self) -> None:
        """Start the child process.

        Raises:
            TunnelError: The child process cannot be started.
        """
        file = self._file
        for name in file.ignored:
            log.warning("%s: ignoring the directive %s (see docs/vpn.md)", self._options.config, name)
        user = await self._management.listen()
        # Use an in-memory file, because the configuration can contain keys.
        memory = os.memfd_create("openvpn")
        try:
            os.write(memory, file.text.encode())
            privileges = "net_admin" if user is None else f"net_admin:{user}"
            command = self._command(memory)
            self._child = await ChildProcess.start(
                command, "openvpn", self._on_output, pass_fds=[memory], privileges=privileges
            )
        finally:
            os.close(memory)

    def _command(self, memory: int) -> list[str]:
        return [
            # A <connection> block inherits only options that precede it, so put these options before `--config`.
            "openvpn", "--connect-retry", "1", "2", "--server-poll-timeout", "5", "--allow-compression", "no",
            "--config", f"/dev/fd/{memory}",
            "--dev", self._device, "--dev-type", self._file.layer, "--ifconfig-noexec", "--route-noexec",
            "--persist-tun", "--persist-key", "--script-security", "1", "--setenv", "opt", "disable-dco",
            # OpenVPN 2.7 runs a script that changes the name servers of the host, unless this option disables it.
            "--setenv", "opt", "dns-updown", "disable",
            "--verb", "3", "--suppress-timestamps", "--auth-nocache", "--resolv-retry", "1",
            "--tmp-dir", str(self._management.path.parent),
            "--management", str(self._management.path), "unix", "--management-client", "--management-hold",
            "--management-up-down", "--management-query-remote", "--management-query-passwords",
        ]  # fmt: skip

    async def wait(self) -> TunnelError:
        """Wait until the child process exits, and return the cause."""
        code = await self._child.wait() if self._child else 0
        await asyncio.sleep(_LOG_DELAY)
        return self.error(f"openvpn exited with code {code}")

    def error(self, default: str) -> TunnelError:
        """Return the failure of the child process as an error.

        Args:
            default: The detail of the error if the child has reported no failure.
        """
        failure = self.failure or OpenVpnFailure(FailureReason.RESET, default)
        return TunnelError(failure.reason, failure.detail, fatal=failure.fatal)

    def restart_in_place(self) -> None:
        """Make OpenVPN reconnect. The device, its addresses and the connections through it remain (persist-tun)."""
        self._management.send("signal SIGUSR1")

    async def stop(self) -> None:
        """Stop the child process, and close its management interface."""
        self._management.send("signal SIGTERM")
        try:
            if self._child is not None:
                await self._child.stop()
        finally:
            await self._management.close()

    def _on_output(self, line: str) -> None:
        log.debug("openvpn: %s", line)
        if _UNKNOWN_OPTIONAL.search(line):
            return
        failure = parse_failure(re.sub(r"/dev/fd/\d+(?::(\d+))?", self._config_location, line))
        if failure is not None:
            self.failure = more_specific(self.failure, failure)

    def _config_location(self, found: re.Match[str]) -> str:
        """Return the path and line of the operator's file, to replace those of the generated file in a message."""
        line = f":{self._file.source_line(int(found[1]))}" if found[1] else ""
        return f"{self._options.config}{line}"

    def _on_notification(self, kind: str, text: str) -> None:
        if kind == "HOLD":
            self._management.send("state on")
            self._management.send("bytecount 1")
            first = text.endswith(":0")
            pause = 0.0 if first else _RETRY_PAUSE
            asyncio.get_running_loop().call_later(pause, self._management.send, "hold release")
        elif kind == "STATE":
            self._on_state_notification(text.split(","))
        elif kind == "BYTECOUNT":
            self.received = int(text.split(",", maxsplit=1)[0])
        elif kind == "REMOTE":
            self._on_remote(text)
        elif kind == "PASSWORD":
            self._on_password(text)
        elif kind == "UPDOWN":
            self._on_updown(text)
        elif kind == "FATAL":
            failure = parse_failure(text) or OpenVpnFailure(FailureReason.PROTOCOL, text, fatal=True, specificity=3)
            self.failure = more_specific(self.failure, failure)

    def _on_state_notification(self, fields: list[str]) -> None:
        state = fields[1]
        self.state_detail = fields[2] if len(fields) > 2 else ""
        if state == "CONNECTED":
            self.failure = None
        self._on_state(state)

    def _on_remote(self, text: str) -> None:
        """Handle a REMOTE notification: accept the server, or replace it with the result of `redirect`."""
        host, port, protocol = text.split(",")[:3]
        self.server = HostPort(host, int(port))
        try:
            address = self._redirect(self.server, protocol)
        except TunnelError as error:
            self._give_up(OpenVpnFailure(error.reason, error.detail, error.fatal, specificity=5))
            return
        self._management.send(f"remote MOD {address.host} {address.port}" if address else "remote ACCEPT")

    def _on_password(self, text: str) -> None:
        """Handle a PASSWORD notification: send the requested credential, or record that a login failed."""
        request = re.match(r"Need '([^']+)' (username/password|password)", text)
        if request is None:
            if text.startswith("Verification Failed"):
                detail = f"the server rejects the login ({text})"
                self.failure = OpenVpnFailure(FailureReason.AUTH, detail, fatal=True, specificity=4)
            return
        kind, fields = request[1], request[2]
        options = self._options
        # The gateway can supply only the passphrase of a private key, and the user name and password for the server.
        # It has no other credentials, such as those for an HTTP proxy.
        secret = {"Private Key": options.key_password, "Auth": options.password}.get(kind)
        key = {"Private Key": "key_password_file", "Auth": "user and password_file"}.get(kind, "a login in the file")
        if secret is None or (fields.startswith("username") and options.user is None):
            detail = f"OpenVPN requests a secret ({kind}): set {key}"
            self._give_up(OpenVpnFailure(FailureReason.AUTH, detail, fatal=True, specificity=5))
            return
        try:
            value = secret.reveal()
        except OSError as error:
            detail = f"{error.filename}: {error.strerror}"
            self._give_up(OpenVpnFailure(FailureReason.AUTH, detail, fatal=True, specificity=5))
            return
        if fields.startswith("username"):
            self._management.send_credential("username", kind, options.user or "")
        self._management.send_credential("password", kind, value)

    def _give_up(self, failure: OpenVpnFailure) -> None:
        self.failure = failure
        self._management.send("signal SIGTERM")

    def _on_updown(self, text: str) -> None:
        """Handle an UPDOWN notification.

        OpenVPN sends the environment of an `up` or `down` script as a series of notifications, one for each variable.
        At the end of an `up` environment, derive the device settings.
        """
        if text == "UP":
            self._environment = {}
        elif text == "DOWN":
            self._on_state("DOWN")
        elif text == "ENV,END":
            if self._environment.get("script_type") != "down" and "dev" in self._environment:
                self.device_settings = parse_updown(self._environment, self._options.dns, self._options.mtu)
        elif text.startswith("ENV,"):
            name, _, value = text.removeprefix("ENV,").partition("=")
            self._environment[name] = value
