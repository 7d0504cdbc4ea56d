"""The active requests of a connection, and how much their params may take together."""

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from trifcgi.protocol.receiver import Receiver
from trifcgi.protocol.states import (
    APPLICATION_STEPS,
    FRONT_END_STEPS,
    ILLEGAL,
    MOVES,
    ApplicationState,
)

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["ActiveRequest", "ByID", "ParamsBudget"]

_ANSWERING: Final = int(ApplicationState.ANSWERING)

# No block is as long, and compiled it still fits.
_MOST: Final = 1 << 60

_T = TypeVar("_T")


class ByID(Generic[_T]):
    """Something for each request ID of a connection: mostly for one ID at a time, which takes no
    dictionary and no hash.

    Attributes:
        count: number of IDs for which there is something.
    """

    __slots__ = ("_id", "_one", "_others", "count")

    def __init__(self) -> None:
        self.count: i64 = 0
        self._id: i64 = 0  # that of the one, the first; 0 where there is none
        self._one: _T | None = None
        self._others: dict[int, _T] | None = None

    def get(self, request_id: "i64") -> _T | None:
        """What is there for an ID, if anything is."""
        if request_id == self._id:
            return self._one
        return None if self._others is None else self._others.get(request_id)

    def put(self, request_id: "i64", something: _T) -> None:
        """Keep something for an ID, not 0, for which there is nothing."""
        if self.count == 0:
            self.count = 1
            self._id = request_id
            self._one = something
            return
        self.count += 1
        if self._others is None:
            self._others = {}
        self._others[request_id] = something

    def remove(self, request_id: "i64") -> None:
        """Keep nothing more for an ID for which there is something."""
        self.count -= 1
        if request_id == self._id:
            self._id = 0
            self._one = None
        elif self._others is not None:
            del self._others[request_id]
            if not self._others:
                self._others = None

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count != 0

    def values(self) -> list[_T]:
        """All of them, as they are now."""
        found: list[_T] = []
        if self._one is not None:
            found.append(self._one)
        if self._others is not None:
            found += self._others.values()
        return found


class ActiveRequest:
    """What is known of one active request ID.

    Attributes:
        front_end: a FrontEndState, as an int.
        application: an ApplicationState, as an int.
        block: its params so far, encoded; empty once they are complete or refused.
        size: bytes of params, counted until the request ends.
        pairs: number of params, counted until the request ends.
        too_large: its params were refused.
    """

    __slots__ = ("application", "block", "front_end", "pairs", "size", "too_large")

    def begin(self, front_end: "i64") -> None:
        """Set all of it: an ``__init__()``, called by way of the class, would cost more."""
        self.front_end: i64 = front_end
        self.application: i64 = _ANSWERING
        self.block: bytes | bytearray = b""
        self.size: i64 = 0
        self.pairs: i64 = 0
        self.too_large = False

    def after_front_end(self, move: "i64") -> "i64":
        """Where a move of the front end leads: a state, or DROP or ILLEGAL."""
        return FRONT_END_STEPS[MOVES * self.front_end + move] if move < MOVES else ILLEGAL

    def after_application(self, move: "i64") -> "i64":
        """Where a move of the application leads: a state, or DROP or ILLEGAL."""
        return APPLICATION_STEPS[MOVES * self.application + move] if move < MOVES else ILLEGAL


class ParamsBudget:
    """Collects params within limits, for each request and for all that are active.

    What a request's params take stays counted after they were handed out, because whoever
    serves the request holds them until it ends.
    """

    __slots__ = (
        "_max_pairs",
        "_max_pairs_total",
        "_max_params",
        "_max_params_total",
        "_pairs_total",
        "_size_total",
    )

    def __init__(self, max_params: int, max_params_total: int, max_pairs: int) -> None:
        self._max_params: i64 = min(max_params, _MOST)
        self._max_params_total: i64 = min(max_params_total, _MOST)
        self._max_pairs: i64 = min(max_pairs, _MOST)
        self._max_pairs_total: i64 = min(16 * max_pairs, _MOST)
        self._size_total: i64 = 0
        self._pairs_total: i64 = 0

    def add(self, request: ActiveRequest, content: bytes) -> bool:
        """Keep more bytes of a request's params; false when a limit forbids it, and then what was
        kept of them is gone.
        """
        length: i64 = len(content)
        size: i64 = request.size + length
        total: i64 = self._size_total + length
        if size > self._max_params or total > self._max_params_total:
            self.refuse(request)
            return False
        request.size = size
        self._size_total = total
        block = request.block
        if not block:
            request.block = content
        elif isinstance(block, bytearray):
            block += content
        else:
            # Grows in place from here on: a flood of tiny records costs what it weighs.
            request.block = bytearray(block)
            request.block += content
        return True

    def take(self, request: ActiveRequest, block: bytes, receiver: Receiver) -> bool:
        """Count the pairs of a request's params, which are complete; false when a limit forbids
        them. A block that was counted can be decoded without an error.

        Raises:
            ProtocolError: they end inside a pair.
        """
        most = self._max_pairs
        found: i64 = receiver.take_params(block, most)
        if found > most or self._pairs_total + found > self._max_pairs_total:
            self.refuse(request)
            return False
        request.pairs = found
        self._pairs_total += found
        return True

    def take_all(self, request: ActiveRequest, block: bytes, receiver: Receiver) -> bool:
        """The same with params that have come at once, their bytes included, where those of no
        other request are counted; nothing is counted when a limit forbids them.
        """
        size: i64 = len(block)
        if size > self._max_params or size > self._max_params_total:
            return False
        most = self._max_pairs
        found: i64 = receiver.take_params(block, most)
        if found > most:
            return False
        request.size = self._size_total = size
        request.pairs = self._pairs_total = found
        return True

    def refuse(self, request: ActiveRequest) -> None:
        """Forget the params of a request, those that are still to come included."""
        self.release(request)
        request.too_large = True

    def release(self, request: ActiveRequest) -> None:
        """Count a request's params no more."""
        request.block = b""
        self._size_total -= request.size
        self._pairs_total -= request.pairs
        request.size = request.pairs = 0
