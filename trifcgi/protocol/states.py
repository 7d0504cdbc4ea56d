"""The legal moves of one request, as two tables: what each side has sent so far.

Two machines run side by side, so that an answer may begin, and even end, while the request's
body is still on its way (§6.2). Both sides of the wire keep both of them: for one it says what
may be sent, for the other what may come.

A record is a move: its type, and whether it has content. Where a table has no entry the
move is illegal: a ``ProtocolError`` when it comes, a ``LocalProtocolError`` when it is asked
for. Beside the moves that the specification names, :data:`TOLERATED` lists those that are
dropped without a word when they come, and still refused when asked for.

Records for a request ID that is not active are no moves at all: §3.3 has them ignored.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from trifcgi.protocol.constants import RecordType, Role

__all__ = [
    "APPLICATION_MOVES",
    "APPLICATION_STEPS",
    "APPLICATION_TOLERATED",
    "DROP",
    "FRONT_END_MOVES",
    "FRONT_END_STEPS",
    "FRONT_END_TOLERATED",
    "ILLEGAL",
    "MOVES",
    "STARTS",
    "ApplicationState",
    "FrontEndState",
    "Move",
]


class Move(enum.IntEnum):
    """One record, seen as a step: twice its type, plus one if it is empty.

    An ABORT is always empty (§5.4) and an END never is (§5.5).
    """

    ABORT = 2 * RecordType.ABORT_REQUEST + 1
    END = 2 * RecordType.END_REQUEST
    PARAMS = 2 * RecordType.PARAMS
    PARAMS_END = 2 * RecordType.PARAMS + 1
    STDIN = 2 * RecordType.STDIN
    STDIN_END = 2 * RecordType.STDIN + 1
    STDOUT = 2 * RecordType.STDOUT
    STDOUT_END = 2 * RecordType.STDOUT + 1
    STDERR = 2 * RecordType.STDERR
    STDERR_END = 2 * RecordType.STDERR + 1
    DATA = 2 * RecordType.DATA
    DATA_END = 2 * RecordType.DATA + 1

    def __str__(self) -> str:
        return f"FCGI_{RecordType(self >> 1)}" + (" (empty)" if self & 1 else "")


class FrontEndState(enum.IntEnum):
    """What the front end has sent of a request. The role decides on the order (§6)."""

    RESPONDER_PARAMS = enum.auto()
    AUTHORIZER_PARAMS = enum.auto()
    FILTER_PARAMS = enum.auto()
    OTHER_PARAMS = enum.auto()  # of a role that FastCGI 1.0 does not know
    RESPONDER_STDIN = enum.auto()
    FILTER_STDIN = enum.auto()
    FILTER_DATA = enum.auto()
    OTHER_STREAMS = enum.auto()  # what such a role's streams mean, and their order, is not known
    SENT = enum.auto()
    ABORTED = enum.auto()

    def __str__(self) -> str:
        return self.name


class ApplicationState(enum.IntEnum):
    """What the application has sent of its answer: stdout is open or ended; stderr is unused,
    open or ended. After END the request is gone, and has no state.
    """

    ANSWERING = enum.auto()
    ANSWERING_STDERR_OPEN = enum.auto()
    ANSWERING_STDERR_ENDED = enum.auto()
    ANSWERED = enum.auto()
    ANSWERED_STDERR_OPEN = enum.auto()
    ANSWERED_STDERR_ENDED = enum.auto()
    ENDED = enum.auto()

    def __str__(self) -> str:
        return self.name


_F = FrontEndState
_A = ApplicationState

STARTS: Final[Mapping[int, FrontEndState]] = {
    Role.RESPONDER: _F.RESPONDER_PARAMS,
    Role.AUTHORIZER: _F.AUTHORIZER_PARAMS,
    Role.FILTER: _F.FILTER_PARAMS,
}
"""Where a request begins, by role; ``OTHER_PARAMS`` for any other role."""

FRONT_END_MOVES: Final[Mapping[tuple[FrontEndState, Move], FrontEndState]] = {
    (_F.RESPONDER_PARAMS, Move.PARAMS): _F.RESPONDER_PARAMS,
    (_F.RESPONDER_PARAMS, Move.PARAMS_END): _F.RESPONDER_STDIN,
    (_F.RESPONDER_PARAMS, Move.ABORT): _F.ABORTED,
    (_F.RESPONDER_STDIN, Move.STDIN): _F.RESPONDER_STDIN,
    (_F.RESPONDER_STDIN, Move.STDIN_END): _F.SENT,
    (_F.RESPONDER_STDIN, Move.ABORT): _F.ABORTED,
    #
    (_F.AUTHORIZER_PARAMS, Move.PARAMS): _F.AUTHORIZER_PARAMS,
    (_F.AUTHORIZER_PARAMS, Move.PARAMS_END): _F.SENT,
    (_F.AUTHORIZER_PARAMS, Move.ABORT): _F.ABORTED,
    #
    (_F.FILTER_PARAMS, Move.PARAMS): _F.FILTER_PARAMS,
    (_F.FILTER_PARAMS, Move.PARAMS_END): _F.FILTER_STDIN,
    (_F.FILTER_PARAMS, Move.ABORT): _F.ABORTED,
    (_F.FILTER_STDIN, Move.STDIN): _F.FILTER_STDIN,
    (_F.FILTER_STDIN, Move.STDIN_END): _F.FILTER_DATA,
    (_F.FILTER_STDIN, Move.ABORT): _F.ABORTED,
    (_F.FILTER_DATA, Move.DATA): _F.FILTER_DATA,
    (_F.FILTER_DATA, Move.DATA_END): _F.SENT,
    (_F.FILTER_DATA, Move.ABORT): _F.ABORTED,
    #
    (_F.OTHER_PARAMS, Move.PARAMS): _F.OTHER_PARAMS,
    (_F.OTHER_PARAMS, Move.PARAMS_END): _F.OTHER_STREAMS,
    (_F.OTHER_PARAMS, Move.ABORT): _F.ABORTED,
    (_F.OTHER_STREAMS, Move.STDIN): _F.OTHER_STREAMS,
    (_F.OTHER_STREAMS, Move.STDIN_END): _F.OTHER_STREAMS,
    (_F.OTHER_STREAMS, Move.DATA): _F.OTHER_STREAMS,
    (_F.OTHER_STREAMS, Move.DATA_END): _F.OTHER_STREAMS,
    (_F.OTHER_STREAMS, Move.ABORT): _F.ABORTED,
    #
    (_F.SENT, Move.ABORT): _F.ABORTED,
}
"""What the front end may send, and where it leads."""

APPLICATION_MOVES: Final[Mapping[tuple[ApplicationState, Move], ApplicationState]] = {
    (_A.ANSWERING, Move.STDOUT): _A.ANSWERING,
    (_A.ANSWERING, Move.STDOUT_END): _A.ANSWERED,
    (_A.ANSWERING, Move.STDERR): _A.ANSWERING_STDERR_OPEN,
    (_A.ANSWERING, Move.STDERR_END): _A.ANSWERING_STDERR_ENDED,
    (_A.ANSWERING, Move.END): _A.ENDED,
    #
    (_A.ANSWERING_STDERR_OPEN, Move.STDOUT): _A.ANSWERING_STDERR_OPEN,
    (_A.ANSWERING_STDERR_OPEN, Move.STDOUT_END): _A.ANSWERED_STDERR_OPEN,
    (_A.ANSWERING_STDERR_OPEN, Move.STDERR): _A.ANSWERING_STDERR_OPEN,
    (_A.ANSWERING_STDERR_OPEN, Move.STDERR_END): _A.ANSWERING_STDERR_ENDED,
    (_A.ANSWERING_STDERR_OPEN, Move.END): _A.ENDED,
    #
    (_A.ANSWERING_STDERR_ENDED, Move.STDOUT): _A.ANSWERING_STDERR_ENDED,
    (_A.ANSWERING_STDERR_ENDED, Move.STDOUT_END): _A.ANSWERED_STDERR_ENDED,
    (_A.ANSWERING_STDERR_ENDED, Move.END): _A.ENDED,
    #
    (_A.ANSWERED, Move.STDERR): _A.ANSWERED_STDERR_OPEN,
    (_A.ANSWERED, Move.STDERR_END): _A.ANSWERED_STDERR_ENDED,
    (_A.ANSWERED, Move.END): _A.ENDED,
    #
    (_A.ANSWERED_STDERR_OPEN, Move.STDERR): _A.ANSWERED_STDERR_OPEN,
    (_A.ANSWERED_STDERR_OPEN, Move.STDERR_END): _A.ANSWERED_STDERR_ENDED,
    (_A.ANSWERED_STDERR_OPEN, Move.END): _A.ENDED,
    #
    (_A.ANSWERED_STDERR_ENDED, Move.END): _A.ENDED,
}
"""What the application may send, and where it leads. END is legal everywhere: many applications
leave out the empty records before it."""

FRONT_END_TOLERATED: Final[frozenset[tuple[FrontEndState, Move]]] = frozenset(
    {
        # lighttpd 1.4 sends an authorizer the empty STDIN that §6.3 does not ask for when the
        # HTTP request was a GET, and none when it was a POST. To end a stream twice, of any
        # role, harms nobody.
        (_F.SENT, Move.STDIN_END),
        (_F.SENT, Move.DATA_END),
        (_F.FILTER_DATA, Move.STDIN_END),
        # A front end may have had these under way when it decided to abort.
        (_F.ABORTED, Move.PARAMS),
        (_F.ABORTED, Move.PARAMS_END),
        (_F.ABORTED, Move.STDIN),
        (_F.ABORTED, Move.STDIN_END),
        (_F.ABORTED, Move.DATA),
        (_F.ABORTED, Move.DATA_END),
        (_F.ABORTED, Move.ABORT),
    }
)
"""Moves without meaning that an application drops."""

APPLICATION_TOLERATED: Final[frozenset[tuple[ApplicationState, Move]]] = frozenset(
    {
        (_A.ANSWERED, Move.STDOUT_END),
        (_A.ANSWERED_STDERR_OPEN, Move.STDOUT_END),
        (_A.ANSWERED_STDERR_ENDED, Move.STDOUT_END),
        (_A.ANSWERING_STDERR_ENDED, Move.STDERR_END),
        (_A.ANSWERED_STDERR_ENDED, Move.STDERR_END),
    }
)
"""Moves without meaning that a front end drops: a stream ended twice."""

ILLEGAL: Final = 0
DROP: Final = 255

MOVES: Final = 32
"""Moves that a line of :data:`FRONT_END_STEPS` and :data:`APPLICATION_STEPS` has room for; larger
ones are of record types that do not exist, and illegal."""

_State = TypeVar("_State", FrontEndState, ApplicationState)


def _steps(
    states: type[_State],
    moves: Mapping[tuple[_State, Move], _State],
    tolerated: frozenset[tuple[_State, Move]],
) -> bytes:
    steps = bytearray(MOVES * (max(map(int, states)) + 1))
    for (before, move), after in moves.items():
        steps[MOVES * before + move] = after
    for before, move in tolerated:
        steps[MOVES * before + move] = DROP
    return bytes(steps)


FRONT_END_STEPS: Final = _steps(FrontEndState, FRONT_END_MOVES, FRONT_END_TOLERATED)
APPLICATION_STEPS: Final = _steps(ApplicationState, APPLICATION_MOVES, APPLICATION_TOLERATED)
"""The tables as numbers, a line of :data:`MOVES` for each state: the next state, :data:`DROP` or
:data:`ILLEGAL`. Bytes, for of those compiled code takes one without any object."""
