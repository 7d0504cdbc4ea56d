"""The application's side: what it makes of bytes, and what it sends."""

import struct
from collections.abc import Callable

import pytest

from tests.protocol.wire import (
    ABORT,
    BEGIN,
    DATA,
    GET_VALUES,
    GET_VALUES_RESULT,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
    application,
    begin,
    block,
    cut,
    end,
    feed,
    get,
    one_by_one,
    record,
    sent,
)
from trifcgi.protocol import (
    Connection,
    ConnectionEnded,
    DataEnded,
    DataReceived,
    Event,
    LocalProtocolError,
    ParamsReceived,
    ProtocolError,
    ProtocolStatus,
    RequestAborted,
    RequestBegun,
    Role,
    Side,
    StdinEnded,
    StdinReceived,
    ValuesRequested,
)

METHOD = (b"REQUEST_METHOD", b"GET")
LONG = (b"QUERY_STRING", b"q" * 70_000)
BEGUN = RequestBegun(1, Role.RESPONDER, False, 0)

STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "get": (
        get(1, METHOD, flags=1),
        [
            RequestBegun(1, Role.RESPONDER, True, 1),
            ParamsReceived(1, [METHOD]),
            StdinEnded(1),
        ],
    ),
    "get, as nginx pads it": (
        begin(1)
        + record(PARAMS, 1, block(METHOD), bytes(5))
        + record(PARAMS, 1)
        + record(STDIN, 1),
        [BEGUN, ParamsReceived(1, [METHOD]), StdinEnded(1)],
    ),
    "no params": (get(1), [BEGUN, ParamsReceived(1, []), StdinEnded(1)]),
    "flags beyond the first are kept and mean nothing": (
        begin(1, flags=0xFE),
        [RequestBegun(1, Role.RESPONDER, False, 0xFE)],
    ),
    "reserved bytes of the body hold anything": (
        record(BEGIN, 65535, b"\0\1\1\1\2\3\4\5"),
        [RequestBegun(65535, Role.RESPONDER, True, 1)],
    ),
    "body in several records": (
        begin(1)
        + record(PARAMS, 1)
        + record(STDIN, 1, b"one", b"\xff")
        + record(STDIN, 1, b"two")
        + record(STDIN, 1),
        [BEGUN, ParamsReceived(1, []), StdinReceived(1, b"onetwo"), StdinEnded(1)],
    ),
    "records of 65,535 bytes with 255 of padding": (
        begin(1)
        + record(PARAMS, 1, block(LONG)[:65535], bytes(255))
        + record(PARAMS, 1, block(LONG)[65535:], bytes(255))
        + record(PARAMS, 1, b"", bytes(255))
        + record(STDIN, 1, b"b" * 65535, bytes(255))
        + record(STDIN, 1, b"", bytes(255)),
        [BEGUN, ParamsReceived(1, [LONG]), StdinReceived(1, b"b" * 65535), StdinEnded(1)],
    ),
    "pairs cut everywhere by PARAMS records": (
        begin(1)
        + b"".join(record(PARAMS, 1, piece) for piece in one_by_one(block(METHOD, (b"A", b""))))
        + record(PARAMS, 1),
        [BEGUN, ParamsReceived(1, [METHOD, (b"A", b"")])],
    ),
    "duplicates and odd names": (
        get(1, (b"A", b"1"), (b"A", b"2"), (b"proxy-nokeepalive", b""), (b"", b"\r\n\0\xff")),
        [
            BEGUN,
            ParamsReceived(
                1, [(b"A", b"1"), (b"A", b"2"), (b"proxy-nokeepalive", b""), (b"", b"\r\n\0\xff")]
            ),
            StdinEnded(1),
        ],
    ),
    "authorizer without stdin": (
        begin(1, 2) + record(PARAMS, 1, block(METHOD)) + record(PARAMS, 1),
        [RequestBegun(1, Role.AUTHORIZER, False, 0), ParamsReceived(1, [METHOD])],
    ),
    "authorizer with the empty stdin that lighttpd sends": (
        get(1, METHOD, role=2),
        [RequestBegun(1, Role.AUTHORIZER, False, 0), ParamsReceived(1, [METHOD])],
    ),
    "filter": (
        begin(1, 3)
        + record(PARAMS, 1)
        + record(STDIN, 1, b"in")
        + record(STDIN, 1)
        + record(DATA, 1, b"file")
        + record(DATA, 1),
        [
            RequestBegun(1, Role.FILTER, False, 0),
            ParamsReceived(1, []),
            StdinReceived(1, b"in"),
            StdinEnded(1),
            DataReceived(1, b"file"),
            DataEnded(1),
        ],
    ),
    "unknown role: params, then streams that mean nothing": (
        begin(1, 77)
        + record(PARAMS, 1, block(METHOD))
        + record(PARAMS, 1)
        + record(DATA, 1, b"x")
        + record(STDIN, 1)
        + record(STDIN, 1, b"x"),
        [RequestBegun(1, 77, False, 0), ParamsReceived(1, [METHOD])],
    ),
    "role 0 is unknown": (begin(1, 0, 1), [RequestBegun(1, 0, True, 1)]),
    "several requests interleaved": (
        begin(1)
        + begin(3)
        + record(PARAMS, 3, block(METHOD)[:4])
        + record(PARAMS, 1, block(LONG)[:60000])
        + record(PARAMS, 3, block(METHOD)[4:])
        + record(PARAMS, 3)
        + record(PARAMS, 1, block(LONG)[60000:])
        + record(STDIN, 3, b"3")
        + record(PARAMS, 1)
        + record(STDIN, 1, b"1")
        + record(STDIN, 3)
        + record(STDIN, 1),
        [
            BEGUN,
            RequestBegun(3, Role.RESPONDER, False, 0),
            ParamsReceived(3, [METHOD]),
            StdinReceived(3, b"3"),
            ParamsReceived(1, [LONG]),
            StdinReceived(1, b"1"),
            StdinEnded(3),
            StdinEnded(1),
        ],
    ),
    "abort in the same read as its beginning, as HAProxy does": (
        begin(1, flags=1) + record(ABORT, 1),
        [RequestBegun(1, Role.RESPONDER, True, 1), RequestAborted(1)],
    ),
    "abort inside the params": (
        begin(1) + record(PARAMS, 1, b"\x0e") + record(ABORT, 1) + record(PARAMS, 1),
        [BEGUN, RequestAborted(1)],
    ),
    "abort after the whole request": (
        get(1) + record(ABORT, 1),
        [BEGUN, ParamsReceived(1, []), StdinEnded(1), RequestAborted(1)],
    ),
    "nothing follows an abort": (
        begin(1)
        + record(PARAMS, 1)
        + record(ABORT, 1)
        + record(STDIN, 1, b"x")
        + record(ABORT, 1),
        [BEGUN, ParamsReceived(1, []), RequestAborted(1)],
    ),
    "stdin ended twice": (
        get(1) + record(STDIN, 1),
        [BEGUN, ParamsReceived(1, []), StdinEnded(1)],
    ),
    "records for an ID that never began": (
        record(PARAMS, 2, b"garbage") + record(STDIN, 9) + record(ABORT, 9) + begin(1),
        [BEGUN],
    ),
    "values asked for": (
        record(GET_VALUES, 0, block((b"FCGI_MAX_REQS", b""), (b"X", b"y"))),
        [ValuesRequested([b"FCGI_MAX_REQS", b"X"])],
    ),
    "unknown management records": (record(200, 0, b"?", b"p") + record(BEGIN, 0, b"z"), []),
}


