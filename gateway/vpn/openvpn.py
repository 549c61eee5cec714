"""One run of the `openvpn` program, driven by its management interface."""

import asyncio
import logging
import os
import re
from collections.abc import Callable

from gateway.contracts import Endpoint
from gateway.errors import Reason, TunnelError
from gateway.vpn.addressing import Addressing
from gateway.vpn.child import Child
from gateway.vpn.openvpn_file import ClientFile
from gateway.vpn.openvpn_log import Trouble, addressing, graver, trouble_in
from gateway.vpn.openvpn_management import Management
from gateway.vpn.options import OpenVpnOptions

log = logging.getLogger(__name__)

_EXPLAINS = 0.3
"""Seconds that a child's last words take to arrive after it ended."""
_PACE = 1.0
"""Seconds between two of its attempts."""


class OpenVpn:
    """The child and what is known of it.

    Args:
        options: What the configuration says.
        file: The client's file.
        device: What to call its device.
        redirect: Where to connect instead of a server's own address; None: there.
        changed: Called when the connection comes, goes, or makes a step.
    """

    def __init__(
        self,
        options: OpenVpnOptions,
        file: ClientFile,
        device: str,
        redirect: Callable[[Endpoint, str], Endpoint | None],
        changed: Callable[[str], None],
    ) -> None:
        self.state = ""
        """The last word of `>STATE:`, such as CONNECTED."""
        self.why = ""
        self.received = 0
        self.trouble: Trouble | None = None
        self.pushed: Addressing | None = None
        self.server: Endpoint | None = None
        self._options = options
        self._file = file if options.user is None else file.asking()
        self._device = device
        self._redirect = redirect
        self._changed = changed
        self._management = Management(self._heard)
        self._child: Child | None = None
        self._variables: dict[str, str] = {}

    async def start(self) -> None:
        """Start the child.

        Raises:
            TunnelError: It cannot be started.
        """
        file = self._file
        for name in file.left_out:
            log.warning("%s: %s is left out (docs/vpn.md)", self._options.config, name)
        user = await self._management.listen()
        # A file in memory: the configuration may hold keys.
        memory = os.memfd_create("openvpn")
        try:
            os.write(memory, file.text.encode())
            rights = "net_admin" if user is None else f"net_admin:{user}"
            command = self._command(memory)
            self._child = await Child.start(command, "openvpn", self._printed, pass_fds=[memory], rights=rights)
        finally:
            os.close(memory)

    def _command(self, memory: int) -> list[str]:
        return [
            # What a <connection> inherits stands before the file.
            "openvpn", "--connect-retry", "1", "2", "--server-poll-timeout", "5", "--allow-compression", "no",
            "--config", f"/dev/fd/{memory}",
            "--dev", self._device, "--dev-type", self._file.layer, "--ifconfig-noexec", "--route-noexec",
            "--persist-tun", "--persist-key", "--script-security", "1", "--setenv", "opt", "disable-dco",
            "--verb", "3", "--suppress-timestamps", "--auth-nocache", "--resolv-retry", "1",
            "--tmp-dir", str(self._management.path.parent),
            "--management", str(self._management.path), "unix", "--management-client", "--management-hold",
            "--management-up-down", "--management-query-remote", "--management-query-passwords",
        ]  # fmt: skip

    async def ended(self) -> TunnelError:
        """Wait until the child has ended by itself; says why."""
        code = await self._child.ended() if self._child else 0
        await asyncio.sleep(_EXPLAINS)
        return self.error(f"openvpn ended with code {code}")

    def error(self, otherwise: str) -> TunnelError:
        """What stands in the way, as far as it has said."""
        trouble = self.trouble or Trouble(Reason.RESET, otherwise)
        return TunnelError(trouble.reason, trouble.detail, fatal=trouble.fatal)

    def restart_in_place(self) -> None:
        """Connect anew; the device and its addresses stay (persist-tun), and so do the connections through it."""
        self._management.say("signal SIGUSR1")

    async def stop(self) -> None:
        """End the child."""
        self._management.say("signal SIGTERM")
        if self._child is not None:
            await self._child.stop()
        await self._management.close()

    def _printed(self, line: str) -> None:
        log.debug("openvpn: %s", line)
        trouble = trouble_in(re.sub(r"/dev/fd/\d+(?::(\d+))?", self._place, line))
        if trouble is not None:
            self.trouble = graver(self.trouble, trouble)

    def _place(self, found: re.Match[str]) -> str:
        line = f":{self._file.line(int(found[1]))}" if found[1] else ""
        return f"{self._options.config}{line}"

    def _heard(self, about: str, rest: str) -> None:
        if about == "HOLD":
            self._management.say("state on")
            self._management.say("bytecount 1")
            first = rest.endswith(":0")
            asyncio.get_running_loop().call_later(0.0 if first else _PACE, self._management.say, "hold release")
        elif about == "STATE":
            self._step(rest.split(","))
        elif about == "BYTECOUNT":
            self.received = int(rest.split(",", maxsplit=1)[0])
        elif about == "REMOTE":
            self._remote(rest)
        elif about == "PASSWORD":
            self._asked(rest)
        elif about == "UPDOWN":
            self._variable(rest)
        elif about == "FATAL":
            self.trouble = graver(
                self.trouble, trouble_in(rest) or Trouble(Reason.PROTOCOL, rest, fatal=True, weight=3)
            )

    def _step(self, words: list[str]) -> None:
        self.state = words[1]
        self.why = words[2] if len(words) > 2 else ""
        if self.state == "CONNECTED":
            self.trouble = None
        self._changed(self.state)

    def _remote(self, rest: str) -> None:
        host, port, protocol = rest.split(",")[:3]
        self.server = Endpoint(host, int(port))
        try:
            there = self._redirect(self.server, protocol)
        except TunnelError as error:
            self.trouble = Trouble(error.reason, error.detail, error.fatal, weight=5)
            self._management.say("signal SIGTERM")
            return
        self._management.say(f"remote MOD {there.host} {there.port}" if there else "remote ACCEPT")

    def _asked(self, rest: str) -> None:
        question = re.match(r"Need '([^']+)' (username/password|password)", rest)
        if question is None:
            if rest.startswith("Verification Failed"):
                self.trouble = Trouble(Reason.AUTH, f"the server refuses the login: {rest}", fatal=True, weight=4)
            return
        kind, what = question[1], question[2]
        options = self._options
        # Another asks for itself, such as a proxy that the file names.
        secret = {"Private Key": options.key_password, "Auth": options.password}.get(kind)
        key = {"Private Key": "key_password_file", "Auth": "user and password_file"}.get(kind, "a login in the file")
        if secret is None or (what.startswith("username") and options.user is None):
            self.trouble = Trouble(
                Reason.AUTH, f"OpenVPN asks for a secret ({kind}): give {key}", fatal=True, weight=5
            )
            self._management.say("signal SIGTERM")
            return
        try:
            value = secret.reveal()
        except OSError as error:
            detail = f"{error.filename}: {error.strerror}"
            self.trouble = Trouble(Reason.AUTH, detail, fatal=True, weight=5)
            self._management.say("signal SIGTERM")
            return
        if what.startswith("username"):
            self._management.say_secret("username", kind, options.user or "")
        self._management.say_secret("password", kind, value)

    def _variable(self, rest: str) -> None:
        if rest == "UP":
            self._variables = {}
        elif rest == "DOWN":
            self._changed("DOWN")
        elif rest == "ENV,END":
            if self._variables.get("script_type") != "down" and "dev" in self._variables:
                self.pushed = addressing(self._variables, self._options.dns, self._options.mtu)
        elif rest.startswith("ENV,"):
            name, _, value = rest.removeprefix("ENV,").partition("=")
            self._variables[name] = value
