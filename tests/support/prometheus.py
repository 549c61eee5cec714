"""Runs Prometheus and promtool with the gateway's rules, and reads the queries of the gateway's dashboards."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.demo.server_process import ServerProcess, free_port
from tests.support.files import REPOSITORY

RULES = REPOSITORY / "configs" / "prometheus"
DASHBOARDS = REPOSITORY / "configs" / "grafana"
VARIABLES = {
    "$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$backend": ".*", "$consumer": ".*",
}  # fmt: skip
Series = Mapping[str, str]
"""The values of each time series. Time series and values have the notation of `promtool test rules`."""


def rules() -> list[dict[str, Any]]:
    """Return all alerting and recording rules of the gateway."""
    files = [yaml.safe_load((RULES / f"{name}.yaml").read_text()) for name in ("recording", "alerts")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def dashboard_queries() -> dict[str, str]:
    """Return the queries of all dashboards, with values instead of Grafana's variables.

    Each key of the dict has the format `DASHBOARD/PANEL/NUMBER`.
    """
    found = {}
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for number, target in enumerate(panel.get("targets", [])):
                query = target["expr"]
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                found[f"{path.stem}/{panel['title']}/{number}"] = query
    return found


def promtool(*arguments: str) -> str:
    """Run promtool. Return an empty string if promtool succeeds, and its output otherwise."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=600, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def run_rule_tests(folder: Path, tests: Mapping[str, tuple[Series, Mapping[int, list[str]]]]) -> str:
    """Test the gateway's alerts with promtool. Return promtool's output, or an empty string if all tests pass.

    Args:
        folder: The directory in which this function creates a file with the tests.
        tests: The tests by name. A test consists of time series with one sample per minute, and of the names of the
            alerts that must fire at given minutes, each for exactly one time series. At these minutes, no other alert
            is allowed to fire.
    """
    content = {
        "rule_files": [str(RULES / "recording.yaml"), str(RULES / "alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": each, "values": values} for each, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
                    }
                    for minute, alerts in expected.items()
                ],
            }
            for name, (series, expected) in tests.items()
        ],
    }
    path = folder / "tests.yaml"
    path.write_text(yaml.safe_dump(content))
    return promtool("test", "rules", str(path))


def sampled(metrics: str) -> set[str]:
    """Return the names of all metrics with samples in a response of `/metrics`."""
    return set(re.findall(r"^(\w+)[{ ]", metrics, re.MULTILINE))


def scraped_series(metrics: str, minutes: int) -> dict[str, str]:
    """Return the samples of a response of `/metrics` as time series with constant values.

    Args:
        metrics: The response of `/metrics`.
        minutes: The length of each time series.
    """
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", metrics, re.MULTILINE)
    return {
        f"{name}{{{','.join(filter(None, (labels, own)))}}}": f"{value}x{minutes}"
        for own in ['job="gateway",instance="a"']
        for name, labels, value in samples
    }


class Prometheus:
    """A Prometheus server that scrapes one gateway every second, and evaluates the gateway's rules.

    Args:
        folder: The directory for the server's data.
        ops_port: The port of the gateway's ops server.
    """

    def __init__(self, folder: Path, ops_port: int) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in (RULES / "recording.yaml", RULES / "alerts.yaml")],
            "scrape_configs": [
                {"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{ops_port}"]}]},
                {"job_name": "gateway-fleet", "http_sd_configs": [
                    {"url": f"http://127.0.0.1:{ops_port}/api/v1/sd", "refresh_interval": "1s"}]},
            ],
        }  # fmt: skip
        path = folder / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        self._process = ServerProcess(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            folder / "prometheus.log",
        )

    def start(self) -> "Prometheus":
        self._process.start(self.port)
        # While Prometheus opens its storage, its API responds with status 503.
        deadline = time.monotonic() + 60
        while not self._is_ready():
            assert time.monotonic() < deadline, "Prometheus is not ready"
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=20):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def stop(self) -> None:
        self._process.stop()

    def api(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            return json.load(response)["data"]

    def empty(self, queries: Mapping[str, str], use: Callable[[], None], within: float) -> Iterator[str]:
        """Repeat each query until it returns a result. After `within` seconds, yield the names of the rest.

        Args:
            queries: The queries by name.
            use: A function that causes traffic. It is called before each repetition, because queries with `rate` need
                metrics that increase.
            within: The timeout in seconds.
        """
        deadline = time.monotonic() + within
        missing = dict(queries)
        while missing:
            use()
            missing = {name: query for name, query in missing.items() if not self.api("query", query=query)["result"]}
            if time.monotonic() > deadline:
                yield from missing
                return
            time.sleep(0.5)