@pytest.mark.parametrize("name", STREAMS)
def test_bytes_make_events(name: str) -> None:
    stream, events = STREAMS[name]
    assert feed(application(), [stream]) == events
    assert feed(application(), cut(stream, range(0, len(stream), 7919))) == events
    assert feed(application(), one_by_one(stream)) == events


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_taken(kind: type[bytearray] | type[memoryview]) -> None:
    stream, events = STREAMS["body in several records"]
    got = application().receive_data(kind(stream))
    assert [event for event in got if isinstance(event, StdinReceived)] == [
        StdinReceived(1, b"one"),
        StdinReceived(1, b"two"),
    ]
    assert feed(application(), [stream]) == events


def test_a_read_of_nothing_is_nothing() -> None:
    assert application().receive_data(b"") == []


ERRORS: dict[str, tuple[bytes, str, int | None]] = {
    "begin twice": (begin(4) + begin(4), "FCGI_BEGIN_REQUEST for request 4", 4),
    "begin again after an abort": (begin(4) + record(ABORT, 4) + begin(4), "ABORTED", 4),
    "stdin before the params end": (begin(4) + record(STDIN, 4, b"x"), "FCGI_STDIN for", 4),
    "empty stdin before the params end": (begin(4) + record(STDIN, 4), r"FCGI_STDIN \(empty\)", 4),
    "params after their end": (get(4) + record(PARAMS, 4, b"\0\0"), "FCGI_PARAMS for", 4),
    "params ended twice": (get(4) + record(PARAMS, 4), r"FCGI_PARAMS \(empty\) for", 4),
    "stdin after its end": (get(4) + record(STDIN, 4, b"x"), "in state SENT", 4),
    "body for an authorizer": (get(4, role=2) + record(STDIN, 4, b"x"), "in state SENT", 4),
    "data for a responder": (get(4) + record(DATA, 4, b"x"), "FCGI_DATA for", 4),
    "data before stdin ends": (
        begin(4, 3) + record(PARAMS, 4) + record(DATA, 4, b"x"),
        "FILTER_STDIN",
        4,
    ),
    "an application's record": (begin(4) + record(STDOUT, 4, b"x"), "FCGI_STDOUT for", 4),
    "an application's end": (begin(4) + end(4), "FCGI_END_REQUEST for", 4),
    "unknown type for an active request": (begin(4) + record(99, 4), "a record of type 99", 4),
    "management type for an active request": (begin(4) + record(9, 4), "FCGI_GET_VALUES", 4),
    "abort with content": (
        begin(4) + record(ABORT, 4, b"x"),
        "FCGI_ABORT_REQUEST with content",
        4,
    ),
    "pair cut off": (
        begin(4) + record(PARAMS, 4, b"\5\5abc") + record(PARAMS, 4),
        "params of request 4: a block of 5 bytes of name-value pairs ends inside a pair",
        4,
    ),
    "values cut off": (record(GET_VALUES, 0, b"\5"), "management record: a block of 1 byte", 0),
    "version 0": (b"\0" * 8, "version 0, expected 1", None),
    "HTTP": (b"GET / HTTP/1.1\r\n", "version 71, expected 1", None),
}


