"""Tests the status pages of running gateways in Chromium: outages, accessibility, keyboard, tokens, hostile text."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from axe_selenium_python import Axe
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import connect
from tests.support.configs import CHECK
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness
from tests.support.requirements import need, need_sshd
from tests.support.servers import echoing, serving, talking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WITHIN = 30.0
TOKEN = "t" * 40
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\"'"
WIDTHS = (1280, 400)


@dataclass
class Browser:
    """Headless Chromium with one page."""

    driver: webdriver.Chrome

    def open(self, gateway: Gateway, path: str = "/", *, host: str = "127.0.0.1") -> None:
        self.driver.get(f"http://{host}:{gateway.ops_port}{path}")

    def text(self, selector: str = "main") -> str:
        """Return the text of the first element that matches `selector`; empty if the element is hidden or missing."""
        return str(
            self.run(
                "const found = document.querySelector(arguments[0]);"
                "return found?.checkVisibility() ? found.innerText : ''",
                selector,
            )
        )

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object], timeout: float = WITHIN) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.05)

    def command(self, name: str, **arguments: object) -> None:
        """Send a command of the Chrome DevTools Protocol."""
        self.driver.execute_cdp_cmd(name, arguments)

    def emulate(self, scheme: str, width: int) -> None:
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def violations(self) -> list[tuple[str, list[str]]]:
        """Return the rule, and the HTML of the elements, of each accessibility violation that axe-core finds."""
        axe = Axe(self.driver)
        axe.inject()
        return [(each["id"], [node["html"] for node in each["nodes"]]) for each in axe.run()["violations"]]

    def messages(self) -> list[str]:
        """Return the console's errors since the last call, such as violations of the Content Security Policy."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = find("chromium"), find("chromedriver")
    need(bool(chromium and driver), "Chromium (packages chromium chromium-driver)")
    options = Options()
    options.binary_location = chromium or ""
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en-GB"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(made)
    finally:
        made.quit()


@dataclass
class Shop:
    """A gateway with three backends: two through a bastion that tests can kill, and one without a tunnel."""

    gateway: Gateway
    bastion: Bastion
    port: int

    def restore(self) -> None:
        """Restart the bastion, and wait until all backends are up."""
        with contextlib.suppress(Exception):
            self.bastion.stop()
        self.bastion.start()
        self.gateway.command("reconnect", "bastion")
        self.gateway.wait_up("orders", "reports", "direct")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    need_sshd()
    folder = tmp_path_factory.mktemp("shop")
    bastion = Bastion(folder / "bastion").start()
    made = Shop(Gateway(folder), bastion, free_port())
    with serving(echoing) as echo:
        target = f'kind: tcp, targets: ["127.0.0.1:{echo}"], {CHECK}'
        made.gateway.write(f"""
            tunnels:
              bastion:
                kind: ssh
                host: 127.0.0.1
                port: {bastion.port}
                user: {bastion.user}
                identity_files: [{bastion.client_key}]
                known_hosts: [{bastion.known_hosts}]
            backends:
              orders: {{{target}, via: bastion, listen: '127.0.0.1:{made.port}', hold: 60s}}
              reports: {{{target}, via: bastion}}
              direct: {{{target}}}
            fleet: {{members: ["127.0.0.1:{made.gateway.ops_port}", "127.0.0.1:1"], interval: 1s}}
        """)
        try:
            made.gateway.start()
            made.gateway.wait_up("orders", "reports", "direct")
            yield made
        finally:
            made.gateway.stop()
            bastion.stop()


