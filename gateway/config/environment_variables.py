"""Lists the environment variables that the gateway reads, and finds misspelled ones. Does no I/O."""

import difflib
import functools
import re
import types
from collections.abc import Collection, Iterator, Mapping

from gateway.config.schema import hints_by_key, is_record
from gateway.config.sections import SECTIONS
from gateway.errors import ConfigProblem

PREFIX = "GATEWAY_"
URL_FLAGS = ("tunnel", "backend")
"""The flags that define a tunnel or backend by a URL. Variables such as `GATEWAY_TUNNEL_BASTION` have the same
effect."""
OTHER_VARIABLES = {
    "GATEWAY_CONFIG": "The configuration file, as `-c`. In the swarm examples: the end of the Docker config's name.",
    "GATEWAY_OPS_CA_FILE": "A file with the certificate authorities for `--url`, like `--ca-file`.",
    "GATEWAY_IMAGE": "The image, in the Compose examples.",
    "GATEWAY_USER": "The user ID of the container, in the Compose examples.",
    "GATEWAY_VPN_IMAGE": "The image with the VPN clients, in the Compose examples.",
}
"""The purpose of each `GATEWAY_…` variable that does not set a configuration key."""
_KUBERNETES = re.compile(r"(.+?)_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""Matches the names of the variables that Kubernetes sets for a Service."""
_SIMILAR = 0.7


@functools.cache
def setting_names() -> Mapping[str, tuple[str, ...]]:
    """Map each flag to the key that it sets, such as `{"ops-tls-key-file": ("ops", "tls", "key_file")}`.

    For keys of the section `gateway`, the flag has no prefix: `state-dir`, not `gateway-state-dir`.
    """
    paths = [
        (section, *key.split("."))
        for section, cls in SECTIONS.items()
        for key, hint in hints_by_key(cls)
        if not is_record(hint)
    ]
    return types.MappingProxyType(
        {"-".join(path if path[0] != "gateway" else path[1:]).replace("_", "-"): path for path in paths}
    )


def variable_of(setting: str) -> str:
    """Return the environment variable for a flag, such as `GATEWAY_OPS_LISTEN` for `ops-listen`."""
    return PREFIX + setting.replace("-", "_").upper()


def url_variables(environment: Mapping[str, str], flag: str) -> list[str]:
    """Return the names of the environment variables that contain the URL of a tunnel or backend.

    Args:
        environment: The environment variables.
        flag: `tunnel` for the URLs of tunnels, `backend` for the URLs of backends.
    """
    prefix = f"{PREFIX}{flag.upper()}_"
    return [
        name
        for name in environment
        if name.startswith(prefix) and name != prefix and not _is_of_service(name, environment)
    ]


def unknown_variables(environment: Mapping[str, str], mentioned: Collection[str]) -> Iterator[ConfigProblem]:
    """Yield a problem for each `GATEWAY_…` variable that sets no key and that the configuration does not mention.

    Args:
        environment: The environment variables.
        mentioned: The names of the variables that occur in the configuration.
    """
    settings = [variable_of(name) for name in setting_names()]
    used = {
        *settings,
        *OTHER_VARIABLES,
        *mentioned,
        *(name for flag in URL_FLAGS for name in url_variables(environment, flag)),
    }
    for name in environment:
        if name.startswith(PREFIX) and name not in used and not _is_of_service(name, environment):
            yield ConfigProblem(name, "", f"unknown variable{_hint(name, settings)}")


def _hint(name: str, settings: list[str]) -> str:
    first, _, rest = name.removeprefix(PREFIX).partition("_")
    flag = next(iter(difflib.get_close_matches(first.lower(), URL_FLAGS, n=1, cutoff=_SIMILAR)), None)
    known = {each.removeprefix(PREFIX): each for each in (*settings, *OTHER_VARIABLES)}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1, cutoff=_SIMILAR)
    if flag is not None and rest:
        return f"; did you mean {PREFIX}{flag.upper()}_{rest}?"
    if flag is not None:
        return f": add the name of the {flag}, as in {PREFIX}{flag.upper()}_NAME"
    if close:
        return f"; did you mean {known[close[0]]}?"
    return ": remove it, or rename it if another program reads it (docs/reference.md lists the known variables)"


def _is_of_service(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether Kubernetes has set the variable `name`, such as `GATEWAY_PORT` for a Service named `gateway`.

    Kubernetes sets the variable `…_SERVICE_HOST` of the same Service too, so this function also requires that one.
    """
    match = _KUBERNETES.fullmatch(name)
    return match is not None and f"{match[1]}_SERVICE_HOST" in environment
