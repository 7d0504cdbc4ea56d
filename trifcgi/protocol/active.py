"""The active requests of a connection, and how much their params may take together."""

from typing import Final

from trifcgi.protocol.pairs import COMPILED, count_pairs, decode_pairs
from trifcgi.protocol.states import ApplicationState

__all__ = ["ActiveRequest", "ParamsBudget"]

_ANSWERING: Final = int(ApplicationState.ANSWERING)


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

    def __init__(self, front_end: int) -> None:
        self.front_end = front_end
        self.application = _ANSWERING
        self.block: bytes | bytearray = b""
        self.size = 0
        self.pairs = 0
        self.too_large = False


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
        self._max_params = max_params
        self._max_params_total = max_params_total
        self._max_pairs = max_pairs
        self._max_pairs_total = 16 * max_pairs
        self._size_total = 0
        self._pairs_total = 0

    def add(self, request: ActiveRequest, content: bytes) -> bool:
        """Keep more bytes of a request's params; false when a limit forbids it, and then what was
        kept of them is gone.
        """
        size = request.size + len(content)
        total = self._size_total + len(content)
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

    def finish(
        self, request: ActiveRequest
    ) -> tuple[bytes, list[tuple[bytes, bytes]] | None] | None:
        """Give the params of a request that are now complete; ``None`` when a limit forbids it.

        Returns:
            A block that can be decoded without an error; and its pairs, if that was done.

        Raises:
            ProtocolError: they end inside a pair.
        """
        block = bytes(request.block)
        request.block = b""
        most = self._max_pairs
        pairs: list[tuple[bytes, bytes]] | None = None
        count = 0
        if COMPILED or len(block) > 2 * most:
            count = count_pairs(block, most)
            if count > most:
                self.refuse(request)
                return None
        if not COMPILED:
            pairs = decode_pairs(block)
            count = len(pairs)
        if self._pairs_total + count > self._max_pairs_total:
            self.refuse(request)
            return None
        request.pairs = count
        self._pairs_total += count
        return block, pairs

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