def test_an_outage_is_shown_within_two_seconds(browser: Browser, shop: Shop) -> None:
    browser.emulate("light", 400)
    browser.open(shop.gateway)
    assert "All 3 backends are up" in browser.text("#diagnosis")
    browser.run("""
        document.querySelector('.backends a[href="backends/orders"]').focus();
        document.getElementById("configuration-details").open = true;
        const parts = ["diagnosis", "verdict", "row-orders", "configuration"];
        window.before = new Map(parts.map(id => [id, document.getElementById(id)]));
    """)
    shown: list[float] = []
    # The page polls at each multiple of ten seconds, and starts requests at least one second apart. Crash between two
    # polls.
    browser.wait(lambda: 1.5 < time.time() % 10 < 4)
    with Lateness() as machine:
        shop.bastion.crash()
        killed = time.monotonic()
        browser.wait(lambda: "bastion down" in browser.text("#diagnosis"))
        shown.append(time.monotonic() - killed)
    assert shown[0] < 2.0 + machine.sum
    with connect(shop.port):
        browser.wait(lambda: "2 backends blocked" in browser.text("#diagnosis"))
        browser.wait(lambda: "1 client waiting" in browser.text("#diagnosis"))
    diagnosis = browser.text("#diagnosis")
    assert "since" in diagnosis
    assert "To do" in diagnosis
    assert (
        browser.run("return document.activeElement.closest('.backends') && document.activeElement.innerText")
        == "orders"
    )
    # The page replaces the elements that have changed. It keeps the element `diagnosis`, and replaces its content,
    # because screen readers announce changes inside an existing element (ARIA live region).
    replaced = "return [...before].filter(([id, part]) => document.getElementById(id) !== part).map(([id]) => id)"
    assert browser.run(replaced) == ["verdict", "row-orders"]
    assert browser.run("return document.getElementById('configuration-details').open")
    assert browser.run("return document.title").startswith("bastion down; 3 backends: 2 blocked, 1 up")
    order = browser.run("return [...document.querySelectorAll('.backends .name')].map(each => each.innerText)")
    assert order == ["orders", "reports", "direct"]
    # The page has the width of a phone. The state of each backend must be visible, and nothing may be cut off.
    for state in browser.driver.find_elements(By.CSS_SELECTOR, ".backends .state"):
        assert state.is_displayed()
        assert state.rect["x"] + state.rect["width"] <= 400
    assert browser.run("return document.documentElement.scrollWidth") <= 400
    shop.restore()
    browser.wait(lambda: "All 3 backends are up" in browser.text("#diagnosis"))
    assert "bastion" in browser.text("#changes")
    assert browser.messages() == []


def test_a_reload_moves_a_backend_to_another_group(browser: Browser, shop: Shop) -> None:
    browser.open(shop.gateway)
    before = shop.gateway.config.read_text()
    groups = """
        const names = (group, selector) => [...group.querySelectorAll(selector)].map(each => each.innerText);
        return [...document.querySelectorAll(".group")].map(group => names(group, "h2, .backends .name")).sort();
    """
    assert browser.run(groups) == [["Through bastion", "orders", "reports"], ["Without a tunnel", "direct"]]
    try:
        shop.gateway.config.write_text(before.replace(", via: bastion}", "}"))
        assert shop.gateway.command("reload").returncode == 0
        moved = [["Through bastion", "orders"], ["Without a tunnel", "direct", "reports"]]
        browser.wait(lambda: browser.run(groups) == moved)
    finally:
        shop.gateway.config.write_text(before)
        assert shop.gateway.command("reload").returncode == 0
    browser.wait(lambda: ["Through bastion", "orders", "reports"] in browser.run(groups))
    shop.gateway.wait_up("reports")
    assert browser.messages() == []


@pytest.mark.parametrize("healthy", [True, False], ids=["up", "down"])
def test_pages_are_accessible(browser: Browser, shop: Shop, healthy: bool) -> None:
    if not healthy:
        shop.bastion.crash()
        shop.gateway.wait_state("orders", "blocked", "tunnel")

    def fleet_is_shown() -> bool:
        browser.open(shop.gateway, "/fleet")
        text = browser.text("#members")
        return "unreachable" in text and ("bastion is down" in text) == (not healthy)

    try:
        browser.wait(fleet_is_shown)
        for path in ("/", "/backends/orders", "/fleet"):
            browser.open(shop.gateway, path)
            browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
            for scheme in ("light", "dark"):
                for width in WIDTHS:
                    browser.emulate(scheme, width)
                    assert browser.violations() == [], (path, scheme, width)
                    edges = browser.run(
                        "return [...document.querySelectorAll('td.notes p')]"
                        ".map(each => each.getBoundingClientRect().right)"
                    )
                    assert max(edges, default=0) <= width, (path, width)
                    assert edges or path != "/fleet"
    finally:
        if not healthy:
            shop.restore()


def test_pages_are_readable_without_a_script_and_usable_with_the_keyboard(browser: Browser, shop: Shop) -> None:
    browser.emulate("light", 1280)
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(shop.gateway)
        body = browser.driver.find_element(By.TAG_NAME, "body")
        assert "All 3 backends are up" in body.text
        assert "Through bastion" in body.text
        assert "UTC" in body.text
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(shop.gateway)
    for _ in range(3):  # Tab reaches the link to `orders` in at most three steps.
        webdriver.ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        if browser.run("return document.activeElement.innerText") == "orders":
            break
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    webdriver.ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.wait(lambda: browser.driver.current_url.endswith("/backends/orders"))
    text = browser.text()
    for part in ("orders", "up", "bastion", "channel", "Traffic", "check.interval"):
        assert part in text
    assert "UTC" not in browser.text("#diagnosis")  # The page's script replaces UTC with the browser's time zone.
    browser.open(shop.gateway, "/backends/none")
    assert "no such backend" in browser.text()


