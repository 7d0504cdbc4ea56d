"""The tables of legal moves: against the specification's order, and against the connection."""

import itertools
import re
import struct
from collections.abc import Callable

import pytest

from tests.protocol.wire import (
    ABORT,
    DATA,
    END,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    application,
    begin,
    end,
    front_end,
    record,
    sent,
)
from trifcgi.protocol import Connection, LocalProtocolError, ProtocolError
from trifcgi.protocol.states import (
    APPLICATION_MOVES,
    APPLICATION_STEPS,
    APPLICATION_TOLERATED,
    DROP,
    FRONT_END_MOVES,
    FRONT_END_STEPS,
    FRONT_END_TOLERATED,
    MOVES,
    STARTS,
    ApplicationState,
    FrontEndState,
    Move,
)

FRONT_END_LETTERS = {
    "p": Move.PARAMS,
    "P": Move.PARAMS_END,
    "i": Move.STDIN,
    "I": Move.STDIN_END,
    "d": Move.DATA,
    "D": Move.DATA_END,
    "A": Move.ABORT,
}
APPLICATION_LETTERS = {
    "o": Move.STDOUT,
    "O": Move.STDOUT_END,
    "e": Move.STDERR,
    "E": Move.STDERR_END,
    "X": Move.END,
}

# What §6.2 to §6.4 have the front end send, by role, with what may be missing at the end.
ORDERS = {
    1: r"p*(P(i*I?)?)?A?",
    2: r"p*P?A?",
    3: r"p*(P(i*(I(d*D?)?)?)?)?A?",
    9: r"p*(P[iIdD]*)?A?",
}


@pytest.mark.parametrize("role", ORDERS)
def test_the_front_end_table_accepts_the_orders_of_the_specification(role: int) -> None:
    pattern = re.compile(ORDERS[role])
    for length in range(6):
        for letters in itertools.product(FRONT_END_LETTERS, repeat=length):
            state: FrontEndState | None = STARTS.get(role, FrontEndState.OTHER_PARAMS)
            for letter in letters:
                if state is not None:
                    state = FRONT_END_MOVES.get((state, FRONT_END_LETTERS[letter]))
            word = "".join(letters)
            assert (state is not None) == bool(pattern.fullmatch(word)), word


def is_answer(word: str) -> bool:
    """Two streams, in any mixture, each with nothing after its end; END last if at all."""
    streams = word.removesuffix("X")
    return all(
        re.fullmatch(pattern, "".join(letter for letter in streams if letter in pattern))
        for pattern in ("o*O?", "e*E?")
    ) and not set(streams) & {"X"}


def test_the_application_table_accepts_every_mixture_of_stdout_and_stderr() -> None:
    for length in range(7):
        for letters in itertools.product(APPLICATION_LETTERS, repeat=length):
            state: ApplicationState | None = ApplicationState.ANSWERING
            for letter in letters:
                if state is not None:
                    state = APPLICATION_MOVES.get((state, APPLICATION_LETTERS[letter]))
            word = "".join(letters)
            assert (state is not None) == is_answer(word), word


def test_tolerated_moves_are_not_legal_ones() -> None:
    assert not FRONT_END_TOLERATED & FRONT_END_MOVES.keys()
    assert not APPLICATION_TOLERATED & APPLICATION_MOVES.keys()


def test_steps_say_the_same_as_the_tables() -> None:
    for state, move in itertools.product(FrontEndState, Move):
        legal = FRONT_END_MOVES.get((state, move), 0)
        dropped = DROP if (state, move) in FRONT_END_TOLERATED else 0
        assert FRONT_END_STEPS[MOVES * state + move] == legal + dropped
    for answer, move in itertools.product(ApplicationState, Move):
        legal = APPLICATION_MOVES.get((answer, move), 0)
        dropped = DROP if (answer, move) in APPLICATION_TOLERATED else 0
        assert APPLICATION_STEPS[MOVES * answer + move] == legal + dropped


def test_moves_print_as_records() -> None:
    assert str(Move.STDIN) == "FCGI_STDIN"
    assert str(Move.STDIN_END) == "FCGI_STDIN (empty)"


# Every state and every move, on real connections

FRONT_END_PATHS = {
    FrontEndState.RESPONDER_PARAMS: (1, ""),
    FrontEndState.AUTHORIZER_PARAMS: (2, "p"),
    FrontEndState.FILTER_PARAMS: (3, ""),
    FrontEndState.OTHER_PARAMS: (9, "p"),
    FrontEndState.RESPONDER_STDIN: (1, "pP"),
    FrontEndState.FILTER_STDIN: (3, "Pi"),
    FrontEndState.FILTER_DATA: (3, "PiI"),
    FrontEndState.OTHER_STREAMS: (9, "PD"),
    FrontEndState.SENT: (1, "PI"),
    FrontEndState.ABORTED: (1, "PA"),
}
APPLICATION_PATHS = {
    ApplicationState.ANSWERING: "o",
    ApplicationState.ANSWERING_STDERR_OPEN: "e",
    ApplicationState.ANSWERING_STDERR_ENDED: "eE",
    ApplicationState.ANSWERED: "oO",
    ApplicationState.ANSWERED_STDERR_OPEN: "eO",
    ApplicationState.ANSWERED_STDERR_ENDED: "EO",
}

CONTENTS = {PARAMS: b"\1\1AB", END: struct.pack("!IB3x", 5, 0)}


def wire(move: Move) -> bytes:
    kind = move >> 1
    if kind == ABORT or (move & 1 and kind != END):
        return record(kind, 1)
    return record(kind, 1, CONTENTS.get(kind, b"content"))


