"""How soon a server may be asked again, where it counts the logins that broke off. Pure.

A check that ends at its deadline breaks off its login where the server has not answered. A server that was frozen
counts all of these once it runs again, and at `max_connect_errors` refuses everybody who comes from our address
(MySQL Reference Manual, "The Host Cache"); a login starts the count at zero.
"""

_FREELY = 4
"""The part of the limit, as a divisor, up to which checks go on at their own pace."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
"""Seconds without a login after that; twice as many each time."""


class BrokenLogins:
    """The logins at one server that broke off since the last one that did not.

    Args:
        limit: At how many the server refuses our address.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self.limit = limit
        self._not_before = 0.0

    def broke_off(self, now: float) -> None:
        """A login broke off at the monotonic time `now`."""
        self.count += 1
        beyond = self.count - max(1, self.limit // _FREELY)
        if beyond > 0:
            self._not_before = now + min(_FIRST_PAUSE * 2.0 ** (beyond - 1), _LONGEST_PAUSE)

    def logged_in(self) -> None:
        """A login succeeded."""
        self.count, self._not_before = 0, 0.0

    def pause(self, now: float) -> float:
        """Seconds after the monotonic time `now` in which no login should be tried; 0: one may."""
        return max(0.0, self._not_before - now)
