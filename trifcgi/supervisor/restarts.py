"""How soon a worker that died is replaced: at once, unless it keeps dying."""

from collections import deque
from typing import Final

__all__ = ["Restarts"]

# A worker that has served for so long has worked: what ended it is no mistake of its start (s).
_STEADY: Final = 1.0

# So many deaths in so long are too many, however long each worker had served (seconds).
_MOST_DEATHS: Final = 5
_WINDOW: Final = 10.0

# The first pause, which doubles with each further death, and the longest (seconds).
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


class Restarts:
    """The restart intensity of one worker's place.

    One death is an accident, and costs no pause. A worker that dies again before it has
    served for a second, or more than five times in ten seconds, waits for half a second, then for
    twice as long each time, up to 30 seconds; having served for longer clears its name.

    Attributes:
        streak: deaths in a row that count against it.
    """

    def __init__(self) -> None:
        self.streak = 0
        self._deaths: deque[float] = deque()

    def died(self, now: float, served: float) -> float:
        """Count a death, and say how long to wait before the next start (seconds).

        Args:
            now: any clock in seconds that never goes back.
            served: how long the worker had been ready; 0 if it never was.
        """
        self._deaths.append(now)
        while self._deaths[0] <= now - _WINDOW:
            self._deaths.popleft()
        if served < _STEADY or len(self._deaths) > _MOST_DEATHS:
            self.streak += 1
        else:
            self.streak = 0
        if self.streak <= 1:
            return 0.0
        # The exponent has a bound of its own: a place may fail for years.
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.streak - 2, 16))
