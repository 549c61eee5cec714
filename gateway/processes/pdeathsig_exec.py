"""Executes a command with PR_SET_PDEATHSIG, so that the kernel kills the command when the parent process exits.

Usage: `python pdeathsig_exec.py PARENT PRIVILEGES FILE COMMAND…`

A process must request its parent-death signal itself (PR_SET_PDEATHSIG in prctl(2)). In a program with threads, it is
unsafe to run Python code between fork and exec. Therefore this separate program requests the signal and then executes
the command. The program imports only the standard library, so that it starts quickly.

PARENT is the process ID of the parent. FILE is the path of the file to execute. PRIVILEGES is one of the following:

- `all`: keep the current privileges
- `net_admin`: keep only the capability CAP_NET_ADMIN
- `net_admin:ID`: keep only CAP_NET_ADMIN, and change the user ID and the group ID to ID
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
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAP_NET_ADMIN = 12
_MAX_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, privileges: str, file: str, command: list[str]) -> None:
    """Execute a command, unless the parent process has already exited.

    Args:
        parent: Process ID of the parent.
        privileges: See the module's docstring.
        file: The path of the file to execute.
        command: The name of the program (`argv[0]`) and its arguments.

    Raises:
        OSError: The privileges cannot be dropped, or the program cannot be executed.
    """
    if privileges != "all":
        _drop_privileges(privileges.partition(":")[2])
    # Request the parent-death signal after the change of the user ID, because this change cancels earlier requests.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Restore the default actions of SIGPIPE and SIGXFSZ, which Python ignores. Otherwise, the command would ignore
    # them too. A command that ignores SIGPIPE can continue to write after the reader of its output has exited.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if os.getppid() == parent:
        os.execv(file, command)  # noqa: S606 - the command needs no shell


def _drop_privileges(user: str) -> None:
    """Drop all capabilities except CAP_NET_ADMIN, for this program and its descendants (capabilities(7)).

    If this process does not have CAP_NET_ADMIN, drop all capabilities. The command then fails, and reports why.

    Args:
        user: The number to use as user ID and group ID; empty to keep the current IDs.
    """
    # Set no_new_privs. Otherwise, the command could regain the capabilities with a set-user-ID program.
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(_MAX_CAPABILITY + 1):
        if capability != _CAP_NET_ADMIN:
            # Dropping a capability from the bounding set requires CAP_SETPCAP. Ignore a failure, because this step is
            # only defense in depth.
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if user:
        _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header, sets = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, sets))
    kept = sets[1] & (1 << _CAP_NET_ADMIN)  # `sets[1]` contains the permitted capabilities
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)))
    if kept:
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_NET_ADMIN, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