@pytest.mark.parametrize("pieces", [lambda data: [data], one_by_one], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", ERRORS)
def test_what_is_not_fastcgi_is_refused_and_nothing_taken_after_it(
    name: str, pieces: Callable[[bytes], list[bytes]]
) -> None:
    stream, message, request_id = ERRORS[name]
    connection = application()
    with pytest.raises(ProtocolError, match=message) as caught:
        feed(connection, pieces(stream))
    assert caught.value.request_id == request_id
    with pytest.raises(ProtocolError, match=message) as again:
        connection.receive_data(get(9))
    assert (again.value.request_id, again.value.events) == (request_id, ())


def test_what_came_before_the_offence_still_counts() -> None:
    for offence in (begin(1), b"GET / HTTP/1.1"):
        with pytest.raises(ProtocolError) as caught:
            application().receive_data(get(1, METHOD) + offence)
        assert caught.value.events == [BEGUN, ParamsReceived(1, [METHOD]), StdinEnded(1)]


# The end of the connection


@pytest.mark.parametrize(
    ("stream", "truncated"),
    [(b"", False), (get(1), False), (begin(1), False), (get(1)[:-1], True), (begin(1)[:9], True)],
)
def test_eof_says_whether_a_record_was_cut(stream: bytes, truncated: bool) -> None:
    connection = application()
    connection.receive_data(stream)
    assert connection.inside_record == truncated
    assert connection.receive_eof() == [ConnectionEnded(truncated)]
    assert connection.receive_eof() == []
    with pytest.raises(LocalProtocolError, match="after the end"):
        connection.receive_data(b"x")


def test_a_request_can_be_answered_after_eof() -> None:
    """A front end may half-close its connection once the request is out."""
    connection = application()
    connection.receive_data(get(1))
    connection.receive_eof()
    connection.send_stdout(1, b"x")
    connection.end_request(1)
    assert sent(connection) == record(STDOUT, 1, b"x") + record(STDOUT, 1) + end(1)


# Answers


def begun(*ids: int) -> Connection:
    connection = application()
    for request_id in ids:
        connection.receive_data(begin(request_id))
    return connection


def test_an_answer() -> None:
    connection = begun(1)
    connection.send_stdout(1, b"head")
    connection.send_stdout(1, b"")
    connection.send_stdout(1, b"body")
    connection.end_request(1)
    expected = record(STDOUT, 1, b"head") + record(STDOUT, 1, b"body") + record(STDOUT, 1) + end(1)
    assert connection.out_size == len(expected)
    assert sent(connection) == expected
    assert connection.out_size == 0
    assert connection.data_to_send() == []


@pytest.mark.parametrize("request_id", [1, 255, 256, 65535])
def test_the_end_closes_stdout(request_id: int) -> None:
    connection = begun(request_id)
    connection.end_request(request_id)
    assert sent(connection) == record(STDOUT, request_id) + end(request_id)


@pytest.mark.parametrize(
    ("app_status", "protocol_status"),
    [(1, ProtocolStatus.REQUEST_COMPLETE), (0, ProtocolStatus.UNKNOWN_ROLE), (2**32 - 1, 255)],
)
def test_the_end_carries_both_statuses(app_status: int, protocol_status: int) -> None:
    connection = begun(1)
    connection.end_request(1, app_status, protocol_status)
    assert sent(connection) == record(STDOUT, 1) + end(1, app_status, protocol_status)


def test_a_protocol_status_that_does_not_fit_ends_nothing() -> None:
    connection = begun(1)
    with pytest.raises(ValueError, match="256"):
        connection.end_request(1, 0, 256)
    assert connection.is_active(1)
    connection.end_request(1)
    assert sent(connection) == record(STDOUT, 1) + end(1)


@pytest.mark.parametrize("request_id", [1, 255, 256, 65535])
@pytest.mark.parametrize("before", [b"", b"a head"])
@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"", b""),
        (b"head", b""),
        (b"", b"body"),
        (b"head", b"body"),
        (bytearray(b"head"), b"body"),
        (memoryview(b"head"), b""),
        (b"h" * 384, b"b" * 16_000),
        (b"h" * 385, b"b" * 16_000),
        (b"h" * 70_000, b""),
        (b"h", b"b" * 70_000),
    ],
)
@pytest.mark.parametrize("log", [b"", b"a line\n"])
def test_the_last_of_a_response_is_the_same_as_its_bytes_and_then_the_end(
    request_id: int, before: bytes, data: bytes, rest: bytes, log: bytes
) -> None:
    outputs = []
    for at_once in (False, True):
        connection = application()
        connection.receive_data(get(request_id))
        connection.send_stdout(request_id, before)
        connection.send_stderr(request_id, log)
        if at_once:
            connection.send_last(request_id, data, rest)
        else:
            connection.send_stdout(request_id, bytes(data) + rest)
            connection.end_request(request_id)
        assert not connection.is_active(request_id)
        size = connection.out_size
        outputs.append(sent(connection))
        assert size == len(outputs[-1])
    assert outputs[0] == outputs[1]


