"""Which labels of a container came with its image: they say what the image's author wants, not the operator. Pure."""

from collections.abc import Mapping

from gateway.docker.model import TASK_LABEL

_WRITERS = {"com.docker.compose.": "com.docker.compose.config-hash", "com.docker.swarm.": TASK_LABEL}
"""Prefixes of labels that Compose and Swarm write on every container that they create, each with one of these labels
that they write on containers only. Compose also writes its project and service on the images that it builds."""


def split(labels: Mapping[str, str], image: Mapping[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """The labels of a container that count, and those that do not.

    A label with the key and value of one of the image's does not count, whoever wrote it: the engine does not say
    which. Where Compose or Swarm created the container, what they wrote on it counts in any case.

    Args:
        labels: The container's, as the engine lists them: the image's are among them.
        image: The image's; None: they are not known, so that none of the container's counts.
    """
    own = {} if image is None else {key: text for key, text in labels.items() if image.get(key) != text}
    for prefix, proof in _WRITERS.items():
        if proof in own:
            own |= {key: text for key, text in labels.items() if key.startswith(prefix)}
    return own, {key: text for key, text in labels.items() if key not in own}
