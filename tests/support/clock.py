"""Changes the system time that the code under test reads. The monotonic clock is not affected."""

import time

import pytest


def set_clock_back(monkeypatch: pytest.MonkeyPatch, seconds: float = 3600.0) -> None:
    """Set the system time back, as an operator or NTP can do, until the test ends."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - seconds)
