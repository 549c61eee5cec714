"""Defines the fuzzer's input: a script of settings and steps, as one byte with settings and four bytes for each step.

All steps have the same length. Therefore, if the fuzzer changes one byte of a step, the other steps stay unchanged.
"""

import random
from dataclasses import dataclass
from enum import IntEnum, auto

HEADER, RECORD = 1, 4
LONGEST = HEADER + RECORD * 80


class Op(IntEnum):
    """An action of the SSH server, of a client, or of the gateway."""

    OPEN = 0
    """A client connects, and the gateway requests a channel for this client."""
    CONFIRM = auto()
    REFUSE = auto()
    DATA = auto()
    TRICKLE = auto()
    """The SSH server sends many short packets. After each packet, the event loop runs until it is idle."""
    BURST = auto()
    """The SSH server sends many short packets at once."""
    EXTENDED = auto()
    ADJUST = auto()
    EOF = auto()
    CLOSE = auto()
    REQUEST = auto()
    GLOBAL = auto()
    OTHER = auto()
    """The SSH server sends one of several packets that have no separate action, such as IGNORE or DEBUG."""
    RAW = auto()
    """The SSH server sends a packet of any type, with random content."""
    PADDING = auto()
    """The next packet of the SSH server contains a wrong padding length."""
    CORRUPT = auto()
    """One bit of the SSH server's unsent, encrypted packets is flipped."""
    TRUNCATE = auto()
    """The last bytes of the SSH server's unsent, encrypted packets are removed."""
    SPLIT = auto()
    """The SSH server sends a limited number of encrypted bytes, so that the last packet can be incomplete."""
    READ = auto()
    SEND = auto()
    HALF_CLOSE = auto()
    RESET = auto()
    LEAVE = auto()
    """A client closes its socket."""
    STALL = auto()
    """The SSH server stops or resumes receiving."""
    REKEY = auto()
    OUR_REKEY = auto()
    GIVE_UP = auto()
    """The gateway abandons all channel requests to which the SSH server has not responded."""
    CANCEL = auto()
    """The gateway abandons one channel request to which the SSH server has not responded."""
    ABORT = auto()
    TURN = auto()
    LOSE = auto()
    """The SSH server closes the connection."""
    SHUT_DOWN = auto()
    """The gateway closes the connection."""


COMMON = (Op.OPEN, Op.CONFIRM, Op.DATA, Op.DATA, Op.READ, Op.SEND, Op.EOF, Op.CLOSE, Op.HALF_CLOSE, Op.ADJUST)
_ILLEGAL, _HOLD = 0x60, 0x80


@dataclass(frozen=True)
class Step:
    """One step of a script.

    Args:
        op: The action.
        slot: Number, from 0 to 3, of the channel that the action uses.
        hold: Whether to execute the next step immediately. Otherwise, the event loop first runs until it is idle.
        illegal: Whether to execute the step even if the SSH protocol forbids the step.
        a: First parameter of the action, from 0 to 63.
        b: Second parameter of the action, from 0 to 255.
        c: Third parameter of the action, from 0 to 255.
    """

    op: Op
    slot: int = 0
    hold: bool = False
    illegal: bool = False
    a: int = 0
    b: int = 0
    c: int = 0

    @property
    def size(self) -> int:
        """The number of bytes that `b` and `c` select. Many values are near a limit of the SSH protocol."""
        return (0, 1, 2, 17, 255, self.c, self.c * 16, self.c * 256, 32767, 32768, 32769, 131072, 1 << 20)[
            self.b % 13
        ]

    @property
    def word(self) -> int:
        """The 32-bit number that `b` and `c` select. Many values are near a limit of the SSH protocol."""
        return (0, 1, self.c, 1000, 32768, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF)[self.b % 8]

    def __str__(self) -> str:
        flags = " illegal" * self.illegal + " hold" * self.hold
        return f"{self.op.name.lower()}({self.slot}, a={self.a}, b={self.b}, c={self.c}){flags}"


