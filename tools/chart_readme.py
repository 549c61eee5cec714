"""Writes charts/gateway/README.md from the comments in its values.yaml.

Usage: python tools/chart_readme.py          writes it
       python tools/chart_readme.py --check  fails when it is not what the values say
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
helm install ways charts/gateway -f my-values.yaml
helm test ways
```

| `mode` | for |
| --- | --- |
| `deployment` | databases: replicas, all of which carry traffic, and a Service for each backend, with its name |
| `daemonset` | NFS: a kernel mounts from its own node, so each has a gateway in its network; listen on 127.0.0.1 |
| `sidecar` | one app: the configuration, and templates for the container and its volumes in a chart of your own |

Keys, certificates and passwords stay in Secrets of yours; `secrets` mounts them as files, which the gateway reads
again when they change. A changed configuration rolls the pods. The pods meet the *restricted* Pod Security Standard,
except that a daemonset is in the node's network and a VPN has root and capabilities (`vpn.enabled`), so that it is a
release of its own. A pod with the sidecar needs `securityContext: {{fsGroup: 10001}}`, so that it may read its
Secrets, and a grace period longer than `shutdown.delay` and `shutdown.drain` together. `ci/` holds values for each
of these.

Probes have a port of their own (`ops.probePort`). Metrics and status are reached from the release's namespace only
(`networkPolicy`), and need a token where `ops.tokenSecret` names a Secret:

```sh
openssl rand -hex 32 > token; openssl rand -hex 32 > metrics-token
kubectl create secret generic ops-tokens --from-file=token --from-file=metrics-token
```

## Values

Made from `values.yaml` by `tools/chart_readme.py`.

| key | default | |
| --- | --- | --- |
"""


def described() -> dict[str, str]:
    """What stands in a comment `# --` above each key."""
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
    """The default values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def _rows() -> Iterator[str]:
    for key, text in described().items():
        value = values()
        for part in key.split("."):
            value = value[part]
        yield f"| `{key}` | `{json.dumps(value)}` | {text} |\n"


def text() -> str:
    """The whole page."""
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())["description"]
    return _HEAD.format(description=description) + "".join(_rows())


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text() else f"{TARGET} is not what values.yaml says: run {sys.argv[0]}")
    TARGET.write_text(text())