def test_a_small_last_of_a_response_is_one_chunk() -> None:
    connection = application()
    connection.receive_data(get(1))
    connection.send_last(1, b"head", b"body")
    assert len(connection.data_to_send()) == 1


def test_the_last_of_a_response_is_refused_where_its_bytes_are() -> None:
    connection = application()
    with pytest.raises(LocalProtocolError, match="cannot answer request 70000: it is not active"):
        connection.send_last(70_000, b"x")
    connection.receive_data(get(1))
    connection.end_stdout(1)
    before = sent(connection)
    with pytest.raises(LocalProtocolError, match=r"FCGI_STDOUT .*in state ANSWERED"):
        connection.send_last(1, b"x")
    assert connection.is_active(1)
    connection.send_last(1, b"")
    assert before + sent(connection) == record(STDOUT, 1) + end(1)


def test_a_request_that_ends_in_one_step_counts_no_more() -> None:
    connection = Connection(Side.APPLICATION, max_params_total=100)
    for request_id in range(1, 20):
        pairs = (b"REQUEST_METHOD", b"G" * 60)
        events = connection.receive_data(get(request_id, pairs))
        assert ParamsReceived(request_id, [pairs]) in events
        connection.send_last(request_id, b"x")


def test_the_end_closes_stderr_only_if_it_was_used() -> None:
    connection = begun(1, 2)
    connection.send_stderr(1, b"")
    connection.end_request(1)
    assert sent(connection) == record(STDOUT, 1) + end(1)
    connection.send_stderr(2, b"log")
    connection.end_request(2)
    closing = record(STDOUT, 2) + record(STDERR, 2, padding=bytes(8)) + end(2)
    assert sent(connection) == record(STDERR, 2, b"log", bytes(5)) + closing


