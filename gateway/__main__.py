"""`python -m gateway`, and what the console script calls."""

import os
import signal
import sys


def main() -> None:
    """Run a command."""
    if sys.argv[1:2] == ["run"]:
        # Before anything that takes time: a reload waits until it can be done, and a stop is a stop at any moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not by an exception, which is lost where Python calls back from a destructor, as its imports do.
            signal.signal(number, lambda *_: os._exit(0))
    from gateway.cli import main as cli  # noqa: PLC0415 - slow to import

    cli()


if __name__ == "__main__":
    main()
