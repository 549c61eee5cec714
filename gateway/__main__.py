"""The entry point of `python -m gateway` and of the console script `gateway`."""

import gc
import os
import signal
import sys


def _open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise, Python sets the stream to None, and the next file or socket gets the descriptor of the stream.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def main() -> None:
    """Run the command that the command-line arguments specify."""
    _open_standard_streams()
    if sys.argv[1:2] == ["run"]:
        # Prepare for signals before the slow imports. SIGHUP stays blocked until the service can reload its
        # configuration. SIGTERM and SIGINT stop the process at any time.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        for number in (signal.SIGTERM, signal.SIGINT):
            # Do not raise an exception to exit. If the signal arrives while a destructor runs, Python ignores the
            # exception.
            signal.signal(number, lambda *_: os._exit(0))
        # Disable the garbage collector during the imports, because almost all objects that the imports create stay
        # alive. `prepare_process` enables the garbage collector again.
        gc.disable()
    from gateway.cli import main as cli  # noqa: PLC0415 - slow to import

    cli()


if __name__ == "__main__":
    main()
