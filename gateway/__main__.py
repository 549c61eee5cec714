"""The entry point of `python -m gateway` and of the console script `gateway`."""

import gc
import os
import signal
import sys


def main() -> None:
    """Run the command that the command-line arguments specify."""
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