def test_the_end_does_not_close_stdout_again() -> None:
    connection = begun(1)
    connection.send_stderr(1, b"log")
    connection.end_stdout(1)
    connection.end_request(1)
    assert sent(connection) == (
        record(STDERR, 1, b"log", bytes(5))
        + record(STDOUT, 1)
        + record(STDERR, 1, padding=bytes(8))
        + end(1)
    )


@pytest.mark.parametrize("size", [1, 7, 8, 9, 65_527, 65_528, 70_000])
def test_every_stderr_record_ends_in_padding(size: int) -> None:
    connection = begun(1)
    connection.send_stderr(1, bytes(size))
    stream = sent(connection)
    contents = 0
    while stream:
        version, kind, _, length, padding, _ = struct.unpack_from("!BBHHBB", stream)
        assert (version, kind) == (1, STDERR)
        assert 1 <= padding <= 8
        assert (length + padding) % 8 == 0
        contents += length
        stream = stream[8 + length + padding :]
    assert contents == size


def test_an_early_answer_makes_the_rest_of_the_request_late() -> None:
    """§6.2: the answer need not wait for stdin; §3.3: what still comes is ignored."""
    connection = application()
    connection.receive_data(begin(1) + record(PARAMS, 1) + record(STDIN, 1, bytes(100))[:20])
    connection.end_request(1)
    assert connection.open_requests == 0
    rest = record(STDIN, 1, bytes(100))[20:] + record(STDIN, 1, b"late") + record(STDIN, 1)
    assert connection.receive_data(rest + record(ABORT, 1)) == []
    assert connection.receive_data(begin(1)) == [BEGUN]


def test_an_answer_may_even_come_before_the_params() -> None:
    connection = begun(1)
    connection.receive_data(record(PARAMS, 1, b"\5"))
    connection.end_request(1, 0, ProtocolStatus.OVERLOADED)
    assert connection.receive_data(record(PARAMS, 1) + record(STDIN, 1)) == []


def test_answers_are_interleaved_as_they_are_given() -> None:
    connection = begun(1, 3)
    connection.send_stdout(3, b"3")
    connection.send_stdout(1, b"1")
    connection.end_request(3)
    assert [connection.is_active(request_id) for request_id in (1, 2, 3)] == [True, False, False]
    assert connection.open_requests == 1
    connection.end_request(1)
    assert sent(connection) == (
        record(STDOUT, 3, b"3")
        + record(STDOUT, 1, b"1")
        + (record(STDOUT, 3) + end(3))
        + (record(STDOUT, 1) + end(1))
    )


