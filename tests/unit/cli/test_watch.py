import click
import pytest

from gateway.cli.watch import watching
from gateway.errors import ServiceUnreachableError


def test_an_error_does_not_end_the_repetition(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["first", ServiceUnreachableError("cannot connect"), "second"])

    def show() -> None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        click.echo(answer)

    watching(show, 0.001, 3)
    printed = capsys.readouterr()
    assert printed.out.split() == ["first", "second"]
    assert printed.err.startswith("no answer since ")
    assert printed.err.endswith("retrying: cannot connect\n")
