"""The front end's side: what it sends, and what it makes of an application's bytes."""

import pytest

from tests.protocol.wire import (
    ABORT,
    DATA,
    GET_VALUES,
    GET_VALUES_RESULT,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
    begin,
    block,
    cut,
    end,
    feed,
    front_end,
    one_by_one,
    record,
    sent,
)
from trifcgi.protocol import (
    Connection,
    ConnectionEnded,
    Event,
    LocalProtocolError,
    ProtocolError,
    ProtocolStatus,
    RequestEnded,
    Role,
    StderrEnded,
    StderrReceived,
    StdoutEnded,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
)

COMPLETE = ProtocolStatus.REQUEST_COMPLETE


def asking(*ids: int) -> Connection:
    connection = front_end()
    for request_id in ids:
        connection.begin_request(request_id)
        connection.send_params(request_id, [])
        connection.end_stdin(request_id)
    connection.data_to_send()
    return connection


# Requests


def test_a_request_with_a_body() -> None:
    connection = front_end()
    connection.begin_request(1, Role.RESPONDER, keep_connection=True)
    connection.send_params(1, [(b"A", b"B"), (b"C", b"")])
    connection.send_stdin(1, b"")
    connection.send_stdin(1, b"body")
    connection.end_stdin(1)
    expected = (
        begin(1, 1, 1)
        + record(PARAMS, 1, block((b"A", b"B"), (b"C", b"")))
        + record(PARAMS, 1)
        + record(STDIN, 1, b"body")
        + record(STDIN, 1)
    )
    assert connection.out_size == len(expected)
    assert sent(connection) == expected


def test_a_request_without_params_has_only_their_end() -> None:
    connection = front_end()
    connection.begin_request(65535, Role.AUTHORIZER)
    connection.send_params(65535, [])
    assert sent(connection) == begin(65535, 2) + record(PARAMS, 65535)


def test_a_filter_gets_its_file_after_stdin() -> None:
    connection = front_end()
    connection.begin_request(1, Role.FILTER)
    connection.send_params(1, [])
    connection.end_stdin(1)
    connection.send_data(1, b"file")
    connection.send_data(1, b"")
    connection.end_data(1)
    expected = begin(1, 3) + record(PARAMS, 1) + record(STDIN, 1)
    assert sent(connection) == expected + record(DATA, 1, b"file") + record(DATA, 1)


def test_long_params_are_cut_into_records() -> None:
    pairs = [(b"A", b"v" * 100_000)]
    connection = front_end()
    connection.begin_request(1)
    connection.send_params(1, iter(pairs))
    encoded = block(*pairs)
    assert sent(connection) == (
        begin(1)
        + record(PARAMS, 1, encoded[:65535])
        + record(PARAMS, 1, encoded[65535:])
        + record(PARAMS, 1)
    )


def test_an_aborted_request_stays_active_until_the_application_ends_it() -> None:
    connection = front_end()
    connection.begin_request(1)
    connection.abort_request(1)
    assert sent(connection) == begin(1) + record(ABORT, 1)
    assert connection.is_active(1)
    assert connection.receive_data(end(1)) == [RequestEnded(1, 0, COMPLETE)]
    assert not connection.is_active(1)


@pytest.mark.parametrize(
    ("request_id", "role"), [(0, 1), (-1, 1), (65536, 1), (1, -1), (1, 65536)]
)
def test_numbers_out_of_range_begin_nothing(request_id: int, role: int) -> None:
    connection = front_end()
    with pytest.raises(ValueError, match="16 bits"):
        connection.begin_request(request_id, role)
    assert (connection.open_requests, connection.out_size) == (0, 0)


def test_an_active_id_cannot_begin_again() -> None:
    connection = asking(1)
    with pytest.raises(LocalProtocolError, match="begin request 1: it is active already"):
        connection.begin_request(1)


def test_an_id_can_be_used_again_after_its_end() -> None:
    connection = asking(1)
    connection.receive_data(end(1))
    connection.begin_request(1)
    assert sent(connection) == begin(1)


def test_an_early_end_stops_the_body() -> None:
    connection = front_end()
    connection.begin_request(1)
    connection.send_params(1, [])
    connection.send_stdin(1, b"some")
    connection.receive_data(record(STDOUT, 1, b"no thanks") + end(1))
    for data in (b"more", b""):
        with pytest.raises(LocalProtocolError, match="send for request 1: it is not active"):
            connection.send_stdin(1, data)


def test_the_front_end_cannot_play_the_application() -> None:
    connection = asking(1)
    with pytest.raises(LocalProtocolError, match="front end side cannot answer request 1"):
        connection.send_stdout(1, b"x")
    with pytest.raises(LocalProtocolError, match="front end side cannot end request 1"):
        connection.end_request(1)
    assert connection.is_active(1)


def test_params_that_cannot_be_encoded_change_nothing() -> None:
    connection = front_end()
    connection.begin_request(1)
    with pytest.raises(ValueError, match="2147483648"):
        connection.send_params(1, [(b"A", bytes(2**31))])
    connection.send_params(1, [])
    assert sent(connection) == begin(1) + record(PARAMS, 1)


# Answers

