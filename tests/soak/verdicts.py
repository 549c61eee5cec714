"""Compares what the clients, the backend and the gateway report about the streams of a round."""

import logging
from typing import Any

from gateway.contracts.states import CloseReason
from tests.soak.audit import Audit
from tests.soak.plan import Outcome, Round
from tests.support.front import Front

_OURS = {CloseReason.FINISHED, CloseReason.CLIENT_RESET}
"""The reasons for which relays are allowed to close in a round that cuts no connections."""


class Warnings(logging.Handler):
    """Records the gateway's log messages with a level above `allowed` as problems of the round."""

    def __init__(self, audit: Audit, *, allowed: int) -> None:
        super().__init__(allowed + 1)
        self._audit = audit

    def emit(self, record: logging.LogRecord) -> None:
        """Record the warning."""
        self._audit.note(f"{record.levelname.lower()} in the log", f"{record.name}: {record.getMessage()}")


def compare_reports(
    chosen: Round, outcome: Outcome, front: Front, said: dict[str, Any], heard: dict[str, Any]
) -> None:
    """Compare the reports about the streams of a round. Add the problems and totals to `outcome`.

    Args:
        chosen: The properties of the round.
        outcome: The results of the round.
        front: The listener of the clients, which counts the reasons for which relays closed.
        said: The report of the clients.
        heard: The report of the backend.
    """
    audit = outcome.audit
    outcome.streams, outcome.bytes = sum(said["counts"].values()), said["bytes"]
    outcome.waits, outcome.redialed = said["waits"], front.redialed
    for each in (*said["wrong"], *heard["wrong"]):
        audit.note("a stream went wrong", each)
    ends = {how: set(numbers) for how, numbers in said["ends"].items()}
    early, reset = (
        {number: how for number, how in heard[what] if number not in ends["given_up"]} for what in ("early", "reset")
    )
    for number in ends["clean"] - set(heard["complete"]):
        audit.note("a stream that the client saw end cleanly was cut short", f"{number}: {early.get(number)}")
    if chosen.trouble == "cuts":
        return
    for number, how in early.items():
        after = " that it had ended itself" if number in ends["unsure"] else ""
        audit.note(f"the backend saw a stream{after} end before all had arrived", f"{number}: {how}")
    for number, how in reset.items():
        audit.note("the backend saw a stream reset", f"{number}: {how}")
    for each in said["broken"]:
        audit.note("a stream was reset", each)
    for ending, count in front.endings.items():
        if ending not in _OURS:
            audit.note(f"relays ended as {ending}", str(count))
