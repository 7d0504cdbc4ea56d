"""A request that comes in one read means what it means in two, whatever is odd about it."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.wire import (
    ABORT,
    BEGIN,
    EXAMPLES,
    GET_VALUES,
    PARAMS,
    STDIN,
    begin,
    block,
    cut,
    get,
    merged,
    record,
    sent,
)
from trifcgi.protocol import Connection, Event, LocalProtocolError, ProtocolError, Side
from trifcgi.protocol.pairs import COMPILED
from trifcgi.protocol.receiver import Receiver

METHOD = (b"REQUEST_METHOD", b"GET")
BLOCK = block(METHOD, (b"REQUEST_URI", b"/" * 200))

REQUESTS = {
    "not kept": get(1, METHOD),
    "kept": get(1, METHOD, flags=1),
    "other flags": get(1, METHOD, flags=3),
    "no params": get(1, flags=1),
    "params of one byte": begin(1) + record(PARAMS, 1, b"\0") + get(1)[16:],
    "authorizer": get(1, METHOD, role=2),
    "filter": get(1, METHOD, role=3),
    "unknown role": get(1, METHOD, role=4),
    "another ID": get(2, METHOD),
    "a params record of another ID": begin(1) + record(PARAMS, 2, BLOCK) + get(1)[16:],
    "padding": begin(1) + record(PARAMS, 1, BLOCK, b"\xff" * 255) + get(1)[16:],
    "padding that looks like the end": begin(1)
    + record(PARAMS, 1, BLOCK, get(1)[16:])
    + get(1)[16:],
    "a params record that swallows the end": begin(1) + record(PARAMS, 1, BLOCK + get(1)[16:]),
    "padding that swallows the end": begin(1) + record(PARAMS, 1, BLOCK, get(1)[16:]),
    "padding of the beginning": record(BEGIN, 1, struct.pack("!HB5x", 1, 1), b"p")
    + record(PARAMS, 1, BLOCK)
    + get(1)[16:],
    "padding of an empty record": get(1, METHOD)[:-8] + record(STDIN, 1, b"", b"pp"),
    "reserved bytes": get(1, METHOD)[:-1] + b"x",
    "params in two records": begin(1)
    + record(PARAMS, 1, BLOCK[:40])
    + record(PARAMS, 1, BLOCK[40:])
    + get(1)[16:],
    "65,535 bytes": begin(1)
    + record(PARAMS, 1, b"\1\x80\0\xff\xf9A" + bytes(65529))
    + get(1)[16:],
    "a body": get(1, METHOD)[:-8] + record(STDIN, 1, b"body") + record(STDIN, 1),
    "no end": get(1, METHOD)[:-8],
    "half an end": get(1, METHOD)[:-4],
    "two requests": get(1, METHOD) + get(2, METHOD),
    "a request and half of another": get(1, METHOD) + begin(2)[:5],
    "an abort": get(1, METHOD) + record(ABORT, 1),
    "a second end": get(1, METHOD) + record(STDIN, 1),
    "nothing but its end": get(1)[16:],
    "two ends": get(1)[16:] + get(1)[16:],
    "params that end inside a pair": begin(1) + record(PARAMS, 1, BLOCK[:-1]) + get(1)[16:],
    "params that end inside a length": begin(1) + record(PARAMS, 1, b"\x80") + get(1)[16:],
    "too large": get(1, (b"A", bytes(70_000)[:65_000])),
    "too many": get(1, *[(b"", b"")] * 20),
    "version 2": b"\2" + get(1, METHOD)[1:],
    "params of version 2": get(1, METHOD)[:16] + b"\2" + get(1, METHOD)[17:],
}

Result = tuple[list[Event], object, bool, int]


def limited() -> Connection:
    return Connection(Side.APPLICATION, max_params=66_000, max_params_total=66_000, max_pairs=16)


def fed(connection: Connection, *pieces: bytes) -> Result:
    """What comes of them: events, error, and the state that they leave."""
    events: list[Any] = []
    error: object = None
    try:
        for piece in pieces:
            events += connection.receive_data(piece)
    except ProtocolError as failure:
        events += failure.events
        error = (str(failure), failure.request_id)
    return merged(events), error, connection.inside_record, connection.open_requests


def lives(connection: Connection) -> list[object]:
    """All that can be seen of it by what it does next."""
    seen: list[object] = [connection.is_active(1)]
    if connection.is_active(1):
        seen.append(fed(connection, record(STDIN, 1)))
        connection.send_stdout(1, b"answer")
        connection.end_request(1)
        seen.append(sent(connection))
    # All that was counted is free again, for one request only.
    large = begin(3) + record(PARAMS, 3, b"\1\x80\0\xff\xf9A" + bytes(65529)) + get(3)[16:]
    more = (large, get(1, METHOD), record(STDIN, 1, b"late"), record(ABORT, 1))
    return [*seen, *[fed(connection, each) for each in more]]


@pytest.mark.parametrize("name", REQUESTS)
def test_one_read_means_what_two_do(name: str) -> None:
    request = REQUESTS[name]
    whole = limited()
    expected = fed(whole, request)
    then = lives(whole)
    for at in {*range(1, min(60, len(request))), *range(max(1, len(request) - 40), len(request))}:
        connection = limited()
        assert fed(connection, *cut(request, [at])) == expected
        assert lives(connection) == then


@given(data=st.data())
@EXAMPLES
def test_one_read_means_what_two_do_with_any_byte_changed(data: st.DataObject) -> None:
    request = bytearray(get(1, METHOD, flags=1))
    at = data.draw(st.integers(0, len(request) - 1))
    request[at] = data.draw(st.integers(0, 255))
    whole, pieces = limited(), limited()
    assert fed(whole, bytes(request)) == fed(pieces, *cut(bytes(request), [3]))
    assert lives(whole) == lives(pieces)


@pytest.mark.parametrize(
    "before",
    [
        begin(2),
        begin(1) + record(PARAMS, 1, BLOCK),
        get(1, METHOD),
        record(PARAMS, 7, bytes(1000))[:-500],
        record(PARAMS, 7, b"x", bytes(255))[:-120],
        record(GET_VALUES, 0, bytes(4000))[:-1000],
        begin(1)[:5],
        begin(1)[:12],
        b"\2" + begin(1)[1:],
    ],
)
def test_it_means_the_same_in_the_middle_of_something_else(before: bytes) -> None:
    request = get(1, METHOD, flags=1)
    whole, pieces = limited(), limited()
    assert fed(whole, before, request) == fed(pieces, before, request[:3], request[3:])
    assert lives(whole) == lives(pieces)


listens = pytest.mark.skipif(COMPILED, reason="a compiled receiver has no subclass in Python")


class Listing(Receiver):
    """Lists what it is told, and ends requests when they begin, if it is to refuse them."""

    def __init__(self, refuses: bool = False) -> None:
        self.told: list[str] = []
        self.refuses = refuses
        self.connection = Connection(Side.APPLICATION, max_params_total=len(BLOCK), receiver=self)

    def request_begun(self, request_id: int, role: int, keep_connection: bool, flags: int) -> None:
        self.told.append("begun")
        if self.refuses:
            self.connection.end_request(request_id, 0, 3)

    def request_received(
        self,
        request_id: int,
        role: int,
        keep_connection: bool,
        flags: int,
        block: bytes,
    ) -> None:
        self.told.append(f"received {request_id} {role} {keep_connection} {flags} {block!r}")
        if self.refuses:
            self.connection.end_request(request_id, 0, 3)


@listens
@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("padding", [b"", b"x", b"\xff" * 255])
def test_a_whole_request_is_told_at_once(flags: int, padding: bytes) -> None:
    listing = Listing()
    request = begin(1, flags=flags) + record(PARAMS, 1, BLOCK, padding) + get(1)[16:]
    listing.connection.deliver(request)
    assert listing.told == [f"received 1 1 {flags == 1} {flags} {BLOCK!r}"]


@listens
def test_a_request_that_is_refused_leaves_nothing() -> None:
    listing = Listing(refuses=True)
    for _ in range(3):
        listing.connection.deliver(begin(1) + record(PARAMS, 1, BLOCK) + get(1)[16:])
        assert listing.connection.open_requests == 0
    assert len(listing.told) == 3


@listens
def test_what_is_wrong_with_the_params_of_a_request_that_is_refused_does_not_matter() -> None:
    listing = Listing(refuses=True)
    listing.connection.deliver(begin(1) + record(PARAMS, 1, b"\x80") + get(1)[16:])
    assert listing.told == ["begun"]


def test_nothing_comes_after_the_end_of_the_connection() -> None:
    connection = limited()
    connection.receive_eof()
    with pytest.raises(LocalProtocolError, match="after the end"):
        connection.receive_data(get(1, METHOD))
