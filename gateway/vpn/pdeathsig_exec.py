"""Runs a command that ends with its parent, even when that is killed: `python pdeathsig_exec.py PARENT RIGHTS COMMAND…`.

A parent cannot ask for this on a child's behalf, and a function between fork and exec is not safe beside threads; so
this small program stands between them (prctl(2), PR_SET_PDEATHSIG). Standard library only: it starts at once.

RIGHTS is `all`, `net_admin` (CAP_NET_ADMIN and no other capability), or `net_admin:USER` (the same, as that user and
group).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_NET_ADMIN = 12
_LAST = 63

_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, rights: str, command: list[str]) -> None:
    """Become `command`, unless `parent` is gone already."""
    if rights != "all":
        _confine(rights.partition(":")[2])
    # After the change of user, which the kernel takes for a reason to forget it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _confine(user: str) -> None:
    """Give up every capability but CAP_NET_ADMIN, for this program and all that follow (capabilities(7)).

    Without the right to it that stays away as well, and the command says so when it needs it.
    """
    # Else a program that belongs to root would bring what was given up back.
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(_LAST + 1):
        if capability != _NET_ADMIN:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # which needs CAP_SETPCAP, and is defence in depth
    if user:
        _checked(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
    _checked(_libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0))
    head, sets = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(head, sets))
    left = sets[1] & (1 << _NET_ADMIN)  # of those permitted
    _checked(_libc.capset(head, (ctypes.c_uint32 * 6)(left, left, left, 0, 0, 0)))
    if left:
        _checked(_libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, _NET_ADMIN, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
