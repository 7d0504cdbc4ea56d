"""Records written by hand, and events made comparable: what the protocol tests share.

The numbers are spelled out here instead of taken from trifcgi, so that a wrong constant there
shows.
"""

import itertools
import struct
from collections.abc import Iterable

from hypothesis import settings

from trifcgi.protocol import (
    Connection,
    DataReceived,
    Event,
    Side,
    StderrReceived,
    StdinReceived,
    StdoutReceived,
)

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, DATA = range(1, 9)
GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = 9, 10, 11

STREAM_EVENTS = (StdinReceived, DataReceived, StdoutReceived, StderrReceived)

# The same examples every time: what CI finds, a developer finds too.
EXAMPLES = settings(deadline=None, derandomize=True, print_blob=True, max_examples=100)


def record(kind: int, request_id: int, content: bytes = b"", padding: bytes = b"") -> bytes:
    return (
        struct.pack("!BBHHBB", 1, kind, request_id, len(content), len(padding), 0)
        + content
        + padding
    )


def begin(request_id: int, role: int = 1, flags: int = 0) -> bytes:
    return record(BEGIN, request_id, struct.pack("!HB5x", role, flags))


def end(request_id: int, app_status: int = 0, protocol_status: int = 0) -> bytes:
    return record(END, request_id, struct.pack("!IB3x", app_status, protocol_status))


def pair(name: bytes, value: bytes) -> bytes:
    return _length(name) + _length(value) + name + value


def _length(data: bytes) -> bytes:
    size = len(data)
    return bytes([size]) if size < 128 else struct.pack("!I", size | 1 << 31)


def block(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(pair(name, value) for name, value in pairs)


def get(request_id: int, *pairs: tuple[bytes, bytes], role: int = 1, flags: int = 0) -> bytes:
    """A whole request without a body."""
    params = record(PARAMS, request_id, block(*pairs)) if pairs else b""
    return (
        begin(request_id, role, flags)
        + params
        + record(PARAMS, request_id)
        + record(STDIN, request_id)
    )


def application() -> Connection:
    return Connection(Side.APPLICATION)


def front_end() -> Connection:
    return Connection(Side.FRONT_END)


def sent(connection: Connection) -> bytes:
    """Everything that waits in the output, joined."""
    return b"".join(connection.data_to_send())


def feed(connection: Connection, pieces: Iterable[bytes]) -> list[Event]:
    """Receive piece by piece; the events of all, merged."""
    events: list[Event] = []
    for piece in pieces:
        events += connection.receive_data(piece)
    return merged(events)


def merged(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring events of the same stream: reads cut them anywhere."""
    result: list[Event] = []
    parts: list[bytes] = []  # of the last event, while it is one of a stream
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, STREAM_EVENTS)
            and isinstance(last, STREAM_EVENTS)
            and type(event) is type(last)
            and event.request_id == last.request_id
        ):
            parts.append(event.data)
            continue
        _close(last, parts)
        if isinstance(event, STREAM_EVENTS):
            parts = [event.data]
            event = type(event)(event.request_id, b"")
        result.append(event)
    _close(result[-1] if result else None, parts)
    return result


def _close(last: Event | None, parts: list[bytes]) -> None:
    if isinstance(last, STREAM_EVENTS):
        last.data = b"".join(parts)


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The pieces of ``data`` between those places."""
    places = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]
