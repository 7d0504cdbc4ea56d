"""Every recorded connection decodes to what its index says, however it is cut."""

import itertools
from collections.abc import Iterable

import attrs
import pytest

from tests.capture_files import Capture, CapturedRequest, load_captures
from tests.protocol.wire import application, cut, feed, front_end, one_by_one, sent
from trifcgi.protocol import (
    ConnectionEnded,
    Event,
    ParamsReceived,
    RecordType,
    RequestAborted,
    RequestBegun,
    Role,
    StdinEnded,
    StdinReceived,
    UnknownTypeReceived,
    ValuesReceived,
    ValuesRequested,
)
from trifcgi.protocol.records import RecordReader

BYTE_BY_BYTE = 64 * 1024  # longer streams come in pieces of mixed small sizes instead

captures = pytest.mark.parametrize("capture", load_captures(), ids=lambda capture: capture.file)


@attrs.define
class Decoded:
    """One request put together from its events, in the index's terms."""

    id: int
    role: str
    keep_connection: bool
    flags: int
    params: list[tuple[bytes, bytes]] = attrs.Factory(list)
    stdin_bytes: int = 0
    stdin_ended: bool = False
    aborted: bool = False

    def add(self, event: Event) -> None:
        match event:
            case ParamsReceived(pairs=pairs):
                assert not self.params
                self.params = pairs
            case StdinReceived(data=data):
                assert not self.stdin_ended
                self.stdin_bytes += len(data)
            case StdinEnded():
                self.stdin_ended = True
            case RequestAborted():
                self.aborted = True
            case _:
                raise AssertionError(f"unexpected {event}")


def decode(turns: Iterable[list[bytes]]) -> tuple[list[Decoded], list[list[bytes]]]:
    """Receive the pieces of each turn; all requests are answered between turns."""
    connection = application()
    requests: list[Decoded] = []
    active: dict[int, Decoded] = {}
    asked: list[list[bytes]] = []
    for pieces in turns:
        for request_id in active:
            connection.end_request(request_id)
        active.clear()
        for event in itertools.chain.from_iterable(map(connection.receive_data, pieces)):
            if isinstance(event, ValuesRequested):
                asked.append(event.names)
            elif isinstance(event, RequestBegun):
                role = str(event.role)
                begun = Decoded(event.request_id, role, event.keep_connection, event.flags)
                requests.append(begun)
                active[event.request_id] = begun
            else:
                assert not isinstance(
                    event, ConnectionEnded | UnknownTypeReceived | ValuesReceived
                )
                active[event.request_id].add(event)
    assert connection.receive_eof() == [ConnectionEnded(truncated=False)]
    return requests, asked


def expected(capture: Capture) -> tuple[list[Decoded], list[list[bytes]]]:
    requests = [_expected(request) for request in capture.requests]
    return requests, [[name for name, _ in pairs] for pairs in capture.get_values]


def _expected(request: CapturedRequest) -> Decoded:
    fields = attrs.asdict(request, recurse=False)
    # The index says whether the record came; for an authorizer it means nothing and is dropped.
    fields["stdin_ended"] = request.stdin_ended and request.role != "AUTHORIZER"
    return Decoded(**fields)


def borders(capture: Capture) -> list[int]:
    """Where each record ends."""
    lengths = [8 + r.content_length + r.padding_length for r in capture.records]
    return list(itertools.accumulate(lengths))


def turns(capture: Capture) -> list[bytes]:
    """The stream, cut where the front end can only have gone on after an answer: before
    a FCGI_BEGIN_REQUEST with an ID that it has used.
    """
    seen: set[int] = set()
    places = []
    for record, start in zip(capture.records, [0, *borders(capture)], strict=False):
        if record.type == "BEGIN_REQUEST":
            if record.request_id in seen:
                places.append(start)
                seen.clear()
            seen.add(record.request_id)
    return cut(capture.data, places)


def small_pieces(data: bytes) -> list[bytes]:
    if len(data) <= BYTE_BY_BYTE:
        return one_by_one(data)
    sizes = itertools.cycle([1, 2, 3, 5, 7, 8, 9, 16, 250, 1021, 4099])
    places = itertools.takewhile(lambda place: place < len(data), itertools.accumulate(sizes))
    return cut(data, places)


def test_all_are_here() -> None:
    assert len(load_captures()) == 535
    assert sum(len(capture.requests) for capture in load_captures()) == 676


@captures
def test_the_index_describes_the_whole_stream(capture: Capture) -> None:
    pieces = RecordReader().receive(capture.data)
    listed = [(r.type, r.request_id, r.content_length) for r in capture.records]
    assert [(str(RecordType(kind)), i, len(content)) for kind, i, content in pieces] == listed
    assert borders(capture)[-1] == len(capture.data)


@captures
def test_whole(capture: Capture) -> None:
    assert decode([turn] for turn in turns(capture)) == expected(capture)


@captures
def test_cut_at_every_record_border(capture: Capture) -> None:
    ends = borders(capture)
    start = 0
    pieces = []
    for turn in turns(capture):
        within = [end - start for end in ends if start < end < start + len(turn)]
        pieces.append(cut(turn, within))
        start += len(turn)
    assert decode(pieces) == expected(capture)


@captures
def test_one_byte_at_a_time(capture: Capture) -> None:
    assert decode(map(small_pieces, turns(capture))) == expected(capture)


@captures
def test_the_body_is_passed_on_unchanged(capture: Capture) -> None:
    whole = _bodies([turn] for turn in turns(capture))
    assert _bodies([turn[:700], turn[700:]] for turn in turns(capture)) == whole
    assert sum(map(len, whole)) == sum(request.stdin_bytes for request in capture.requests)


def _bodies(pieces: Iterable[list[bytes]]) -> list[bytes]:
    connection = application()
    bodies: list[bytes] = []
    for turn in pieces:
        for request_id in range(1, 64):
            if connection.is_active(request_id):
                connection.end_request(request_id)
        events = feed(connection, turn)
        bodies += [event.data for event in events if isinstance(event, StdinReceived)]
    return bodies


@captures
def test_our_front_end_sends_what_the_application_reads_alike(capture: Capture) -> None:
    """Each request, sent again by our own front-end side."""
    for request, known in zip(capture.requests, expected(capture)[0], strict=True):
        again = front_end()
        again.begin_request(request.id, Role[request.role], request.keep_connection)
        if request.params:
            again.send_params(request.id, request.params)
        if known.stdin_bytes:
            again.send_stdin(request.id, bytes(known.stdin_bytes))
        if known.stdin_ended:
            again.end_stdin(request.id)
        if known.aborted:
            again.abort_request(request.id)
        assert decode([[sent(again)]]) == ([known], [])