@dataclass(frozen=True)
class Script:
    """An input of the fuzzer, which consists of settings and steps.

    Args:
        wired: See `adapter.connect`.
        unix: Whether clients use unix socket pairs rather than TCP.
        window: Initial window of each channel in bytes.
        narrow: See `adapter.connect`.
        end: Number, from 0 to 3, that selects how to close the SSH connections after the last step.
        steps: The steps in the order of execution.
    """

    wired: bool = False
    unix: bool = False
    window: int = 65536
    narrow: bool = False
    end: int = 0
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        head = f"wired={self.wired} unix={self.unix} window={self.window} narrow={self.narrow} end={self.end}"
        return "\n".join((head, *map(str, self.steps)))


_WINDOWS = (65536, 16384, 262144, 2 << 20)


def decode(data: bytes) -> Script:
    """Parse a script. Every sequence of bytes is valid."""
    head = data[0] if data else 0
    steps = []
    for at in range(HEADER, min(len(data), LONGEST) - RECORD + 1, RECORD):
        first, second, b, c = data[at : at + RECORD]
        illegal, hold = first & _ILLEGAL == _ILLEGAL, bool(first & _HOLD)
        steps.append(Step(Op(first & 31), second & 3, hold, illegal, second >> 2, b, c))
    return Script(
        wired=bool(head & 1),
        unix=head & 6 == 6,
        window=_WINDOWS[head >> 3 & 3],
        narrow=bool(head & 32),
        end=head >> 6,
        steps=tuple(steps),
    )


def encode(script: Script) -> bytes:
    """Serialize a script."""
    head = script.wired | script.unix * 6 | _WINDOWS.index(script.window) << 3 | script.narrow << 5 | script.end << 6
    return bytes([head]) + b"".join(map(_record, script.steps))


def _record(step: Step) -> bytes:
    first = step.op | step.illegal * _ILLEGAL | step.hold * _HOLD
    return bytes([first, step.slot | step.a << 2, step.b, step.c])


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Return a script with random changes. Add or remove only whole steps, so that the other steps do not change."""
    rng = random.Random(seed)
    head, body = data[:HEADER].ljust(HEADER, b"\0"), data[HEADER:]
    records = [body[at : at + RECORD] for at in range(0, len(body) - RECORD + 1, RECORD)]
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        kind = rng.randrange(6)
        if kind == 0:
            head = bytes([rng.randrange(256)])
        elif kind < 4:
            ops = COMMON if kind < 3 else tuple(Op)
            records.insert(rng.randrange(len(records) + 1), _any(rng, rng.choice(ops)))
        elif records:
            _change(rng, records)
    return (head + b"".join(records))[:longest]


def _change(rng: random.Random, records: list[bytes]) -> None:
    """Randomly change, copy, remove or swap steps in `records`."""
    at = rng.randrange(len(records))
    match rng.randrange(5):
        case 0:
            del records[at : at + rng.choice((1, 1, 4))]
        case 1:
            records[at:at] = records[(first := rng.randrange(len(records))) : first + rng.randrange(1, 6)]
        case 2:
            other = rng.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        case 3:
            changed = bytearray(records[at])
            changed[rng.randrange(RECORD)] = rng.randrange(256)
            records[at] = bytes(changed)
        case _:
            changed = bytearray(records[at])
            changed[0] ^= rng.choice((_HOLD, _HOLD, _HOLD, _ILLEGAL))
            records[at] = bytes(changed)


def _any(rng: random.Random, op: Op) -> bytes:
    hold, illegal = rng.randrange(2) == 0, rng.randrange(12) == 0
    slot = rng.choice((0, 0, 0, 1, 1, 2, 3))
    return _record(Step(op, slot, hold, illegal, rng.randrange(64), rng.randrange(256), rng.randrange(256)))
