"""Any split of a valid stream gives the same events; any bytes give events or ProtocolError."""

from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.wire import (
    ABORT,
    DATA,
    END,
    EXAMPLES,
    GET_VALUES,
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
    front_end,
    merged,
    one_by_one,
    record,
    sent,
)
from trifcgi.protocol import Connection, Event, ProtocolError

IDS = [1, 2, 65535]

contents = st.one_of(
    st.binary(min_size=1, max_size=12), st.sampled_from([b"c" * 300, b"c" * 65535])
)
paddings = st.one_of(st.just(b""), st.binary(max_size=8), st.just(b"\xff" * 255))
pairs = st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=200)), max_size=4)
management = st.one_of(
    st.builds(lambda names: record(GET_VALUES, 0, block(*names)), pairs),
    st.builds(lambda kind, data: record(kind, 0, data), st.integers(12, 255), contents),
)


@st.composite
def stream_records(draw: st.DrawFn, kind: int, request_id: int, data: bytes) -> list[bytes]:
    """A stream's records with ``data`` cut anywhere, then its end."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=4))
    pieces = [piece for piece in cut(data, places) if piece]
    records = [record(kind, request_id, piece, draw(paddings)) for piece in pieces]
    return [*records, record(kind, request_id, b"", draw(paddings))]


@st.composite
def request_records(draw: st.DrawFn, request_id: int) -> list[bytes]:
    """What a front end sends for one request: whole, stopped anywhere, or aborted."""
    role = draw(st.sampled_from([1, 1, 1, 2, 3, 50]))
    records = [begin(request_id, role, draw(st.integers(0, 255)))]
    records += draw(stream_records(PARAMS, request_id, block(*draw(pairs))))
    if role != 2:
        records += draw(stream_records(STDIN, request_id, draw(contents)))
    if role == 3:
        records += draw(stream_records(DATA, request_id, draw(contents)))
    if draw(st.booleans()):
        return records
    stopped = records[: draw(st.integers(1, len(records)))]
    return [*stopped, record(ABORT, request_id)] if draw(st.booleans()) else stopped


@st.composite
def answer_records(draw: st.DrawFn, request_id: int) -> list[bytes]:
    """What an application sends for one request, and what comes late."""
    records = draw(st.lists(st.sampled_from([STDOUT, STDERR]), max_size=4))
    answer = [record(kind, request_id, draw(contents), draw(paddings)) for kind in records]
    status = draw(st.integers(0, 2**32 - 1))
    late = record(STDOUT, request_id, b"late")
    return [
        *answer,
        record(STDOUT, request_id),
        end(request_id, status, draw(st.integers(0, 255))),
        late,
    ]


@st.composite
def interleaved(
    draw: st.DrawFn, queues: list[list[bytes]], others: st.SearchStrategy[bytes]
) -> bytes:
    """The queues merged into one stream, each in its order, with other records between."""
    stream = []
    queues = [list(queue) for queue in queues]
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        stream.append(queue.pop(0))
        if draw(st.integers(0, 9)) == 0:
            stream.append(draw(others))
    return b"".join(stream)


@st.composite
def to_the_application(draw: st.DrawFn) -> bytes:
    queues = [draw(request_records(i)) for i in IDS[: draw(st.integers(1, 3))]]
    late = st.sampled_from([record(STDIN, 9, b"x"), record(77, 9), record(ABORT, 9)])
    return draw(interleaved(queues, st.one_of(management, late)))


@st.composite
def to_the_front_end(draw: st.DrawFn) -> bytes:
    queues = [draw(answer_records(i)) for i in IDS[: draw(st.integers(1, 3))]]
    results = st.builds(lambda values: record(10, 0, block(*values)), pairs)
    refused = st.builds(
        lambda kind: record(UNKNOWN_TYPE, 0, bytes([kind, *bytes(7)])), st.integers(0, 255)
    )
    return draw(interleaved(queues, st.one_of(results, refused)))


def asking() -> Connection:
    connection = front_end()
    for request_id in IDS:
        connection.begin_request(request_id)
    connection.data_to_send()
    return connection


def outcome(connection: Connection, pieces: list[bytes]) -> tuple[list[Event], str, bytes]:
    """Merged events, the error if any, and what was answered. Nothing else may be raised."""
    events: list[Event] = []
    answers = b""
    for piece in pieces:
        try:
            events += connection.receive_data(piece)
        except ProtocolError as error:
            events += error.events  # type: ignore[arg-type]
            return merged(events), str(error), answers + sent(connection)
        answers += sent(connection)
    return merged([*events, *connection.receive_eof()]), "", answers


def splits(stream: bytes, data: st.DataObject) -> list[list[bytes]]:
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    ways = [cut(stream, places), [stream[:1], stream[1:]]]
    return [*ways, one_by_one(stream)] if len(stream) < 5000 else ways


@EXAMPLES
@given(to_the_application(), st.data())
def test_splits_of_requests_do_not_matter(stream: bytes, data: st.DataObject) -> None:
    whole = outcome(application(), [stream])
    assert whole[1] == ""
    for pieces in splits(stream, data):
        assert outcome(application(), pieces) == whole


@EXAMPLES
@given(to_the_front_end(), st.data())
def test_splits_of_answers_do_not_matter(stream: bytes, data: st.DataObject) -> None:
    whole = outcome(asking(), [stream])
    assert whole[1:] == ("", b"")
    for pieces in splits(stream, data):
        assert outcome(asking(), pieces) == whole


# Records that may be anything, so that most streams go wrong at some point
careless = st.builds(
    record,
    st.one_of(st.integers(0, 12), st.integers(0, 255)),
    st.sampled_from([0, 1, 1, 2]),
    st.one_of(st.binary(max_size=12), st.just(bytes(8)), st.just(b"\0\1\0\0\0\0\0\0")),
    st.binary(max_size=3),
)
plausible = st.one_of(
    careless,
    st.builds(begin, st.sampled_from([1, 2]), st.integers(0, 4)),
    st.builds(record, st.sampled_from([PARAMS, STDIN, STDOUT, END]), st.sampled_from([1, 2])),
)
garbage = st.one_of(
    st.binary(max_size=60),
    st.lists(plausible, max_size=12).map(b"".join),
    st.builds(
        lambda records, tail: b"".join(records) + tail,
        st.lists(plausible, max_size=5),
        st.binary(max_size=20),
    ),
)


@EXAMPLES
@given(garbage, st.data())
@example(b"\1" * 100, None)
@example(b"\1\x09\0\0\x10\0\0\0" + bytes(4096), None)
def test_any_bytes_give_events_or_a_protocol_error(
    stream: bytes, data: st.DataObject | None
) -> None:
    """And the same ones however they are cut."""
    for make in (application, asking):
        whole = outcome(make(), [stream])
        assert outcome(make(), one_by_one(stream)) == whole
        if data is not None:
            places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
            assert outcome(make(), cut(stream, places)) == whole


@EXAMPLES
@given(to_the_application(), st.integers(0), st.integers(1, 255), st.data())
def test_one_flipped_byte_gives_events_or_a_protocol_error(
    stream: bytes, place: int, change: int, data: st.DataObject
) -> None:
    damaged = bytearray(stream)
    damaged[place % len(stream)] ^= change
    whole = outcome(application(), [bytes(damaged)])
    for pieces in splits(bytes(damaged), data):
        assert outcome(application(), pieces) == whole
