"""Writes charts/gateway/README.md from the comments in charts/gateway/values.yaml.

Usage: python tools/chart_readme.py          writes the file
       python tools/chart_readme.py --check  fails if the file is out of date
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "charts" / "gateway"
TARGET = CHART / "README.md"
_HEAD = """\
# gateway

{description}.

```sh
helm install gateway charts/gateway -f my-values.yaml
helm test gateway
```

| `mode` | for |
| --- | --- |
| `deployment` | databases: all replicas carry traffic, and each backend has a Service with the backend's name |
| `daemonset` | NFS: each node has a gateway in the node's network, and the node's kernel mounts from 127.0.0.1 |
| `sidecar` | one app: your chart adds the gateway to the app's pods, with this chart's templates and ConfigMap |

Keep keys, certificates and passwords in your own Secrets. The chart mounts the Secrets in the value `secrets` as
files, and the gateway reads these files again when they change. If the value `config` changes, Kubernetes rolls out
new pods.

The pods meet the *restricted* Pod Security Standard, with two exceptions: a daemonset uses the node's network, and a
VPN (`vpn.enabled`) needs root and capabilities. Use a separate release for a VPN. A pod with the sidecar needs
`securityContext: {{fsGroup: 10001}}` to read its Secrets, and a grace period longer than `shutdown.delay` plus
`shutdown.drain`. `ci/` has examples for each mode.

The kubelet's probes use a separate port (`ops.probePort`). With `mode: deployment`, a NetworkPolicy permits
only pods in the release's namespace to reach metrics and status, unless you set `networkPolicy.metricsFrom`. The
other modes have no NetworkPolicy. If `ops.tokenSecret` names a Secret, metrics and status require a token:

```sh
openssl rand -hex 32 > token; openssl rand -hex 32 > metrics-token
kubectl create secret generic ops-tokens --from-file=token --from-file=metrics-token
```

## Values

`tools/chart_readme.py` generates this table from `values.yaml`.

| key | default | description |
| --- | --- | --- |
"""


def described() -> dict[str, str]:
    """Return the comment `# --` above each key of values.yaml, by the dotted path of the key."""
    found: dict[str, str] = {}
    path: list[str] = []
    comment = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = stripped.removeprefix("# -- ")
        elif stripped.startswith("# ") and comment:
            comment += " " + stripped.removeprefix("# ")
        elif match := re.match(r"( *)([\w]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                found[".".join(path)], comment = comment, ""
    return found


def values() -> Any:
    """Return the default value of each key of values.yaml."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def _rows() -> Iterator[str]:
    for key, text in described().items():
        value = values()
        for part in key.split("."):
            value = value[part]
        yield f"| `{key}` | `{json.dumps(value)}` | {text} |\n"


def text() -> str:
    """Return the text of charts/gateway/README.md."""
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())["description"]
    return _HEAD.format(description=description) + "".join(_rows())


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text() else f"{TARGET} is out of date: run {sys.argv[0]}")
    TARGET.write_text(text())
