"""Executes the steps of the simulated SSH server.

A step that violates the SSH protocol is executed only if the script marks the step as illegal.
"""

from asyncssh.packet import Boolean, String, UInt32

from tests.fuzz.ssh import peer
from tests.fuzz.ssh.ends import pattern
from tests.fuzz.ssh.peer import to_channel
from tests.fuzz.ssh.script import Step
from tests.fuzz.ssh.turns import Slot, Turns

_FIRST_OF_OURS = 1000
_OTHER_OPENS = (
    bytes([peer.OPEN]) + String(b"x11") + UInt32(9) + UInt32(1000) + UInt32(1000) + String(b"a") + UInt32(1),
    bytes([peer.OPEN]) + String(b"session") + UInt32(9) + UInt32(1000) + UInt32(1000),
)
_OUT_OF_PLACE = (b"", *(bytes([kind]) for kind in (81, 82, 52, 6, peer.NEWKEYS, peer.KEX_REPLY, peer.DATA)))


class PeerSteps(Turns):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._padding: int | None = None

    def _allowed(self, step: Step, what: str, *, legal: bool) -> bool:
        """Return whether to execute a step: it is legal, or the script marks it as illegal.

        If the step violates the SSH protocol and is executed, add the violation to `illegal`.

        Args:
            step: The step.
            what: A name for the violation.
            legal: Whether the SSH protocol permits the step.
        """
        if not legal and step.illegal:
            self.illegal.append("late" if self._closing(step) else what)
        return legal or step.illegal

    def _closing(self, step: Step) -> bool:
        """Return whether the gateway can already have closed the step's channel.

        `_allowed` then records a violation as `late`, because the data planes can react differently: on a closed
        channel, asyncssh does not detect some violations that the native engine detects.
        """
        slot = self.current.get(step.slot)
        if slot is None:
            return False
        ends = [side.ends[slot.index] for side in self.sides]
        closed = any(end.gone or end.shut or (end.line is not None and end.line.close) for end in ends)
        return closed or slot.aborted or slot.given_up

    def _slot(self, step: Step) -> Slot | None:
        slot = self.current.get(step.slot)
        return slot if slot is not None and slot.number is not None else None

    def _say(self, payload: bytes, step: Step) -> None:
        padding = self._prepare(step)
        for side in self.sides:
            if side.alive:
                side.peer.say(payload, padding, now=step.illegal)

    def _about(self, kind: int, slot: Slot, step: Step, body: bytes = b"") -> None:
        self._say(to_channel(kind, slot.number or 0, body), step)

    def _prepare(self, step: Step) -> int | None:
        """Return the padding length that the script has set for the next packet; None for the correct length.

        The SSH protocol forbids a wrong padding length, and most packets during a key exchange. Add a violation to
        `illegal` if the script has set a padding length, and one if an illegal step sends the packet during a key
        exchange.
        """
        padding, self._padding = self._padding, None
        if padding is not None:
            self.illegal.append("padding")
        if step.illegal and any(side.peer.exchanging for side in self.sides):
            self.illegal.append("early")
        return padding

    def end_stream(self, slot: Slot) -> None:
        """Record how many bytes the SSH server has sent before its first CHANNEL_EOF or CHANNEL_CLOSE."""
        if not (slot.eof or slot.close):
            for side in self.sides:
                side.ends[slot.index].complete = side.ends[slot.index].fed

    def confirm(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is None:
            return
        if not self._allowed(step, "confirmation", legal=not (slot.open or slot.refused or slot.close)):
            return
        most = (32768, 4096, 500, 0xFFFFFFFF, 0)[step.a % 5]
        if most == 0 and not self._allowed(step, "packets of no bytes", legal=False):
            most = 32768
        ours = _FIRST_OF_OURS + slot.index
        for side in self.sides:
            line = side.ends[slot.index].line
            if line is not None and not slot.open:
                line.may_send, line.max_packet = step.word, most
                side.peer.lines[ours] = line
        slot.open = True
        self._about(peer.CONFIRMATION, slot, step, UInt32(ours) + UInt32(step.word) + UInt32(most))

    def refuse(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is None or not self._allowed(step, "refusal", legal=not (slot.open or slot.refused or slot.close)):
            return
        slot.refused = True
        texts = (b"Connection refused", b"timed out", b"", b"\xff\xfe")
        text = texts[step.b % 4] if self._allowed(step, "text", legal=step.b % 4 < 3) else b""
        self._about(peer.FAILURE, slot, step, UInt32(step.a) + String(text) + String(b""))

    def data(self, step: Step, wanted: int | None = None, piece: int = 1 << 30) -> None:
        slot = self._slot(step)
        if slot is None or not self._allowed(step, "data", legal=slot.open and not (slot.eof or slot.close)):
            return
        padding = self._prepare(step)
        asked = step.size if wanted is None else wanted
        lines = [line for side in self.sides if (line := side.ends[slot.index].line) is not None]
        if any(asked > line.window for line in lines) and self._allowed(step, "window", legal=False):
            # Exceed the initial window, not only the current window. The gateway can already have sent a window
            # adjustment, which makes a larger amount of data legal.
            asked = max(asked, *(line.size + 1 for line in lines))
        for side in self.sides:
            end = side.ends[slot.index]
            if not side.alive or end.line is None:
                continue
            size, most = asked, min(end.line.most, piece)
            if not step.illegal:
                size = min(size, max(0, end.line.window))
            elif size > end.line.most and wanted is None:
                self.illegal.append("packet size")
                most = size
            data = pattern(end.stream, end.fed, size)
            end.line.window -= size
            end.fed += size
            for at in range(0, max(size, 1), most):
                payload = to_channel(peer.DATA, slot.number or 0, String(data[at : at + most]))
                side.peer.say(payload, padding if at == 0 else None, now=step.illegal)

    async def trickle(self, step: Step) -> None:
        for _ in range(step.a * 4 + 1):
            self.data(step, step.c % 4)
            await self.turn()

    def burst(self, step: Step) -> None:
        self.data(step, (step.a + 1) * (step.c + 1), piece=step.c + 1)

    def extended(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is None or not self._allowed(step, "extended data", legal=False):
            return
        lines = [line for side in self.sides if (line := side.ends[slot.index].line) is not None]
        size = max(0, min((step.size, *(line.window for line in lines))))
        for line in lines:
            line.window -= size
        self._about(peer.EXTENDED, slot, step, UInt32(1) + String(bytes(size)))

    def adjust(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is None or not self._allowed(step, "adjust", legal=slot.open and not slot.close):
            return
        # The window can exceed 2^32 - 1 bytes. RFC 4254 forbids this, but both data planes accept it.
        for side in self.sides:
            if (line := side.ends[slot.index].line) is not None:
                line.may_send += step.word
        self._about(peer.ADJUST, slot, step, UInt32(step.word))

    def eof(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is not None and self._allowed(step, "end", legal=slot.open and not (slot.eof or slot.close)):
            self.end_stream(slot)
            slot.eof = True
            self._about(peer.EOF, slot, step)

    def close(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is not None and self._allowed(step, "close", legal=slot.open and not slot.close):
            self.end_stream(slot)
            slot.close = True
            self._about(peer.CLOSE, slot, step)

    def request(self, step: Step) -> None:
        slot = self._slot(step)
        if slot is not None and self._allowed(step, "request", legal=slot.open and not slot.close):
            name = (b"exit-status", b"keepalive@openssh.com", b"eow@openssh.com", b"")[step.b % 4]
            more = UInt32(step.c) if name == b"exit-status" else b""
            self._about(peer.REQUEST, slot, step, String(name) + Boolean(bool(step.c & 1)) + more)

    def global_(self, step: Step) -> None:
        name = (b"keepalive@openssh.com", b"hostkeys-00@openssh.com", b"cancel", b"")[step.b % 4]
        self._say(bytes([peer.GLOBAL_REQUEST]) + String(name) + Boolean(bool(step.c & 1)), step)

    def other(self, step: Step) -> None:
        text, flag, number = String(bytes(step.c)), Boolean(bool(step.c & 1)), UInt32(step.slot)
        legal = (
            bytes([peer.IGNORE]) + text,
            bytes([peer.DEBUG]) + flag + String(b"debug") + String(b""),
            bytes([peer.UNIMPLEMENTED]) + UInt32(step.c),
            bytes([192, step.c]),
            *_OTHER_OPENS,
        )
        illegal = (
            *_OUT_OF_PLACE,
            bytes([peer.SUCCESS]) + number,
            bytes([peer.REFUSAL]) + number,
            to_channel(peer.DATA, step.c << 8, text),
        )
        if self._allowed(step, "other", legal=not step.illegal):
            kinds = illegal if step.illegal else legal
            self._say(kinds[step.b % len(kinds)], step)
        if step.illegal:
            self.illegal.append("other")

    def raw(self, step: Step) -> None:
        if self._allowed(step, "raw", legal=False):
            self._say(to_channel(step.b, step.slot, pattern(step.c, step.a, step.c % 40)), step)

    def padding(self, step: Step) -> None:
        if step.illegal:
            self._padding = step.b

    def corrupt(self, step: Step) -> None:
        if not self._allowed(step, "corrupt", legal=False):
            return
        for side in self.sides:
            if side.alive and not side.peer.out:
                side.peer.say(bytes([peer.IGNORE]) + String(b""), now=True)
            if out := side.peer.out:
                out[-1 - (step.b << 2 | step.a & 3) % len(out)] ^= 1 << (step.c & 7)

    def truncate(self, step: Step) -> None:
        if self._allowed(step, "truncate", legal=False):
            for side in self.sides:
                del side.peer.out[max(0, len(side.peer.out) - step.b - 1) :]

    async def split(self, step: Step) -> None:
        await self.turn(step.b << 4 | step.c & 15)

    def rekey(self, step: Step) -> None:
        del step
        for side in self.sides:
            if side.alive:
                side.peer.start_exchange()

    def stall(self, step: Step) -> None:
        for side in self.sides:
            side.stalled = bool(step.a & 1)

    async def lose(self, step: Step) -> None:
        if step.a % 2:
            self._say(bytes([peer.DISCONNECT]) + UInt32(step.b % 16) + String(b"bye") + String(b""), step)
            await self.turn()
        for side in self.sides:
            side.connection.hang_up()
            side.lost = True
