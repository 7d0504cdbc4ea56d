"""A front end in plain bytes, for what a polite client never does.

It packs and unpacks records itself: a mistake in the project's codec must not cancel out here.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

import trio

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, DATA = range(1, 9)
GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = range(9, 12)
RESPONDER, AUTHORIZER, FILTER = 1, 2, 3
COMPLETE, CANT_MPX_CONN, OVERLOADED, UNKNOWN_ROLE = range(4)

USUAL_PARAMS = [
    ("REQUEST_METHOD", "GET"),
    ("SCRIPT_NAME", "/"),
    ("REQUEST_URI", "/"),
    ("QUERY_STRING", ""),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("SERVER_NAME", "example.test"),
    ("SERVER_PORT", "80"),
    ("REMOTE_ADDR", "127.0.0.1"),
]


class Record(NamedTuple):
    kind: int
    request_id: int
    content: bytes


class Answer(NamedTuple):
    stdout: bytes
    stderr: bytes
    app_status: int
    protocol_status: int
    records: list[Record]

    @property
    def status(self) -> int:
        """The number in the Status header."""
        for line in self.stdout.split(b"\r\n\r\n")[0].split(b"\r\n"):
            if line.lower().startswith(b"status:"):
                return int(line[7:].split()[0])
        raise AssertionError(f"no Status in {self.stdout[:200]!r}")

    @property
    def body(self) -> bytes:
        return self.stdout.partition(b"\r\n\r\n")[2]


def record(kind: int, request_id: int, content: bytes = b"", padding: int = 0) -> bytes:
    header = struct.pack("!BBHHBB", 1, kind, request_id, len(content), padding, 0)
    return header + content + bytes(padding)


def begin(request_id: int = 1, *, role: int = RESPONDER, keep: bool = True) -> bytes:
    return record(BEGIN, request_id, struct.pack("!HB5x", role, int(keep)))


def length(number: int) -> bytes:
    return bytes([number]) if number < 128 else struct.pack("!L", number | 1 << 31)


def pairs(*items: tuple[str, str]) -> bytes:
    encoded = b""
    for name, value in items:
        name_bytes, value_bytes = name.encode(), value.encode()
        encoded += length(len(name_bytes)) + length(len(value_bytes)) + name_bytes + value_bytes
    return encoded


def params(request_id: int = 1, items: Iterable[tuple[str, str]] = USUAL_PARAMS) -> bytes:
    """All params, and their end."""
    return record(PARAMS, request_id, pairs(*items)) + record(PARAMS, request_id)


def stdin(request_id: int = 1, content: bytes = b"") -> bytes:
    return record(STDIN, request_id, content)


def head(request_id: int = 1, *, role: int = RESPONDER, keep: bool = True, **more: str) -> bytes:
    """Begin and params."""
    return begin(request_id, role=role, keep=keep) + params(
        request_id, [*USUAL_PARAMS, *more.items()]
    )


def get(request_id: int = 1, *, keep: bool = True, **more: str) -> bytes:
    """A whole request without a body."""
    return head(request_id, role=RESPONDER, keep=keep, **more) + stdin(request_id)


def abort(request_id: int = 1) -> bytes:
    return record(ABORT, request_id)


class RawFrontEnd:
    """Records in and out over a stream.

    Attributes:
        spoiled: whether the server has ended a response that it had to cut with a record of a
            version that does not exist, so that no front end takes it for whole.
        may_be_cut: whether the connection may end inside a record, as one does whose peer does
            not read.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.spoiled = False
        self.may_be_cut = False
        self._buffer = bytearray()

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def receive(self) -> Record | None:
        """The next record, or ``None`` at the end of the stream."""
        while (record := self._take()) is None:
            data = b"" if self.spoiled else await self.stream.receive_some(65536)
            if not data:
                whole = not self._buffer
                assert whole or self.may_be_cut, (
                    f"the connection ended inside a record: {self._buffer!r}"
                )
                return None
            self._buffer += data
        return record

    def _take(self) -> Record | None:
        if len(self._buffer) < 8:
            return None
        version, kind, request_id, size, padding, _ = struct.unpack_from("!BBHHBB", self._buffer)
        if version == 0:
            assert not any(self._buffer), "more came after the record of version 0"
            self.spoiled = True
            self._buffer.clear()
            return None
        assert version == 1
        if len(self._buffer) < 8 + size + padding:
            return None
        content = bytes(self._buffer[8 : 8 + size])
        del self._buffer[: 8 + size + padding]
        return Record(kind, request_id, content)

    async def answer(self, request_id: int = 1) -> Answer:
        """Read until that request has ended; other records must not come."""
        stdout = stderr = b""
        records = []
        while True:
            record = await self.receive()
            assert record is not None, "the connection ended before the request"
            assert record.request_id == request_id, record
            records.append(record)
            if record.kind == STDOUT:
                stdout += record.content
            elif record.kind == STDERR:
                stderr += record.content
            else:
                assert record.kind == END, record
                app_status, protocol_status = struct.unpack("!LB3x", record.content)
                return Answer(stdout, stderr, app_status, protocol_status, records)

    async def answers(self, *request_ids: int) -> dict[int, Answer]:
        """Read until all those requests have ended, however they interleave."""
        records: dict[int, list[Record]] = {request_id: [] for request_id in request_ids}
        answers: dict[int, Answer] = {}
        while len(answers) < len(records):
            record = await self.receive()
            assert record is not None, "the connection ended before the requests"
            assert record.request_id not in answers, f"{record} after its END_REQUEST"
            records[record.request_id].append(record)
            if record.kind == END:
                answers[record.request_id] = gather(records[record.request_id])
        return answers

    async def rest(self) -> list[Record]:
        """All records until the server closes."""
        records = []
        while (record := await self.receive()) is not None:
            records.append(record)
        return records


def gather(records: list[Record]) -> Answer:
    """The answer that those records of one request make."""
    app_status, protocol_status = struct.unpack("!LB3x", records[-1].content)
    return Answer(
        b"".join(record.content for record in records if record.kind == STDOUT),
        b"".join(record.content for record in records if record.kind == STDERR),
        app_status,
        protocol_status,
        records,
    )