@pytest.mark.parametrize("size", [16384, 16385, 65535, 65536, 131070, 200_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_long_content_is_cut_into_records(size: int, kind: type[bytes]) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    connection = begun(7)
    connection.send_stdout(7, kind(data[:size]))
    expected = b"".join(
        record(STDOUT, 7, data[start : min(start + 65535, size)])
        for start in range(0, size, 65535)
    )
    assert connection.out_size == len(expected)
    assert sent(connection) == expected


def test_long_bytes_are_not_copied() -> None:
    data = bytes(200_000)
    connection = begun(1)
    connection.send_stdout(1, data)
    connection.send_stdout(1, memoryview(data)[100_000:])
    views = [chunk for chunk in connection.data_to_send() if isinstance(chunk, memoryview)]
    assert [view.obj is data for view in views] == [True] * 5
    assert [len(view) for view in views] == [65535, 65535, 65535, 65535, 34465]


def test_a_header_is_joined_to_the_small_end_of_what_is_queued() -> None:
    connection = begun(1)
    piece = bytes(range(256)) * 256
    for _ in range(3):
        connection.send_stdout(1, piece)
    connection.send_stdout(1, b"e" * 20_000)
    chunks = connection.data_to_send()
    expected = 3 * (record(STDOUT, 1, piece[:65535]) + record(STDOUT, 1, piece[65535:]))
    assert b"".join(chunks) == expected + record(STDOUT, 1, b"e" * 20_000)
    assert [len(chunk) for chunk in chunks] == [8, 65535, 17, 65535, 17, 65535, 17, 20_000]


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_can_change_is_copied(size: int) -> None:
    connection = begun(1)
    data = bytearray(b"a" * size)
    connection.send_stdout(1, data)
    connection.send_stdout(1, memoryview(data))
    data[:] = b"b" * size
    data.clear()
    assert b"b" not in sent(connection)


def test_a_view_of_wider_items_is_sent_as_its_bytes() -> None:
    connection = begun(1)
    words = memoryview(b"\1\0\0\0" * 10_000).cast("I")
    connection.send_stdout(1, words)
    connection.send_stdout(1, memoryview(b"abcdef")[::2])
    assert sent(connection) == record(STDOUT, 1, b"\1\0\0\0" * 10_000) + record(STDOUT, 1, b"ace")


@pytest.mark.parametrize("data", [b"", b"x"])
def test_nothing_can_be_sent_for_an_inactive_request(data: bytes) -> None:
    connection = begun(1)
    connection.end_request(1)
    connection.data_to_send()
    with pytest.raises(LocalProtocolError, match="answer request 1: it is not active"):
        connection.send_stdout(1, data)
    with pytest.raises(LocalProtocolError, match="answer request 1: it is not active"):
        connection.send_stderr(1, data)
    with pytest.raises(LocalProtocolError, match="end request 1: it is not active"):
        connection.end_request(1)
    assert connection.out_size == 0


def test_the_application_cannot_play_the_front_end() -> None:
    connection = begun(1)
    with pytest.raises(LocalProtocolError, match="application side cannot begin request 2"):
        connection.begin_request(2)
    with pytest.raises(LocalProtocolError, match="application side cannot send for request 1"):
        connection.send_params(1, [])
    with pytest.raises(LocalProtocolError, match="application side cannot ask"):
        connection.get_values([b"X"])
    assert connection.out_size == 0


# Management records, §4


VALUES = {b"FCGI_MAX_CONNS": b"100", b"FCGI_MAX_REQS": b"200", b"FCGI_MPXS_CONNS": b"1"}


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ([], []),
        ([b"FCGI_MPXS_CONNS"], [b"FCGI_MPXS_CONNS"]),
        ([b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"], [b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"]),
        ([b"FCGI_MAX_CONNS", b"NO_SUCH", b""], [b"FCGI_MAX_CONNS"]),
        ([b"FCGI_MAX_REQS"] * 3, [b"FCGI_MAX_REQS"]),
    ],
)
def test_values_are_answered(asked: list[bytes], answer: list[bytes]) -> None:
    connection = Connection(Side.APPLICATION, values=VALUES)
    question = record(GET_VALUES, 0, block(*((name, b"") for name in asked)))
    assert connection.receive_data(question) == [ValuesRequested(asked)]
    expected = record(GET_VALUES_RESULT, 0, block(*((name, VALUES[name]) for name in answer)))
    assert sent(connection) == expected


def test_without_values_the_answer_is_empty() -> None:
    connection = application()
    connection.receive_data(record(GET_VALUES, 0, block((b"FCGI_MAX_CONNS", b""))))
    assert sent(connection) == record(GET_VALUES_RESULT, 0)


def test_values_that_no_record_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        Connection(Side.APPLICATION, values={b"X": bytes(4096)})


@pytest.mark.parametrize("kind", [0, BEGIN, PARAMS, GET_VALUES_RESULT, 12, 255])
def test_an_unknown_management_type_is_answered_and_not_fatal(kind: int) -> None:
    connection = application()
    assert connection.receive_data(record(kind, 0, b"content") + get(1, METHOD))[1:] == [
        ParamsReceived(1, [METHOD]),
        StdinEnded(1),
    ]
    assert sent(connection) == record(UNKNOWN_TYPE, 0, bytes([kind]) + bytes(7))


def test_an_unknown_type_record_is_not_answered_by_another() -> None:
    connection = application()
    assert connection.receive_data(record(UNKNOWN_TYPE, 0, bytes(8))) == []
    assert connection.out_size == 0
