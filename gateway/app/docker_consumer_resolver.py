"""Finds the container (consumer) that has the source address of a client."""

from gateway.app.docker_reconciler_manager import DockerReconcilerManager
from gateway.docker.consumer_registry import Consumer


class DockerConsumerResolver:
    """Finds containers by source address; implements `gateway.forwarding.client_identity.ConsumerResolver`.

    Args:
        docker: Provides the running Docker reconciler, which has the list of containers.
    """

    def __init__(self, docker: DockerReconcilerManager) -> None:
        self._docker = docker

    def lookup(self, address: str) -> Consumer | None:
        """Return the container (consumer) with this source address; None if no known container has it."""
        return self._docker.reconciler.registry.lookup(address) if self._docker.reconciler else None

    def recently_unknown(self, address: str) -> bool:
        """Return whether a recent call of `wait_for` found no container with this source address.

        Without a reconciler, return True.
        """
        reconciler = self._docker.reconciler
        return reconciler is None or reconciler.registry.recently_unknown(address)

    async def wait_for(self, address: str, within: float) -> Consumer | None:
        """Return the container with this source address. If the container is starting, wait up to `within` seconds.

        Return None if no container has this address.
        """
        reconciler = self._docker.reconciler
        return await reconciler.registry.wait_for(address, within) if reconciler else None
