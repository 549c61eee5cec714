"""Tests the fleet with real gateways, and with members that are dead, slow or hostile, or that redirect requests."""

import contextlib
import html
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.server_process import free_port
from tests.support import certificates
from tests.support.files import write_secret
from tests.support.gateway_process import Gateway, command
from tests.support.servers import serving, silent

pytestmark = pytest.mark.integration

TOKEN = "t" * 40
HOSTILE = {
    "instance": "\x1b[2Jevil\nforged", "version": "1", "status": "ready", "started_at": "never", "clients": -1,
    "tunnels": {}, "backends": {"<script>": 1}, "problems": [{"name": "\u202eb", "detail": "x" * 9999}],
}  # fmt: skip


def responding(head: str, body: bytes, requests: list[str]) -> Any:
    """Return the behavior of a server that sends the same response to each request, and records the requests."""

    def behave(client: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            if not (data := client.recv(65536)):
                return  # the gateway has closed the connection
            received += data
        requests.append(received.decode())
        with contextlib.suppress(OSError):
            client.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + body)

    return behave


@dataclass
class Fleet:
    main: Gateway
    other: Gateway
    folder: Path
    ca: Path
    ports: dict[str, int]
    requests: dict[str, list[str]]
    """The requests that each server of the test has received."""

    def members(self) -> dict[str, dict[str, Any]]:
        code, body = self.main.http.get("/api/v1/fleet")
        assert code == 200
        return {each["name"]: each for each in body["members"]}

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway whose fleet has one working member, which uses TLS and a token, and several faulty members."""
    folder = tmp_path_factory.mktemp("fleet")
    issued = certificates.issue(folder / "server", "localhost")
    for name in ("main", "other"):
        (folder / name).mkdir()
    main, other = Gateway(folder / "main"), Gateway(folder / "other")
    token = folder / "token"
    write_secret(token, TOKEN)
    token.chmod(0o600)
    requests: dict[str, list[str]] = {name: [] for name in ("redirecting", "elsewhere", "hostile", "endless")}
    with contextlib.ExitStack() as stack:
        ports = {"dead": free_port(), "silent": stack.enter_context(serving(silent)), "other": other.ops_port}
        ports["elsewhere"] = stack.enter_context(serving(responding("200 OK", b"{}", requests["elsewhere"])))
        redirect = f"302 Found\r\nLocation: http://127.0.0.1:{ports['elsewhere']}/api/v1/summary"
        ports["redirecting"] = stack.enter_context(serving(responding(redirect, b"", requests["redirecting"])))
        answer = json.dumps(HOSTILE).encode()
        ports["hostile"] = stack.enter_context(serving(responding("200 OK", answer, requests["hostile"])))
        ports["endless"] = stack.enter_context(serving(responding("200 OK", b"x" * (1 << 20), requests["endless"])))
        other.config.write_text(f"""
gateway: {{instance: other, state_dir: {folder}/other/state}}
ops:
  listen: 127.0.0.1:{other.ops_port}
  admin_socket: {other.admin_socket}
  token_file: {token}
  tls: {{cert_file: {issued.certificate}, key_file: {issued.key}}}
