"""Separates the labels that were set on a container from the labels of its image."""

from collections.abc import Mapping
from typing import Any

from gateway.docker.engine_client import EngineClient, get_required
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.snapshot import TASK_LABEL

_WRITERS = {"com.docker.compose.": "com.docker.compose.config-hash", "com.docker.swarm.": TASK_LABEL}
"""For each label prefix, a label that Compose or Swarm sets only on containers. If a container has this label, and
the label does not come from the image, Compose or Swarm has also set the container's other labels with the prefix."""


def split(labels: Mapping[str, str], image: Mapping[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Split a container's labels into those that the gateway evaluates and those that the gateway ignores.

    The engine does not report which labels of a container come from its image. The gateway therefore ignores a
    label if the image has the same label with the same value, unless Compose or Swarm has set it.

    Args:
        labels: The container's labels as the engine lists them, including the labels of the image.
        image: The image's labels. If they are unknown (None), the gateway ignores all labels of the container.
    """
    own = {} if image is None else {key: text for key, text in labels.items() if image.get(key) != text}
    for prefix, proof in _WRITERS.items():
        if proof in own:
            own |= {key: text for key, text in labels.items() if key.startswith(prefix)}
    return own, {key: text for key, text in labels.items() if key not in own}


class ImageLabelCache:
    """Caches the labels of images. The labels of an image ID never change."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str] | None] = {"": None}
        """For each image ID: the labels of the image; None if the image was removed."""

    def retain(self, ids: set[str]) -> None:
        """Remove all images except those in `ids` from the cache."""
        self._labels = {key: labels for key, labels in self._labels.items() if key in ids or not key}

    async def split_labels(
        self, engine: EngineClient, listed: Mapping[str, Any]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Split a container's labels like `split`. Request the image's labels from the engine if they are not cached.

        Args:
            engine: The container's engine.
            listed: The container, as an item of the engine's list of containers.

        Raises:
            EngineError: The request failed.
        """
        labels: Mapping[str, str] = listed.get("Labels") or {}
        image = str(listed.get("ImageID", ""))
        if labels and image not in self._labels:
            self._labels[image] = await _of_image(engine, image)
        return split(labels, self._labels.get(image))


async def _of_image(engine: EngineClient, image: str) -> Mapping[str, str] | None:
    try:
        answer = await get_required(engine, f"images/{image}/json")
    except EngineError as error:
        if error.kind is EngineErrorKind.NOT_FOUND:  # the image was force-removed while a stopped container used it
            return None
        raise
    labels: Mapping[str, str] = (answer.get("Config") or {}).get("Labels") or {}
    return labels
