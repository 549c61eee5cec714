"""Tests the option `--watch`: errors do not end the command, and the last output stays on the terminal."""

import sys

import click
import pytest

from gateway.cli.watch_option import watching
from gateway.errors import ServiceUnreachableError


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_does_not_end_the_repetition_and_keeps_the_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    answers = iter(["first", "second", ServiceUnreachableError("cannot connect"), KeyboardInterrupt()])

    def show() -> None:
        answer = next(answers)
        click.secho("partly", fg="red")
        if isinstance(answer, BaseException):
            raise answer
        click.echo(answer)

    watching(show, 0.001, immediately=True)
    printed = capsys.readouterr()
    assert printed.err.startswith("no response since ")
    assert printed.err.endswith("retrying: cannot connect\n")
    if terminal:
        screens = printed.out.split("\033[2J\033[1;1H")
        frames = [f"\033[31mpartly\033[0m\n{each}\n" for each in ("first", "second")]
        assert screens == ["", *frames, f"The last known state:\n{frames[1]}"]
    else:
        assert printed.out == "partly\nfirst\npartly\nsecond\n"


def test_the_first_error_is_raised() -> None:
    def show() -> None:
        raise ServiceUnreachableError("cannot connect")

    with pytest.raises(ServiceUnreachableError):
        watching(show, 0.001, immediately=True)
    watching(show, 0.001, 1)