shutdown: {{delay: 0s, drain: 1s}}
backends: {{closed: {{kind: tcp, targets: ["127.0.0.1:{ports["dead"]}"]}}}}
""")
        (folder / "members").write_text(
            "# more members\n"
            + "".join(f"127.0.0.1:{ports[name]}\n" for name in ("silent", "redirecting", "hostile", "endless"))
        )
        main.write(f"""
            backends: {{closed: {{kind: tcp, targets: ["127.0.0.1:{ports["dead"]}"]}}}}
            fleet:
              members: ["dns+https://localhost:{other.ops_port}", "127.0.0.1:{ports["dead"]}"]
              file: {folder}/members
              token_file: {token}
              tls: {{ca_file: {issued.ca}}}
              interval: 500ms
              timeout: 1s
        """)
        stack.callback(other.stop)
        stack.callback(main.stop)
        other.start()
        main.start()
        yield Fleet(main, other, folder, issued.ca, ports, requests)


def good(fleet: Fleet) -> dict[str, Any] | None:
    return fleet.members().get(f"{fleet.address('other')} (localhost)")


def test_a_member_with_tls_and_a_token_shows_its_summary(fleet: Fleet) -> None:
    found: list[dict[str, Any]] = []

    def is_complete() -> bool:
        found[:] = [good(fleet) or {}]
        return (found[0].get("summary") or {}).get("backends") == {"down": 1} and found[0]["state"] == "ready"

    fleet.main.wait(is_complete, 20)
    (member,) = found
    assert (member["state"], member["error"], member["summary"]["instance"]) == ("ready", "", "other")
    assert member["summary"]["problems"][0]["name"] == "backend closed"
    assert member["summary"]["problems"][0]["reason"] == "refused"
    assert member["age_seconds"] < 20


def test_bad_members_have_an_error_and_delay_no_other(fleet: Fleet) -> None:
    expected = {
        "dead": "Connection refused", "silent": "no response within 1 s", "redirecting": "redirects are not followed",
        "endless": "larger than 65536 bytes",
    }  # fmt: skip

    def has_error(name: str) -> bool:
        member = fleet.members()[fleet.address(name)]
        return member["state"] == "unreachable" and expected[name].lower() in member["error"].lower()

    for name in expected:
        fleet.main.wait(lambda: has_error(name), 20)  # noqa: B023 - waits here
    fleet.main.wait(lambda: fleet.members()[fleet.address("hostile")]["summary"] is not None, 20)
    hostile = fleet.members()[fleet.address("hostile")]
    assert hostile["summary"]["instance"] == "?[2Jevil forged"
    assert hostile["summary"]["clients"] == 0
    before = good(fleet)
    assert before is not None
    fleet.main.wait(lambda: (good(fleet) or before)["answered_at"] > before["answered_at"], 20)


def test_the_token_is_sent_to_members_and_never_to_the_target_of_a_redirect(fleet: Fleet) -> None:
    fleet.main.wait(lambda: bool(fleet.requests["redirecting"]), 20)
    assert f"Authorization: Bearer {TOKEN}" in fleet.requests["redirecting"][0]
    assert fleet.requests["elsewhere"] == []
    assert TOKEN not in fleet.main.log + json.dumps(fleet.members())


def test_service_discovery_lists_all_members(fleet: Fleet) -> None:
    fleet.main.wait(lambda: good(fleet) is not None, 20)
    code, found = fleet.main.http.get("/api/v1/sd")
    assert code == 200
    assert isinstance(found, list)
    by_target = {each["targets"][0]: each["labels"] for each in found}
    assert by_target[fleet.address("other")]["__scheme__"] == "https"
    assert by_target[fleet.address("other")]["__meta_gateway_host"] == "localhost"
    assert by_target[fleet.address("dead")]["__scheme__"] == "http"
    assert {fleet.address(name) for name in ("silent", "redirecting", "hostile", "endless")} <= by_target.keys()


def test_the_page_shows_members_and_escapes_their_answers(fleet: Fleet) -> None:
    fleet.main.wait(lambda: "evil forged" in fleet.main.http.get("/fleet")[1], 20)
    code, page = fleet.main.http.get("/fleet")
    assert code == 200
    for text in ("<script>", "unreachable", "no response within", fleet.address("dead"), "backend closed is down"):
        assert html.escape(text) in page, text
    assert "<td>1 <script>" not in page


def test_a_member_that_stops_keeps_its_last_answer_with_its_age(fleet: Fleet) -> None:
    fleet.main.wait(lambda: ((good(fleet) or {}).get("summary") or {}).get("instance") == "other", 20)
    fleet.other.stop()
    try:
        fleet.main.wait(lambda: (good(fleet) or {}).get("state") == "unreachable", 20)
        member = good(fleet)
        assert member is not None
        assert member["summary"]["instance"] == "other"
        first = member["age_seconds"]
        fleet.main.wait(lambda: (good(fleet) or {})["age_seconds"] > first, 20)
    finally:
        fleet.other.start()


def test_members_in_the_file_and_the_section_change_without_a_restart(fleet: Fleet) -> None:
    text = fleet.main.config.read_text()
    try:
        fleet.main.config.write_text(text.replace(f', "{fleet.address("dead")}"', ""))
        assert "sections changed: fleet" in fleet.main.command("reload").stdout
        fleet.main.wait(lambda: fleet.address("dead") not in fleet.members(), 20)
    finally:
        fleet.main.config.write_text(text)
        fleet.main.command("reload")
    fleet.main.wait(lambda: fleet.address("dead") in fleet.members(), 20)


def test_the_command_asks_members_and_the_running_service(fleet: Fleet) -> None:
    fleet.main.wait(lambda: ((good(fleet) or {}).get("summary") or {}).get("instance") == "other", 20)
    own = f"127.0.0.1:{fleet.main.ops_port}"
    started = time.monotonic()
    done = command("fleet", own, fleet.address("silent"), "--timeout", "5", "-o", "wide")
    assert time.monotonic() - started < 20
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert [row[:2] for row in rows] == [["-", "unreachable"], ["test", "ready"]]  # worst first
    assert (fleet.address("silent") in rows[0], own in rows[1]) == (True, True)
    words = " ".join(done.stdout.split())
    assert re.search(r"backend closed is down since [0-9:]+: refused", words)
    assert (
        "no response within 5 s: check the address of the member, and firewalls between this host and the member"
        in words
    )
    secure = command(
        "fleet", f"https://localhost:{fleet.other.ops_port}", "--token-file", str(fleet.folder / "token"),
        "--ca-file", str(fleet.ca),
    )  # fmt: skip
    assert secure.stdout.splitlines()[1].split()[0] == "other"
    unreachable = command("fleet", fleet.address("dead"))
    assert (unreachable.returncode, "no gateway has responded" in unreachable.stderr) == (3, True)
    service = fleet.main.command("fleet", "--file", str(fleet.folder / "members"), "--timeout", "5")
    assert "evil forged" in service.stdout
    assert "\x1b" not in service.stdout
    shown = fleet.main.command("fleet")
    assert len(shown.stdout.splitlines()) >= 7  # `localhost` can resolve to two addresses, which are two members
    assert command("fleet", "nowhere").returncode == 2


def test_a_member_that_does_not_answer_delays_neither_the_page_nor_the_others(fleet: Fleet) -> None:
    """A request to the silent member lasts 10 minutes (`fleet.timeout`). The page and other members must not wait."""
    text = fleet.main.config.read_text()
    with serving(silent) as port:
        slow = f"127.0.0.1:{port}"
        try:
            fleet.main.config.write_text(
                text.replace("timeout: 1s", "timeout: 10m").replace(fleet.address("dead"), slow)
            )
            assert "sections changed: fleet" in fleet.main.command("reload").stdout
            fleet.main.wait(lambda: slow in fleet.members(), 20)
            before = good(fleet)
            assert before is not None
            fleet.main.wait(lambda: (good(fleet) or before)["answered_at"] > before["answered_at"], 20)
            assert slow in fleet.main.http.get("/fleet")[1]
            assert fleet.members()[slow]["state"] == "unknown"
        finally:
            fleet.main.config.write_text(text)
            fleet.main.command("reload")
