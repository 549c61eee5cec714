"""The entry point of `python -m gateway` and of the console script `gateway`."""

import os
import signal
import sys


def main() -> None:
    """Run the command that the command-line arguments specify."""
    if sys.argv[1:2] == ["run"]:
        # Set the handlers before the slow imports: HUP must wait until the service can reload, and TERM must always
        # stop it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        for number in (signal.SIGTERM, signal.SIGINT):
            # TERM must not raise an exception: destructors can run during imports, and Python ignores their
            # exceptions.
            signal.signal(number, lambda *_: os._exit(0))
    from gateway.cli import main as cli  # noqa: PLC0415 - slow to import

    cli()


if __name__ == "__main__":
    main()