def at_front_end_state(state: FrontEndState) -> Connection:
    role, letters = FRONT_END_PATHS[state]
    connection = application()
    connection.receive_data(begin(1, role))
    for letter in letters:
        connection.receive_data(wire(FRONT_END_LETTERS[letter]))
    return connection


def at_application_state(state: ApplicationState) -> Connection:
    connection = front_end()
    connection.begin_request(1)
    for letter in APPLICATION_PATHS[state]:
        connection.receive_data(wire(APPLICATION_LETTERS[letter]))
    return connection


def test_every_state_has_a_way_to_it() -> None:
    assert FRONT_END_PATHS.keys() == set(FrontEndState)
    assert APPLICATION_PATHS.keys() == set(ApplicationState) - {ApplicationState.ENDED}


@pytest.mark.parametrize("move", Move, ids=str)
@pytest.mark.parametrize("state", FrontEndState, ids=str)
def test_the_application_receives_by_the_table(state: FrontEndState, move: Move) -> None:
    connection = at_front_end_state(state)
    if (state, move) in FRONT_END_TOLERATED:
        assert connection.receive_data(wire(move)) == []
    elif (state, move) in FRONT_END_MOVES:
        events = connection.receive_data(wire(move))
        unseen = move is Move.PARAMS or FRONT_END_MOVES[state, move] is FrontEndState.OTHER_STREAMS
        assert len(events) == (0 if unseen and move is not Move.PARAMS_END else 1)
    else:
        with pytest.raises(ProtocolError, match=f"in state {state}$") as caught:
            connection.receive_data(wire(move))
        assert caught.value.request_id == 1


@pytest.mark.parametrize("move", Move, ids=str)
@pytest.mark.parametrize("state", APPLICATION_PATHS, ids=str)
def test_the_front_end_receives_by_the_table(state: ApplicationState, move: Move) -> None:
    connection = at_application_state(state)
    if (state, move) in APPLICATION_TOLERATED:
        assert connection.receive_data(wire(move)) == []
    elif (state, move) in APPLICATION_MOVES:
        assert len(connection.receive_data(wire(move))) == 1
        assert connection.is_active(1) == (move is not Move.END)
    else:
        with pytest.raises(ProtocolError, match=f"in state {state}$"):
            connection.receive_data(wire(move))


FRONT_END_SENDS: dict[Move, Callable[[Connection], None]] = {
    Move.PARAMS_END: lambda c: c.send_params(1, [(b"A", b"B")]),
    Move.STDIN: lambda c: c.send_stdin(1, b"content"),
    Move.STDIN_END: lambda c: c.end_stdin(1),
    Move.DATA: lambda c: c.send_data(1, b"content"),
    Move.DATA_END: lambda c: c.end_data(1),
    Move.ABORT: lambda c: c.abort_request(1),
}
APPLICATION_SENDS: dict[Move, Callable[[Connection], None]] = {
    Move.STDOUT: lambda c: c.send_stdout(1, b"content"),
    Move.STDOUT_END: lambda c: c.end_stdout(1),
    Move.STDERR: lambda c: c.send_stderr(1, b"content"),
    Move.END: lambda c: c.end_request(1),
}


def sending_front_end(state: FrontEndState) -> Connection:
    role, letters = FRONT_END_PATHS[state]
    connection = front_end()
    connection.begin_request(1, role)
    for letter in letters.replace("p", ""):
        FRONT_END_SENDS[FRONT_END_LETTERS[letter]](connection)
    connection.data_to_send()
    return connection


@pytest.mark.parametrize("move", FRONT_END_SENDS, ids=str)
@pytest.mark.parametrize("state", FrontEndState, ids=str)
def test_the_front_end_sends_by_the_table(state: FrontEndState, move: Move) -> None:
    connection = sending_front_end(state)
    if (state, move) in FRONT_END_MOVES:
        FRONT_END_SENDS[move](connection)
        assert sent(connection).endswith(wire(move))
    else:
        with pytest.raises(LocalProtocolError, match=f"request 1 in state {state}$"):
            FRONT_END_SENDS[move](connection)
        assert connection.out_size == 0


@pytest.mark.parametrize("move", APPLICATION_SENDS, ids=str)
@pytest.mark.parametrize("letters", ["", "o", "e", "oeo", "O", "eO", "oOe"])
def test_the_application_sends_by_the_table(letters: str, move: Move) -> None:
    connection = application()
    connection.receive_data(begin(1))
    state = ApplicationState.ANSWERING
    for letter in letters:
        step = APPLICATION_LETTERS[letter]
        APPLICATION_SENDS[step](connection)
        state = APPLICATION_MOVES[state, step]
    connection.data_to_send()
    if (state, move) in APPLICATION_MOVES:
        APPLICATION_SENDS[move](connection)
        ended = end(1) if move is Move.END else wire(move)
        if move is Move.STDERR:  # always padded
            ended = record(STDERR, 1, b"content", bytes(1))
        assert sent(connection).endswith(ended)
    else:
        with pytest.raises(LocalProtocolError, match=f"request 1 in state {state}$"):
            APPLICATION_SENDS[move](connection)
        assert connection.out_size == 0


@pytest.mark.parametrize("kind", [PARAMS, STDIN, DATA, STDOUT, STDERR, ABORT, 9, 99, 255])
def test_records_for_an_inactive_id_are_ignored(kind: int) -> None:
    """§3.3, whatever their type is."""
    for connection in (application(), front_end()):
        assert connection.receive_data(record(kind, 5, b"content") + record(kind, 5)) == []
        assert connection.out_size == 0
