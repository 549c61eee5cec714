"""Takes clients in, joins them, lets them go, and counts."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from gateway.audit_log.recorder import Recorder
from gateway.contracts import CancelRequest, Cancels, Ending, Endpoint, LoginTap, Relay, Stream
from gateway.errors import DialError, Reason
from gateway.forwarding.admission import Admission, Consumer, Refusal, Source
from gateway.forwarding.cancels import Cancelling
from gateway.forwarding.dialler import Dialler, Route
from gateway.forwarding.listener import Listener
from gateway.forwarding.path import Path, Place
from gateway.forwarding.reserve import Reserve
from gateway.forwarding.shedding import Pace, first_to_go
from gateway.forwarding.usage import UNKNOWN, Seat, Usage
from gateway.forwarding.usage import Ledger as UsageLedger
from gateway.forwarding.vigil import Vigil
from gateway.forwarding.visits import NOT_CONNECTED, Visit, Visits
from gateway.measure import Histogram, MakeTap, Tally
from gateway.relay.sockets import reset

log = logging.getLogger(__name__)

_INTRODUCTION = 3.0
"""Seconds that a client waits for its container to be known, where it is let in only then."""
_SHORT_INTRODUCTION = 0.5
"""The same, where it matters only for what is counted."""
_LOOK_EVERY = 0.5
_DOUBT_EVERY = 10.0
"""Seconds between two doubts about one target: a server that is only slow is not asked all the time."""
_SHED_EVERY = (0.1, 0.4)
_NOT_ASKED = Source()
"""Of a client whose source does not matter."""
_LIMITS = (Refusal.MAX_CONNECTIONS, Refusal.CONSUMER_QUOTA)
_RESERVED_FOR = 10.0
"""Seconds after which a client beyond a limit is reset although its server has not ended the connection."""


@dataclass(frozen=True)
class Joined:
    """A relay, and where it leads."""

    __slots__ = ("began", "login", "place", "relay", "seat", "visit")
    relay: Relay
    place: Place
    seat: Seat | None
    began: float
    login: LoginTap | None
    visit: Visit | None


class _Beyond(NamedTuple):
    """A client beyond a limit: why it is refused unless it comes to cancel something, and where that counts."""

    refusal: Refusal
    address: str | None
    usage: Usage | None


class Forward:
    """The connections of one backend; a `gateway.contracts.Unit`.

    Args:
        name: The backend's name.
        listeners: Bound already; whoever bound them closes them.
        admission: Who may come in.
        route: Where to.
        tap: How latency is found in the traffic; None: by turns.
        prompt: Seconds after which traffic counts as failed where a client still waits for an answer; None: never.
        cancels: What requests to cancel look like, where they come on connections of their own; None: they do not.
        recorder: Where each client's end is recorded; None: nowhere.
    """

    def __init__(
        self,
        name: str,
        listeners: list[Listener],
        admission: Admission,
        route: Route,
        tap: MakeTap | None = None,
        prompt: float | None = None,
        cancels: Cancels | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.name = name
        self.listeners = listeners
        self.admission = admission
        self.consumers = UsageLedger()
        self._latency = Histogram()
        self.accepted = 0
        self.resets: Tally = Tally()
        self.rejected: Tally = Tally()
        self.joined: dict[asyncio.Future[Ending], Joined] = {}
        self._on_ended = self._ended  # one bound method for all of them
        self._ended_to_backend = 0
        self._ended_from_backend = 0
        self._dialling: set[asyncio.Task[None] | None] = set()
        self._group: asyncio.TaskGroup | None = None
        self._cancels = Cancelling(cancels) if cancels is not None else None
        self._dialler = Dialler(route, tap, self._cancels)
        self._reserve = Reserve()
        """Held by their tasks, and by their relays' `ended` once they are joined."""
        self._prompt = prompt
        self._unwanted: frozenset[Endpoint] = frozenset()
        self._shedding = False
        self._visits = Visits(name, recorder or Recorder())

    @property
    def active(self) -> int:
        """Clients that are joined or waiting."""
        return len(self.joined) + len(self._dialling)

    @property
    def latency(self) -> Histogram:
        """Response latency of all clients."""
        return reduce(Histogram.plus, (usage.latency for usage in self.consumers.values()), self._latency)

    @property
    def to_backend(self) -> int:
        """Bytes sent towards the backend since the start."""
        return self._ended_to_backend + sum(each.relay.to_backend for each in self.joined.values())

    @property
    def from_backend(self) -> int:
        """Bytes sent towards clients since the start."""
        return self._ended_from_backend + sum(each.relay.from_backend for each in self.joined.values())

    async def run(self, ready: Callable[[], None]) -> None:
        """Accept until cancelled; then every client is reset. The listeners stay bound."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start_accepting()
            ready()
            try:
                await self._look_for_silence()
            finally:
                self._group = None
                self.abort_all()

    async def _look_for_silence(self) -> None:
        """A server that hangs breaks no connection, and would be noticed at the next check only."""
        if self._prompt is None:
            await asyncio.Event().wait()
            return
        doubted: dict[Endpoint, float] = {}
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = time.monotonic()
            for each in self.joined.values():
                since, target = each.relay.waiting_since, each.place.target
                late = since is not None and since < now - self._prompt
                if late and doubted.get(target, -_DOUBT_EVERY) < now - _DOUBT_EVERY:
                    doubted[target] = now
                    self._dialler.route.silent(target)

    def update(self, listeners: list[Listener], admission: Admission, route: Route) -> None:
        """Change everything for new clients; those that are joined stay as they are.

        Listeners that are left out are not closed: they may belong to another backend from now on.
        """
        self.listeners, self.admission = listeners, admission
        self._dialler.reroute(route)
        self._start_accepting()

    def active_on(self, path: Path) -> int:
        """How many clients are joined through `path`."""
        return sum(each.place.path is path for each in self.joined.values())

    def abort_all(self) -> None:
        """Reset every client, joined or waiting."""
        for task in self._dialling:
            if task is not None:
                task.cancel()
        for each in list(self.joined.values()):
            each.relay.abort(Ending.ABORTED)

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients that wait for nothing and have been silent for so many seconds."""
        before = time.monotonic() - seconds
        for relay in [each.relay for each in self.joined.values()]:
            if relay.last_active < before and not relay.asked:
                relay.abort(Ending.ABORTED)

    @property
    def failing(self) -> bool:
        """Whether clients are reset rather than held while the path is down."""
        return self._dialler.failing

    def hold_nobody(self, *, nobody: bool) -> None:
        """See `gateway.forwarding.dialler.Dialler`."""
        self._dialler.hold_nobody(nobody=nobody)

    def shed(self, unwanted: frozenset[Endpoint]) -> None:
        """Let the clients of these targets go, a few at a time, so that they come to the right one."""
        self._unwanted = unwanted
        if unwanted and not self._shedding and self._group is not None:
            self._shedding = True
            self._group.create_task(self._shed())

    async def _shed(self) -> None:
        pace, clients = None, self._clients_of_unwanted()
        try:
            while clients:
                now = time.monotonic()
                if pace is None or len(clients) > pace.clients:
                    pace = Pace(len(clients), now)
                for relay in first_to_go(clients, pace.due(now)):
                    relay.abort(Ending.MOVED)
                await asyncio.sleep(random.uniform(*_SHED_EVERY))  # noqa: S311 - jitter, not a secret
                clients = self._clients_of_unwanted()
        finally:
            self._shedding = False

    def _clients_of_unwanted(self) -> list[Relay]:
        return [each.relay for each in self.joined.values() if each.place.target in self._unwanted]

    def _start_accepting(self) -> None:
        if self._group is not None:
            for listener in self.listeners:
                listener.start(self._take)

    def _take(self, client: Stream) -> None:
        admission = self.admission
        source = Source.of(client) if admission.looks or self._visits.on else _NOT_ASKED
        self._visits.begin(client, source)
        refusal = admission.refusal(source, self.active - len(self._reserve))
        if refusal is not None:
            self._turn_away(client, refusal)
            return
        self.accepted += 1
        if self._group is None:
            self._visits.miss(client, Ending.ABORTED)
            reset(client)
            return
        consumer: Consumer | None = admission.socket_consumer(source)
        if consumer is None:
            if source is None or source.address is None or not (admission.identity or admission.per_consumer):
                self._begin(client, self._connect(client, None))
                return
            consumer = admission.identity.known(source.address) if admission.identity else None
            if consumer is None and admission.identity and not admission.identity.stranger(source.address):
                self._begin(client, self._introduce(client, source.address))
                return
        self._visits.name(client, consumer)
        admitted = self._admit(source.address if source else None, consumer)
        if isinstance(admitted, Seat):
            self._begin(client, self._connect(client, admitted), admitted)
        else:
            self._turn_away(client, *admitted)

    def _turn_away(self, client: Stream, refusal: Refusal, usage: Usage | None = None) -> None:
        """Refuse a client; one beyond a limit may come to cancel something, and is heard first."""
        source = Source.of(client) if self._cancels is not None and refusal in _LIMITS else None
        room = source is not None and self._group is not None and self._reserve.has_room(source.address)
        if source is None or not room or self.admission.refusal(source, 0) is not None:
            self._refuse(client, refusal, usage)
            return
        task = self._begin(client, self._hear(client, _Beyond(refusal, source.address, usage)))
        self._reserve.enter(task, source.address)

    def _begin(
        self, client: Stream, job: Coroutine[None, None, None], seat: Seat | None = None
    ) -> "asyncio.Task[None] | None":
        if self._group is None:
            return None

        def over(task: asyncio.Task[None]) -> None:
            self._dialling.discard(task)
            self._reserve.leave(task)
            if task.cancelled():  # perhaps before it began
                job.close()
                self._visits.miss(client, Ending.ABORTED)
                reset(client)
            if seat is not None:
                seat.give_up()

        task = self._group.create_task(self._guarded(client, job))
        self._dialling.add(task)
        task.add_done_callback(over)
        return task

    async def _guarded(self, client: Stream, job: Coroutine[None, None, None]) -> None:
        """Run `job`; its failure must not affect other clients."""
        try:
            await job
        except Exception:
            log.exception("a client could not be served", extra={"backend": self.name})
            self.rejected[Reason.PROTOCOL] += 1
            self._visits.miss(client, NOT_CONNECTED, Reason.PROTOCOL)
            reset(client)

    def _refuse(self, client: Stream, refusal: Refusal, usage: Usage | None = None) -> None:
        self.rejected[refusal] += 1
        if usage is not None:
            usage.rejected[refusal] += 1
        self._visits.refuse(client, refusal)
        log.debug("client refused", extra={"backend": self.name, "reason": str(refusal)})
        reset(client)

    async def _introduce(self, client: Stream, address: str) -> None:
        """A client whose container may have started just now: it waits a moment to be known."""
        identity = self.admission.identity
        within = _INTRODUCTION if self.admission.label is not None else _SHORT_INTRODUCTION
        try:
            consumer = await identity.find(address, within) if identity else None
        except BaseException:
            reset(client)
            raise
        self._visits.name(client, consumer)
        admitted = self._admit(address, consumer)
        if isinstance(admitted, Seat):
            try:
                await self._connect(client, admitted)
            finally:
                admitted.give_up()
        else:
            self._turn_away(client, *admitted)

    def _admit(self, address: str | None, consumer: Consumer | None) -> Seat | tuple[Refusal, Usage]:
        """A place among the consumer's connections; or why it may have no more, and where that counts."""
        # Where containers are not known, an address has to do; the status does not show it.
        name = consumer.name if consumer else (UNKNOWN if self.admission.identity or address is None else address)
        identifier = consumer.id if consumer else ""
        refusal = self.admission.consumer_refusal(consumer, self.consumers.live[name])
        if refusal is not None:
            return refusal, self.consumers.of(name, identifier)
        return self.consumers.admit(name, identifier)

    async def _hear(self, client: Stream, beyond: "_Beyond") -> None:
        """Join a client beyond a limit that comes to cancel something, or refuse it."""
        request = None
        if await self._has_label(beyond.address):
            with contextlib.suppress(DialError):  # it has gone
                request = await self._dialler.hear(client, Vigil(client))
        if request is None:
            self._refuse(client, beyond.refusal, beyond.usage)
            return
        if beyond.refusal is Refusal.MAX_CONNECTIONS:  # others were counted when they came
            self.accepted += 1
        await self._connect(client, None, request)

    async def _has_label(self, address: str | None) -> bool:
        """Whether a client beyond a limit may come in as far as its consumer's label matters."""
        admission, consumer = self.admission, None
        if admission.label is None or address is None:
            return True
        if admission.identity is not None and not admission.identity.stranger(address):
            consumer = await admission.identity.find(address, _INTRODUCTION)
        return admission.consumer_refusal(consumer, 0) is None

    async def _connect(self, client: Stream, seat: Seat | None, request: CancelRequest | None = None) -> None:
        """Join one client within the hold, or reset it with a counted reason.

        Args:
            client: Who.
            seat: Its consumer's account.
            request: What it comes to cancel, where that is known.
        """
        vigil = Vigil(client)
        task = asyncio.current_task()
        relay: Relay | None = None
        try:
            latency = seat.usage.latency if seat else self._latency
            place, relay, login = await self._dialler.join(client, vigil, latency, request)
        except DialError as error:
            self.rejected[error.reason] += 1
            self._visits.miss(client, NOT_CONNECTED, error.reason)
            log.debug(
                "client given up",
                extra={"backend": self.name, "reason": error.reason, "detail": error.detail},
            )
            return
        except asyncio.CancelledError:
            ending = Ending.CLIENT_RESET if vigil.gone else Ending.ABORTED
            self.resets[ending] += 1
            self._visits.miss(client, ending)
            if not vigil.gone:
                raise
            return
        finally:
            if relay is None:
                vigil.end()
                reset(client)
        self._dialling.discard(task)
        if seat is not None:
            seat.join(relay)
        self.joined[relay.ended] = Joined(relay, place, seat, time.time(), login, self._visits.join(client))
        if login is not None and self._cancels is not None:
            self._cancels.begin(place, login)
        if self._reserve.pass_on(task, relay.ended):
            late = asyncio.get_running_loop().call_later(_RESERVED_FOR, relay.abort, Ending.ABORTED)
            relay.ended.add_done_callback(lambda _: late.cancel())
        relay.ended.add_done_callback(self._on_ended)
        if place.target in self._unwanted:  # it lost its role meanwhile
            self.shed(self._unwanted)

    def _ended(self, ended: asyncio.Future[Ending]) -> None:
        joined, ending = self.joined.pop(ended), ended.result()
        relay, target = joined.relay, joined.place.target
        self._reserve.leave(ended)
        self._visits.end(joined.visit, joined.place, relay, ending)
        if joined.login is not None and self._cancels is not None:
            self._cancels.end(joined.place, joined.login)
        if joined.seat is not None:
            joined.seat.end()
        self._ended_to_backend += relay.to_backend
        self._ended_from_backend += relay.from_backend
        if ending is not Ending.FINISHED:
            self.resets[ending] += 1
        if ending is Ending.BACKEND_RESET:
            self._dialler.route.failed(target)
        self._dialler.ended(target, relay, joined.began)
