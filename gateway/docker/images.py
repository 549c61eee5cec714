"""Separates a container's own labels from the labels of its image, which the image's author chose."""

from collections.abc import Mapping
from typing import Any

from gateway.docker.engine import Engine, get_required
from gateway.docker.errors import EngineError, ErrorKind
from gateway.docker.model import TASK_LABEL

_WRITERS = {"com.docker.compose.": "com.docker.compose.config-hash", "com.docker.swarm.": TASK_LABEL}
"""The prefix of the labels that Compose or Swarm sets, and a label with that prefix that it sets on containers only.

The second label is necessary because Compose also sets its project and service on the images that it builds."""


def split(labels: Mapping[str, str], image: Mapping[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of a container that count, and those that do not.

    A label with the same key and value as a label of the image does not count, since the engine does not report who
    set it. If Compose or Swarm created the container, the labels that they set always count.

    Args:
        labels: The container's labels as the engine lists them, including the image's.
        image: The image's labels; None: unknown, so that no label of the container counts.
    """
    own = {} if image is None else {key: text for key, text in labels.items() if image.get(key) != text}
    for prefix, proof in _WRITERS.items():
        if proof in own:
            own |= {key: text for key, text in labels.items() if key.startswith(prefix)}
    return own, {key: text for key, text in labels.items() if key not in own}


class ImageLabels:
    """A cache of the labels of images, which never change."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str] | None] = {"": None}
        """By the image's ID; None: the image is gone."""

    def retain(self, ids: set[str]) -> None:
        """Remove all other images."""
        self._labels = {key: labels for key, labels in self._labels.items() if key in ids or not key}

    async def split_labels(self, engine: Engine, listed: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the labels of a container that count, and those that do not, see `split`.

        Args:
            engine: The engine, for an image that is not in the cache.
            listed: The container, as the engine lists it.

        Raises:
            EngineError: The request failed.
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
        if error.kind is ErrorKind.NOT_FOUND:  # removed with force while a stopped container used it
            return None
        raise
    labels: Mapping[str, str] = (answer.get("Config") or {}).get("Labels") or {}
    return labels
