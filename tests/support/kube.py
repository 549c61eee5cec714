"""Runs Kubernetes manifests on Podman, because the tests have no Kubernetes cluster."""

import copy
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from tests.support.podman import Podman

IMAGE = "localhost/gateway:test"
PLAYED = ("ConfigMap", "Secret", "Deployment", "DaemonSet")
"""The kinds of the chart's objects that Podman supports. Podman ignores other kinds, such as Service."""
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def secret(name: str, files: dict[str, str]) -> dict[str, Any]:
    """Return the manifest of a Secret that contains `files`."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": files}


def playable(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chart's manifests of the kinds in `PLAYED`, with the changes that Podman requires.

    Args:
        documents: The manifests of the chart.
    """
    found = [copy.deepcopy(each) for each in documents if each["kind"] in PLAYED]
    for each in found:
        if each["kind"] in ("Deployment", "DaemonSet"):
            pod = each["spec"]["template"]["spec"]
            # Podman ignores fsGroup, so the files of a Secret belong to the group root.
            pod["securityContext"]["supplementalGroups"] = [0]
            for volume in pod["volumes"]:
                volume.get("emptyDir", {}).pop("medium", None)  # only root can write to a volume in memory
            for container in pod["containers"]:
                for probe in (container[key] for key in _PROBES if key in container):
                    # Podman runs an httpGet probe as curl in the container, and the image has no curl.
                    del probe["httpGet"]
                    probe["exec"] = {"command": ["gateway", "healthcheck"]}
    return found


def play(engine: Podman, documents: list[dict[str, Any]]) -> None:
    """Run `podman kube play` with these manifests."""
    text = "\n---\n".join(json.dumps(each) for each in documents)
    engine.podman("kube", "play", "-", text=text, timeout=120)


def probe(address: str, port: int, path: str, within: float = 30.0) -> None:
    """Send HTTP requests to the pod, as a kubelet does, until a response has status 200."""
    deadline = time.monotonic() + within
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=3) as answer:
                if answer.status == 200:
                    return
                problem = f"status {answer.status}"
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
        assert time.monotonic() < deadline, f"{path}: {problem}"
        time.sleep(0.2)


def load(engine: Podman, docker: str) -> None:
    """Copy the image `gateway` from a Docker engine to Podman. In Podman, `IMAGE` is the name of the image."""
    copied = f"docker -H {docker} save gateway | docker -H {engine.url} load"
    subprocess.run(["sh", "-c", copied], check=True, timeout=120, capture_output=True)
    engine.podman("tag", "docker.io/library/gateway:latest", IMAGE)
