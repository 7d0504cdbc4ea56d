"""What a hostile front end can make the connection hold, and how much work it can make."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, SupportsIndex

import pytest

from tests.protocol.wire import (
    ABORT,
    GET_VALUES,
    PARAMS,
    STDIN,
    application,
    begin,
    block,
    front_end,
    get,
    one_by_one,
    record,
    sent,
)
from trifcgi.protocol import (
    Connection,
    Event,
    LocalProtocolError,
    ParamsReceived,
    ParamsTooLarge,
    ProtocolError,
    RequestAborted,
    RequestBegun,
    Side,
    StdinEnded,
    StdinReceived,
)


def limited(
    max_params: int = 100, max_params_total: int = 250, max_pairs: int = 4096
) -> Connection:
    return Connection(
        Side.APPLICATION,
        max_params=max_params,
        max_params_total=max_params_total,
        max_pairs=max_pairs,
    )


def params(request_id: int, size: int) -> bytes:
    """One pair that takes ``size`` bytes, 7 or more, and the end of the params."""
    pair = b"\1\x80" + (size - 6).to_bytes(3, "big") + b"A" + bytes(size - 6)
    return record(PARAMS, request_id, pair) + record(PARAMS, request_id)


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


# The size of one request's params


@pytest.mark.parametrize(("size", "kind"), [(100, ParamsReceived), (101, ParamsTooLarge)])
def test_params_up_to_the_limit(size: int, kind: type[Event]) -> None:
    events = limited().receive_data(begin(1) + params(1, size) + record(STDIN, 1))
    assert kinds(events) == [RequestBegun, kind, StdinEnded]


def test_too_large_is_told_once_and_as_soon_as_it_is_known() -> None:
    connection = limited()
    connection.receive_data(begin(1) + record(PARAMS, 1, bytes(100)))
    assert connection.receive_data(record(PARAMS, 1, b"x")) == [ParamsTooLarge(1)]
    assert connection.receive_data(record(PARAMS, 1, b"x" * 1000) + record(PARAMS, 1)) == []


def test_too_large_is_known_before_the_record_is_there() -> None:
    connection = limited()
    cut_record = record(PARAMS, 1, bytes(60000))[: 8 + 101]
    assert connection.receive_data(begin(1) + cut_record)[1:] == [ParamsTooLarge(1)]
    assert connection.receive_data(bytes(60000 - 101)) == []


def test_stdin_still_comes_after_too_large_params() -> None:
    connection = limited()
    connection.receive_data(begin(1) + params(1, 101))
    assert connection.receive_data(record(STDIN, 1, b"body") + record(STDIN, 1)) == [
        StdinReceived(1, b"body"),
        StdinEnded(1),
    ]
    connection.end_request(1)
    assert kinds(connection.receive_data(begin(1) + params(1, 100))) == [
        RequestBegun,
        ParamsReceived,
    ]


def test_too_large_and_malformed_is_too_large() -> None:
    stream = begin(1) + record(PARAMS, 1, b"\xff" * 101) + record(PARAMS, 1)
    assert kinds(limited().receive_data(stream)) == [RequestBegun, ParamsTooLarge]


# Over all requests of the connection


def test_the_total_refuses_the_request_that_passes_it() -> None:
    connection = limited()
    for request_id in (1, 2):
        events = connection.receive_data(begin(request_id) + params(request_id, 100))
        assert kinds(events)[1] is ParamsReceived
    assert connection.receive_data(begin(3) + params(3, 51))[1:] == [ParamsTooLarge(3)]
    assert kinds(connection.receive_data(begin(4) + params(4, 50)))[1] is ParamsReceived


def freed_by_end(connection: Connection) -> None:
    connection.end_request(2)


def freed_by_abort(connection: Connection) -> None:
    connection.receive_data(record(ABORT, 2))


def freed_by_refusal(connection: Connection) -> None:
    assert connection.receive_data(record(PARAMS, 2, bytes(1))) == [ParamsTooLarge(2)]


@pytest.mark.parametrize("free", [freed_by_end, freed_by_abort, freed_by_refusal])
def test_what_is_no_longer_held_is_no_longer_counted(free: Callable[[Connection], None]) -> None:
    connection = limited(max_params_total=200)
    for _ in range(5):  # nothing is counted off twice, either
        connection.receive_data(begin(1) + params(1, 100) + begin(2))
        connection.receive_data(record(PARAMS, 2, bytes(100)))
        assert connection.receive_data(begin(3) + record(PARAMS, 3, b"x"))[1:] == [
            ParamsTooLarge(3)
        ]
        free(connection)
        assert kinds(connection.receive_data(begin(4) + params(4, 100)))[1] is ParamsReceived
        assert connection.receive_data(begin(5) + record(PARAMS, 5, b"x"))[1:] == [
            ParamsTooLarge(5)
        ]
        for request_id in (1, 2, 3, 4, 5):
            if connection.is_active(request_id):
                connection.end_request(request_id)


def test_params_count_on_after_an_abort_while_the_request_holds_them() -> None:
    connection = limited(max_params_total=100)
    connection.receive_data(begin(1) + params(1, 100) + record(ABORT, 1))
    assert connection.receive_data(begin(2) + params(2, 7))[1:] == [ParamsTooLarge(2)]
    connection.end_request(1)
    assert kinds(connection.receive_data(begin(3) + params(3, 100)))[1] is ParamsReceived


# The number of params


def test_the_number_of_params_is_limited() -> None:
    most = block(*[(b"", b"")] * 20)
    connection = limited(max_pairs=20)
    fitting = begin(1) + record(PARAMS, 1, most) + record(PARAMS, 1)
    assert connection.receive_data(fitting)[1:] == [ParamsReceived(1, [(b"", b"")] * 20)]
    too_many = begin(2) + record(PARAMS, 2, most + b"\0\0") + record(PARAMS, 2)
    assert connection.receive_data(too_many)[1:] == [ParamsTooLarge(2)]


def test_the_number_of_params_over_all_requests_is_limited() -> None:
    connection = limited(max_pairs=2)
    for request_id in range(1, 17):
        events = connection.receive_data(get(request_id, (b"A", b""), (b"B", b"")))
        assert kinds(events)[1] is ParamsReceived
    assert connection.receive_data(get(17, (b"A", b"")))[1:] == [
        ParamsTooLarge(17),
        StdinEnded(17),
    ]
    connection.end_request(1)
    assert kinds(connection.receive_data(get(18, (b"A", b""))))[1] is ParamsReceived


def test_a_bomb_of_the_shortest_params_stays_small() -> None:
    connection = application()
    bomb = bytes(1 << 20)
    tracemalloc.start()
    try:
        for start in range(0, len(bomb), 32768):
            piece = record(PARAMS, 1, bomb[start : start + 32768])
            connection.receive_data(begin(1) + piece if start == 0 else piece)
        assert connection.receive_data(record(PARAMS, 1)) == [ParamsTooLarge(1)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20


# Questions


@pytest.mark.parametrize("question", [record(GET_VALUES, 0), record(99, 0)])
def test_questions_without_end_are_an_error(question: bytes) -> None:
    connection = application()
    connection.receive_data(question * 1000)
    sent(connection)
    connection.receive_data(question * 1000)
    assert connection.out_size <= 16_000
    with pytest.raises(ProtocolError, match="more than 1000 management records"):
        connection.receive_data(question)


def test_records_nobody_answers_can_go_on_for_ever() -> None:
    for connection in (application(), front_end()):
        for _ in range(20):
            connection.receive_data(record(STDIN, 7, b"x") * 1000)
            connection.receive_data(record(11, 0, b"x" + bytes(7)) * 1000)
        assert connection.out_size == 0


# Work: bytes copied and calls made are counted, as time would depend on the machine


class Counted(bytes):
    """Bytes that count how many of them are copied out of it or behind others."""

    copied: ClassVar[int] = 0

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        result = super().__getitem__(index)
        if isinstance(result, bytes):
            Counted.copied += len(result)
        return result

    def __radd__(self, head: Any) -> Any:
        Counted.copied += len(self)
        if isinstance(head, bytearray):
            return NotImplemented  # lets it grow in place
        Counted.copied += len(head)
        return Counted(bytes(head) + bytes(self))


def work(pieces: list[bytes]) -> tuple[int, int]:
    """Bytes copied and calls made while those are received."""
    connection = application()
    counted = [Counted(piece) for piece in pieces]
    Counted.copied = calls = 0

    def count(frame: FrameType, what: str, argument: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    sys.setprofile(count)
    try:
        for piece in counted:
            connection.receive_data(piece)
    finally:
        sys.setprofile(None)
    return Counted.copied, calls


OPEN = begin(1)
OPEN_BODY = begin(1) + record(PARAMS, 1)

FLOODS: dict[str, Callable[[int], list[bytes]]] = {
    "tiny PARAMS records in one read": lambda n: [OPEN + record(PARAMS, 1, b"\0") * n],
    "tiny PARAMS records, each a read": lambda n: [OPEN] + [record(PARAMS, 1, b"\0")] * n,
    "PARAMS byte by byte": lambda n: [OPEN, *one_by_one(record(PARAMS, 1, bytes(9 * n)))],
    "tiny STDIN records in one read": lambda n: [OPEN_BODY + record(STDIN, 1, b"x") * n],
    "STDIN byte by byte": lambda n: [OPEN_BODY, *one_by_one(record(STDIN, 1, bytes(9 * n)))],
    "tiny STDIN records byte by byte": lambda n: [
        OPEN_BODY,
        *one_by_one(record(STDIN, 1, b"x") * n),
    ],
    "padding byte by byte": lambda n: [
        OPEN_BODY,
        *one_by_one(record(STDIN, 1, b"x", bytes(255)) * (n // 20)),
    ],
    "begins and aborts": lambda n: [b"".join(begin(i) + record(ABORT, i) for i in range(1, n))],
    "records for no request": lambda n: [record(STDIN, 9, b"x") * n],
    "a management record byte by byte": lambda n: one_by_one(record(GET_VALUES, 0, bytes(2 * n))),
    "an unknown management record byte by byte": lambda n: one_by_one(record(99, 0, bytes(9 * n))),
}


@pytest.mark.parametrize("name", FLOODS)
def test_work_is_in_proportion_to_the_bytes(name: str) -> None:
    small, large = FLOODS[name](200), FLOODS[name](2000)
    small_copied, small_calls = work(small)
    copied, calls = work(large)
    size = sum(map(len, large))
    # A header that comes byte by byte is joined and kept seven times: 64 bytes for a record of 9.
    assert copied <= 8 * size
    assert copied <= 10.5 * small_copied + 100
    assert calls <= 10.5 * small_calls + 100


def block_of(connection: Connection) -> bytes | bytearray:
    """What is held of the params of request 1."""
    request = connection._requests.get(1)
    assert request is not None
    return request.block


def test_params_grow_in_place() -> None:
    """Joining them to what is there, record by record, would be quadratic."""
    connection = application()
    connection.receive_data(OPEN + record(PARAMS, 1, b"\0") * 2)
    held = block_of(connection)
    connection.receive_data(record(PARAMS, 1, b"\0") * 500)
    assert block_of(connection) is held
    assert len(held) == 502


def test_aborted_params_are_let_go() -> None:
    connection = application()
    events = connection.receive_data(OPEN + record(PARAMS, 1, bytes(100)) + record(ABORT, 1))
    assert events[1:] == [RequestAborted(1)]
    assert block_of(connection) == b""


def test_limits_may_be_as_large_as_one_likes() -> None:
    connection = Connection(
        Side.APPLICATION, max_params=2**64, max_params_total=2**70, max_pairs=2**63
    )
    assert len(connection.receive_data(OPEN + record(PARAMS, 1))) == 2


@pytest.mark.parametrize("request_id", [-1, 0, 2**16, 2**63, 2**70])
def test_an_id_that_cannot_be_is_not_active(request_id: int) -> None:
    connection = application()
    assert not connection.is_active(request_id)
    with pytest.raises(LocalProtocolError, match="it is not active"):
        connection.send_stdout(request_id, b"x")
    with pytest.raises(LocalProtocolError, match="it is not active"):
        connection.end_request(request_id)
    front_end = Connection(Side.FRONT_END)
    with pytest.raises(LocalProtocolError, match="it is not active"):
        front_end.send_stdin(request_id, b"x")
    with pytest.raises(ValueError, match="not within 16 bits"):
        front_end.begin_request(request_id)
