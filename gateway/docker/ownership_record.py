"""Stores in a file what the gateway created and started in Docker, for use after the gateway restarts.

The record contains the endpoints that the gateway created, the gateway's addresses, and the container starts that the
gateway requested. Before the gateway attaches or starts a container, it writes the entry to the file, so that a crash
cannot lose the entry.
"""

import contextlib
import ipaddress
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from gateway.atomic_file import replace_file
from gateway.docker.start_failure import ContainerRevival, StartFailureCause

FILE = "docker.json"
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""The exceptions that reading a damaged ownership record can raise."""


class OwnershipRecord:
    """The file with the created endpoints, the gateway's addresses, and the requested starts of containers.

    Args:
        folder: The directory of the record's file. The directory is created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._endpoints: set[tuple[str, str]] = set()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._starts: dict[str, ContainerRevival] = {}
        self._namespaces: frozenset[str] = frozenset()
        self._later_starts: dict[str, float] = {}
        self.adopting = True
        """Whether the record's file was missing at startup, and `adopt` was not called yet."""
        self._read_problem = ""
        """Why the record's file could not be read at startup; empty if it was read, or did not exist. After such a
        problem, the gateway detaches no endpoint that an earlier process created."""
        self._write_problem = ""
        """Why the last write of the record's file failed; empty if it did not fail."""
        try:
            self._endpoints, self._addresses, self._starts, self._namespaces, self._later_starts = self._read()
            self.adopting = False
        except FileNotFoundError:
            pass
        except (OSError, *_UNREADABLE) as error:
            self.adopting = False
            damaged = self._path
            with contextlib.suppress(OSError):  # keep the damaged file, so that an operator can repair it
                damaged = self._path.rename(self._path.with_suffix(".broken"))
            self._read_problem = f"{damaged}: {error}"

    @property
    def problems(self) -> tuple[str, ...]:
        """Messages about failed reads and writes of the record, with their consequences."""
        found = []
        if self._read_problem:
            consequence = "could not be read, so endpoints of an earlier process are not detached"
            found.append(f"the ownership record {consequence}: {self._read_problem}")
        if self._write_problem:
            consequence = "cannot be written, so endpoints that are created now might stay after a restart"
            found.append(f"the ownership record {consequence}: {self._write_problem}")
        return tuple(found)

    def _read(
        self,
    ) -> tuple[
        set[tuple[str, str]],
        dict[str, tuple[str, ...]],
        dict[str, ContainerRevival],
        frozenset[str],
        dict[str, float],
    ]:
        written = json.loads(self._path.read_text())
        endpoints = {(str(container), str(network)) for container, network in written["endpoints"]}
        addresses = {
            str(name): tuple(str(ipaddress.ip_address(address)) for address in each)
            for name, each in written.get("addresses", {}).items()  # files of earlier versions lack this key
        }
        starts: dict[str, ContainerRevival] = {}
        # If an entry of `starts` is invalid, ignore all of them. The gateway then does not repeat interrupted starts.
        with contextlib.suppress(*_UNREADABLE):
            starts = {
                str(container): ContainerRevival(StartFailureCause(cause), str(backend))
                for container, (cause, backend) in written.get("starts", {}).items()
            }
        later = {str(container): float(at) for container, at in written.get("later_starts", {}).items()}
        return endpoints, addresses, starts, frozenset(map(str, written.get("namespaces", ()))), later

    def _merge(self) -> None:
        """Add the endpoints and starts that other processes, such as `gateway apply`, have written to the file."""
        with contextlib.suppress(OSError, *_UNREADABLE):
            endpoints, _, starts, *_ = self._read()
            self._endpoints |= endpoints
            self._starts = starts | self._starts

    @property
    def endpoints(self) -> frozenset[tuple[str, str]]:
        """The recorded endpoints, each as the container's ID and the network's name."""
        return frozenset(self._endpoints)

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """The gateway's latest addresses, by network."""
        return dict(self._addresses)

    @property
    def starts(self) -> dict[str, ContainerRevival]:
        """The requested starts without a response from the engine, by container ID."""
        return dict(self._starts)

    @property
    def namespaces(self) -> frozenset[str]:
        """IDs of containers whose network namespace other containers share."""
        return self._namespaces

    def record_namespaces(self, containers: frozenset[str]) -> None:
        """Record the containers whose network namespace other containers share."""
        if containers != self._namespaces:
            self._merge()
            self._namespaces = containers
            self._write()

    @property
    def later_starts(self) -> dict[str, float]:
        """Recorded start times of owners of network namespaces, by the ID of the container that joins the namespace.

        If the recorded start is still the owner's last start, the container needs no restart; see
        `gateway.docker.planning.lost_network_namespaces.later_starts`.
        """
        return dict(self._later_starts)

    def record_later_starts(self, starts: Mapping[str, float]) -> None:
        """Add `starts` to the recorded `later_starts`."""
        recorded = {**self._later_starts, **starts}
        if recorded != self._later_starts:
            self._merge()
            self._later_starts = recorded
            self._write()

    def begin_start(self, container: str, start: ContainerRevival) -> None:
        """Record that the gateway is about to start a container."""
        self._merge()
        self._starts[container] = start
        self._write()

    def end_starts(self, containers: Collection[str]) -> None:
        """Remove the records of the starts that the gateway requested for `containers`.

        Call this when the engine has responded to the requests, or when the containers run or were removed.
        """
        if any(each in self._starts for each in containers):
            self._merge()
            self._starts = {key: each for key, each in self._starts.items() if key not in containers}
            self._write()

    def record_addresses(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Record the gateway's addresses on the given networks. Keep the recorded addresses on other networks."""
        recorded = {**self._addresses, **addresses}
        if recorded != self._addresses:
            self._merge()
            self._addresses = recorded
            self._write()

    def add(self, container: str, network: str) -> None:
        """Record an endpoint that is about to be created."""
        if (container, network) not in self._endpoints:
            self._merge()
            self._endpoints.add((container, network))
            self._write()

    def retain(self, containers: set[str]) -> None:
        """Remove the endpoints and the `later_starts` of all containers except `containers`."""
        self._merge()
        kept = {(container, network) for container, network in self._endpoints if container in containers}
        later = {key: at for key, at in self._later_starts.items() if key in containers}
        if kept != self._endpoints or later != self._later_starts or self._write_problem:
            self._endpoints, self._later_starts = kept, later
            self._write()

    def adopt(self, endpoints: set[tuple[str, str]]) -> None:
        """Record endpoints that an earlier process created. Call this if the file was missing at startup."""
        self._endpoints |= endpoints
        self.adopting = False
        self._write()

    def _write(self) -> None:
        try:
            written = {
                "endpoints": sorted(self._endpoints), "addresses": self._addresses, "starts": self._starts,
                "namespaces": sorted(self._namespaces), "later_starts": self._later_starts,
            }  # fmt: skip
            replace_file(self._path, json.dumps(written))
            self._write_problem = ""
        except OSError as error:
            self._write_problem = f"{self._path}: {error.strerror}"