ANSWERS: dict[str, tuple[bytes, list[Event]]] = {
    "usual": (
        record(STDOUT, 1, b"head", b"pad")
        + record(STDOUT, 1, b"body")
        + record(STDOUT, 1)
        + end(1),
        [StdoutReceived(1, b"headbody"), StdoutEnded(1), RequestEnded(1, 0, COMPLETE)],
    ),
    "end alone": (
        end(1, 2**32 - 1, 2),
        [RequestEnded(1, 2**32 - 1, ProtocolStatus.OVERLOADED)],
    ),
    "a protocol status of the future": (end(1, 0, 9), [RequestEnded(1, 0, 9)]),
    "stdout and stderr mixed": (
        record(STDERR, 1, b"e1")
        + record(STDOUT, 1, b"o1")
        + record(STDERR, 1, b"e2")
        + record(STDOUT, 1)
        + record(STDERR, 1, b"e3")
        + record(STDERR, 1)
        + end(1),
        [
            StderrReceived(1, b"e1"),
            StdoutReceived(1, b"o1"),
            StderrReceived(1, b"e2"),
            StdoutEnded(1),
            StderrReceived(1, b"e3"),
            StderrEnded(1),
            RequestEnded(1, 0, COMPLETE),
        ],
    ),
    "streams ended twice": (
        record(STDOUT, 1) + record(STDOUT, 1) + record(STDERR, 1) + record(STDERR, 1),
        [StdoutEnded(1), StderrEnded(1)],
    ),
    "several requests interleaved": (
        record(STDOUT, 3, b"3")
        + record(STDOUT, 1, b"1")
        + end(3)
        + record(STDOUT, 3, b"late")
        + end(3)
        + end(1),
        [
            StdoutReceived(3, b"3"),
            StdoutReceived(1, b"1"),
            RequestEnded(3, 0, COMPLETE),
            RequestEnded(1, 0, COMPLETE),
        ],
    ),
    "a long record": (
        record(STDOUT, 1, b"x" * 65535, bytes(255)),
        [StdoutReceived(1, b"x" * 65535)],
    ),
    "values": (
        record(GET_VALUES_RESULT, 0, block((b"FCGI_MPXS_CONNS", b"1")))
        + record(GET_VALUES_RESULT, 0),
        [ValuesReceived({b"FCGI_MPXS_CONNS": b"1"}), ValuesReceived({})],
    ),
    "a refused management type": (
        record(UNKNOWN_TYPE, 0, b"\x63" + bytes(7)),
        [UnknownTypeReceived(99)],
    ),
    "management records for applications": (record(GET_VALUES, 0) + record(99, 0, b"x"), []),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_bytes_make_events(name: str) -> None:
    stream, events = ANSWERS[name]
    assert feed(asking(1, 3), [stream]) == events
    assert feed(asking(1, 3), cut(stream, range(0, len(stream), 7919))) == events
    assert feed(asking(1, 3), one_by_one(stream)) == events


def test_nothing_is_answered_on_this_side() -> None:
    connection = front_end()
    connection.receive_data(
        record(GET_VALUES, 0) + record(99, 0) + record(UNKNOWN_TYPE, 0, bytes(8))
    )
    assert connection.out_size == 0


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            record(STDOUT, 1) + record(STDOUT, 1, b"x"),
            "FCGI_STDOUT for request 1 in state ANSWERED",
        ),
        (record(STDERR, 1) + record(STDERR, 1, b"x"), "FCGI_STDERR for request 1"),
        (record(STDIN, 1, b"x"), "FCGI_STDIN for request 1"),
        (begin(1), "FCGI_BEGIN_REQUEST for request 1"),
        (record(99, 1), "a record of type 99 for request 1"),
        (record(GET_VALUES_RESULT, 0, b"\1\1A"), "management record: a block of 3 bytes"),
        (record(UNKNOWN_TYPE, 0, b"\1"), "FCGI_UNKNOWN_TYPE with 1 bytes"),
        (b"HTTP/1.1", "version 72"),
    ],
)
def test_what_is_not_an_answer_is_refused(stream: bytes, message: str) -> None:
    for pieces in ([stream], one_by_one(stream)):
        connection = asking(1)
        with pytest.raises(ProtocolError, match=message):
            feed(connection, pieces)
        with pytest.raises(ProtocolError, match=message):
            connection.receive_data(end(1))


def test_eof_before_the_end_leaves_the_request_open() -> None:
    connection = asking(1)
    connection.receive_data(record(STDOUT, 1, b"half"))
    assert connection.receive_eof() == [ConnectionEnded(truncated=False)]
    assert connection.open_requests == 1


# Management records


def test_values_are_asked_for_with_empty_values() -> None:
    connection = front_end()
    connection.get_values([b"FCGI_MAX_REQS", b"X"])
    assert sent(connection) == record(GET_VALUES, 0, block((b"FCGI_MAX_REQS", b""), (b"X", b"")))


def test_more_names_than_anyone_reads_are_refused() -> None:
    connection = front_end()
    with pytest.raises(ValueError, match="4101 bytes, over 4096"):
        connection.get_values([b"N" * 4096])
    assert connection.out_size == 0
