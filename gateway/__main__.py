"""`python -m gateway`, and what the console script calls."""

import os
import signal
import sys


def main() -> None:
    """Run a command."""
    if sys.argv[1:2] == ["run"]:
        # Before the slow imports: a reload waits until the service can do it, and a stop takes effect immediately.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        for number in (signal.SIGTERM, signal.SIGINT):
            # No exception: Python discards one that is raised inside a destructor, which may run during an import.
            signal.signal(number, lambda *_: os._exit(0))
    from gateway.cli import main as cli  # noqa: PLC0415 - slow to import

    cli()


if __name__ == "__main__":
    main()
