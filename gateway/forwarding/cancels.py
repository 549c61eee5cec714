"""Requests to cancel that come on connections of their own, and the sessions that they are meant for."""

import asyncio
import logging
import socket

from gateway.contracts import CancelRequest, Cancels, Link, LoginTap, Opening, Question, Stream
from gateway.errors import DialError, ReachError, Reason
from gateway.forwarding.path import Place
from gateway.forwarding.vigil import Vigil

log = logging.getLogger(__name__)

_FIRST_WORDS = 2.0
"""Seconds within which a client must have said something whole, where that matters."""
_MOST_QUESTIONS = 2
_LOOK_AGAIN = 0.01
"""Seconds after which to look for the rest of what has come in part."""
_ANSWER = 2.0
"""Seconds for a target to answer what a client asks before it says what it wants."""
_ANSWER_HOLDS = 1.0
"""Seconds for which the answer is not asked for again: at the limit, clients may come all the time."""
_COPY = 2.0


class _Answer:
    """What a target said last to one question, and when by the loop's clock."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.said = b""
        self.at: float | None = None

    def holds(self, now: float) -> bool:
        return self.at is not None and now - self.at <= _ANSWER_HOLDS


class Cancelling:
    """Tells requests to cancel from sessions, and knows where the sessions are.

    Args:
        kind: What they look like.
    """

    def __init__(self, kind: Cancels) -> None:
        self._kind = kind
        self._sessions: dict[Place, set[LoginTap]] = {}
        self._answers: dict[tuple[Place, bytes], _Answer] = {}

    def watch(self) -> LoginTap:
        """A tap for a connection that is about to be made."""
        return self._kind.watch()

    def begin(self, place: Place, login: LoginTap) -> None:
        """A connection was made."""
        self._sessions.setdefault(place, set()).add(login)

    def end(self, place: Place, login: LoginTap) -> None:
        """It is over, and what cancels it is forgotten."""
        logins = self._sessions[place]
        logins.discard(login)
        if not logins:
            del self._sessions[place]

    def elsewhere(self, place: Place | None) -> bool:
        """Whether a client that goes to `place` could want to cancel something that runs at another one."""
        return len(self._sessions) > (place in self._sessions)

    def places(self, request: CancelRequest, usual: Place | None) -> list[Place]:
        """Where it must go.

        To the session that it names. Where none is known to be named so, to every place with a session whose name
        could not be seen: a server ignores what names no session of its own. Where there is none either, to `usual`.
        """
        sessions = self._sessions.items()
        named = [place for place, logins in sessions if any(login.named_by(request) for login in logins)]
        unseen = [place for place, logins in sessions if any(login.unseen for login in logins)]
        return named or unseen or ([usual] if usual is not None else [])

    async def hear(
        self, client: Stream, vigil: Vigil, link: Link | None, place: Place | None
    ) -> CancelRequest | None:
        """Wait for a client's first words, which stay unread; None: they are no request to cancel.

        A client may ask something first, and say what it wants only then. Where the server's answer is the one after
        which it does so in the clear, the client gets it from here. After any other answer what it wants cannot be
        seen; it then asks the server itself, as if nothing had been asked here.

        Args:
            client: Who.
            vigil: Watches it.
            link: The link to `place`, where it is up.
            place: Where a new session would go.

        Raises:
            DialError: The client is gone.
        """
        for _ in range(_MOST_QUESTIONS + 1):
            opening = await self._opening(client, vigil)
            if not isinstance(opening, Question):
                return opening if isinstance(opening, CancelRequest) else None
            if link is None or place is None or await self._answer(opening, link, place) != opening.no:
                return None
            try:
                client.recv(len(opening.asked))
                client.send(opening.no)
            except OSError as error:
                raise _gone(error) from error
        return None

    async def _opening(self, client: Stream, vigil: Vigil) -> Opening | Question | CancelRequest:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_WORDS
        while (left := deadline - loop.time()) > 0 and await vigil.readable(left):
            try:
                first = client.recv(self._kind.most, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _gone(error) from error
            if not first:
                break
            opening = self._kind.read(first)
            if opening is not Opening.UNCLEAR:
                return opening
            await asyncio.sleep(_LOOK_AGAIN)  # what has come stays readable: nothing tells when there is more
        return Opening.SESSION

    async def _answer(self, question: Question, link: Link, place: Place) -> bytes:
        """What the server says to it; empty where that is not worth asking, or where it says nothing."""
        if any(login.unseen for login in self._sessions.get(place, ())):
            return b""  # it encrypts, and would log an error of ours each time
        loop = asyncio.get_running_loop()
        fresh = {key: each for key, each in self._answers.items() if each.lock.locked() or each.holds(loop.time())}
        self._answers = fresh
        known = self._answers.setdefault((place, question.asked), _Answer())
        async with known.lock:
            if not known.holds(loop.time()):
                known.said = await _ask(question, link, place)
                known.at = loop.time()
        return known.said


async def copy(request: CancelRequest, place: Place) -> None:
    """Send a request to one more place, on a connection of ours, and wait until the server has closed it."""
    link, loop = place.path.link, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_COPY):
            if link is not None:
                with await link.socket(place.target) as sock:
                    await loop.sock_sendall(sock, request.data)
                    await loop.sock_recv(sock, 1)
    except (ReachError, OSError, TimeoutError) as error:
        log.debug("a request to cancel was not copied", extra={"target": str(place.target), "detail": str(error)})


def _gone(error: OSError) -> DialError:
    return DialError(Reason.RESET, f"the client left before it was joined: {error.strerror}")


async def _ask(question: Question, link: Link, place: Place) -> bytes:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_ANSWER):
            with await link.socket(place.target) as sock:
                await loop.sock_sendall(sock, question.asked)
                return await loop.sock_recv(sock, len(question.no))
    except (ReachError, OSError, TimeoutError):
        return b""  # a session would not get there either, and says so