def test_a_page_that_gets_no_answer_says_so(browser: Browser, shop: Shop) -> None:
    browser.open(shop.gateway)
    assert "All 3 backends are up" in browser.text("#diagnosis")
    shop.gateway.stop()
    try:
        browser.wait(lambda: "has not responded since" in browser.text("#stale"))
        assert browser.text("#diagnosis") == ""
        assert browser.run("return document.title").startswith("No response")
    finally:
        shop.gateway.start()
    browser.wait(lambda: "has not responded" not in browser.text("#stale"))
    browser.wait(lambda: "All 3 backends are up" in browser.text("#diagnosis"))
    browser.messages()  # Discard the errors about refused connections.


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that requires a token. Its name, and the error message of its MySQL server, contain HTML."""
    gateway = Gateway(tmp_path_factory.mktemp("hostile"))
    token = gateway.folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    packet = b"\xff" + (1129).to_bytes(2, "little") + f"blocking {HOSTILE}".encode()
    greeting = len(packet).to_bytes(3, "little") + b"\x00" + packet
    with serving(talking(greeting, then_close=True)) as port:
        gateway.write(f"""
            backends:
              orders:
                kind: mysql
                targets: ["127.0.0.1:{port}"]
                check: {{user: gateway, password_file: {token}, interval: 1s, down_interval: 300ms, fall: 1}}
        """)
        text = gateway.config.read_text().replace("instance: test", f"instance: {json.dumps(HOSTILE)}", 1)
        gateway.config.write_text(text.replace("ops: {", f"ops: {{token_file: {token}, ", 1))
        try:
            gateway.start()
            gateway.wait_state("orders", "down", "host_blocked")
            yield gateway
        finally:
            gateway.stop()


def test_the_token_is_required_and_stays_in_memory(browser: Browser, hostile: Gateway) -> None:
    browser.emulate("light", 1280)
    browser.open(hostile)
    assert "A token is required" in browser.text()
    assert browser.violations() == []
    assert "orders" not in browser.driver.page_source
    for token in ("wrong" * 8, TOKEN):
        browser.driver.find_element(By.ID, "token").send_keys(token, Keys.ENTER)
        if token != TOKEN:
            browser.wait(lambda: "does not accept" in browser.text())
    browser.wait(lambda: "orders" in browser.text("#diagnosis"))
    assert browser.driver.current_url.endswith(f":{hostile.ops_port}/")
    assert (
        browser.run("return document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
        == "{}{}"
    )
    # The page also sends the token when it requests the stream of events.
    hostile.command("pause", "orders")
    browser.wait(lambda: "paused" in browser.text("#diagnosis"), timeout=WITHIN)
    hostile.command("resume", "orders")
    browser.wait(lambda: "down" in browser.text("#diagnosis"))


def test_a_login_during_a_refresh_without_a_token_is_accepted(browser: Browser, hostile: Gateway) -> None:
    browser.open(hostile)
    browser.run("""
        const original = window.fetch;
        window.fetch = (...request) => new Promise(resolve => {
          window.fetch = original;
          window.release = () => resolve(original(...request));
        });
        document.dispatchEvent(new Event("visibilitychange"));
    """)
    browser.wait(lambda: browser.run("return 'release' in window"))
    browser.driver.find_element(By.ID, "token").send_keys(TOKEN, Keys.ENTER)
    browser.run("window.release()")
    browser.wait(lambda: "orders" in browser.text("#diagnosis") or "does not accept" in browser.text())
    assert "does not accept" not in browser.text()


def test_hostile_text_is_inert(browser: Browser, hostile: Gateway) -> None:
    browser.open(hostile)
    browser.driver.find_element(By.ID, "token").send_keys(TOKEN, Keys.ENTER)
    browser.wait(lambda: "blocking <img" in browser.text("#diagnosis"))
    assert HOSTILE in browser.text("#top")
    assert "owned" not in browser.run("return document.title").replace(HOSTILE, "")
    assert browser.run("return document.querySelectorAll('img, main script').length") == 0
    assert browser.messages() == []
    # Injected scripts do not run, because the Content Security Policy permits only the page's own script.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    browser.run("const s = document.createElement('script'); s.text = 'window.owned = 1'; document.body.append(s)")
    browser.wait(lambda: any("Content Security Policy" in each for each in browser.messages()))
    assert browser.run("return window.owned") is None
