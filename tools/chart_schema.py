"""Write the keys of each kind to values.schema.json, and the facts that the templates need to kinds.json.

Usage: python tools/chart_schema.py          writes the files
       python tools/chart_schema.py --check  fails if a file is out of date
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateway.backends import KINDS as BACKENDS
from gateway.config.model import CommonBackendOptions, CommonCheckOptions, CommonTunnelOptions
from gateway.config.schema import known_keys
from gateway.tunnels import KINDS as TUNNELS

_CHART = Path(__file__).parents[1] / "charts" / "gateway"
SCHEMA, FACTS = _CHART / "values.schema.json", _CHART / "kinds.json"
_TEXTS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_VIA = {"oneOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_TARGET = {
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"address": {"type": "string"}, "via": _VIA},
            "required": ["address"],
            "additionalProperties": False,
        },
    ]
}
_SHAPES: dict[str, Any] = {
    "via": _VIA,
    "targets": {"oneOf": [*_TARGET["oneOf"], {"type": "array", "items": _TARGET, "minItems": 1}]},
    "listen": _TEXTS,
}


def main() -> int:
    """Write the files, or compare them with the code; return the exit code."""
    schema = json.loads(SCHEMA.read_text())
    config = schema["properties"]["config"]["properties"]
    config["tunnels"]["additionalProperties"] = _by_kind(
        {name: _object(kind.options, CommonTunnelOptions) for name, kind in TUNNELS.items()}
    )
    backends = {}
    for name, kind in BACKENDS.items():
        backends[name] = _object(kind.options, CommonBackendOptions)
        backends[name]["properties"]["check"] = {
            **_object(kind.check, CommonCheckOptions),
            "type": ["object", "null"],
        }
    config["backends"]["additionalProperties"] = _by_kind(backends)
    facts = {
        "defaultPorts": {name: str(kind.default_port) for name, kind in BACKENDS.items() if kind.default_port},
        "uncheckedWithoutUser": [name for name, kind in BACKENDS.items() if "via_http" in known_keys(kind.check)],
        "tunnelsWithCapabilities": [name for name, kind in TUNNELS.items() if kind.needs_capabilities],
    }
    outdated = False
    for path, content in ((SCHEMA, schema), (FACTS, facts)):
        text = json.dumps(content, indent=2) + "\n"
        if sys.argv[1:] != ["--check"]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path} is out of date: run python tools/chart_schema.py", file=sys.stderr)
            outdated = True
    return int(outdated)


def _by_kind(kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": sorted(kinds)}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": name}}}, "then": then} for name, then in sorted(kinds.items())
        ],
    }


def _object(*classes: type) -> dict[str, Any]:
    """Return the schema of an object whose only keys are the fields of these dataclasses."""
    needed = [
        field.name
        for cls in classes
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    keys = sorted({*known_keys(*classes)})
    return {
        "properties": {key: _SHAPES.get(key, {}) for key in keys},
        "required": sorted(name for name in needed if name in keys and name != "kind"),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    sys.exit(main())
