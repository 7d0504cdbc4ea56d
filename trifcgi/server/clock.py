"""trio's clock; compiled."""

from time import perf_counter
from typing import Final

import trio

__all__ = ["Clock"]

_perf_counter: Final = perf_counter


class Clock:
    """Tells the time as ``trio.current_time()`` does, for less.

    That looks up the run's clock and makes two calls of Python, and each request asks twice. The
    clock that trio has as a rule adds a number to ``time.perf_counter()``: from one that is seen
    to do so, the number is taken. Every other clock is asked each time.
    """

    __slots__ = ("_ask", "_offset")

    def __init__(self, clock: trio.abc.Clock) -> None:
        self._ask = clock.current_time
        self._offset = _offset_of(clock)

    def now(self) -> float:
        """The time, in seconds."""
        return self._offset + _perf_counter() if self._offset > 0.0 else self._ask()


def _offset_of(clock: trio.abc.Clock) -> float:
    """What trio's own clock adds to the system's; 0.0 for another clock."""
    offset = getattr(clock, "offset", None)
    if type(clock).__module__.split(".")[0] != "trio" or not isinstance(offset, float):
        return 0.0
    early = offset + perf_counter()
    return offset if early <= clock.current_time() <= offset + perf_counter() else 0.0
