"""Which labels of a container came with its image: they say what the image's author wants, not the operator."""

from collections.abc import Mapping
from typing import Any

from gateway.docker.engine import Engine, get_required
from gateway.docker.errors import EngineError, ErrorKind
from gateway.docker.model import TASK_LABEL

_WRITERS = {"com.docker.compose.": "com.docker.compose.config-hash", "com.docker.swarm.": TASK_LABEL}
"""Prefixes of labels that Compose and Swarm write on every container that they create, each with one of these labels
that they write on containers only. Compose also writes its project and service on the images that it builds."""


def split(labels: Mapping[str, str], image: Mapping[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of a container that count, and those that do not.

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


class ImageLabels:
    """The labels of images, which never change; each image is asked for once."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str] | None] = {"": None}
        """By the image's ID; None: they cannot be known any more."""

    def retain(self, ids: set[str]) -> None:
        """Forget all but these."""
        self._labels = {key: labels for key, labels in self._labels.items() if key in ids or not key}

    async def split_labels(self, engine: Engine, listed: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """See `split`.

        Args:
            engine: Is asked for an image that is not known yet.
            listed: The container, as the engine lists it.

        Raises:
            EngineError: It did not answer.
        """
        labels: Mapping[str, str] = listed.get("Labels") or {}
        image = str(listed.get("ImageID", ""))
        if labels and image not in self._labels:
            self._labels[image] = await _of_image(engine, image)
        return split(labels, self._labels.get(image))


async def _of_image(engine: Engine, image: str) -> Mapping[str, str] | None:
    try:
        answer = await get_required(engine, f"images/{image}/json")
    except EngineError as error:
        if error.kind is ErrorKind.NOT_FOUND:  # removed with force, under a container that was stopped
            return None
        raise
    labels: Mapping[str, str] = (answer.get("Config") or {}).get("Labels") or {}
    return labels
