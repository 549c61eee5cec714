"""The entry point of `python -m gateway` and of the console script."""

import os
import signal
import sys


def main() -> None:
    """Run a command."""
    if sys.argv[1:2] == ["run"]:
        # Before the slow imports: a HUP waits until the service can reload, and a TERM stops at any time.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not by an exception: Python ignores exceptions in destructors, which may run during imports.
            signal.signal(number, lambda *_: os._exit(0))
    from gateway.cli import main as cli  # noqa: PLC0415 - slow to import

    cli()


if __name__ == "__main__":
    main()
