"""Outgoing bytes: streams cut into records, and the queue of what waits to be sent."""

from typing import TYPE_CHECKING, Final

from trifcgi.protocol.constants import (
    HEADER_LEN,
    MAX_CONTENT_LENGTH,
    VERSION_1,
    ProtocolStatus,
    RecordType,
)
from trifcgi.protocol.records import pack_end_request, pack_header

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["JOINED_UP_TO", "Output", "end_tail", "plain_tail"]

JOINED_UP_TO: Final = 16 * 1024
"""Content of at most so many bytes is copied behind its header. Up to here the copy is cheaper
than one more element for ``sendmsg``."""

_SMALL: Final = 512

_PADDING: Final = 8
_MAX_PADDED: Final = MAX_CONTENT_LENGTH - MAX_CONTENT_LENGTH % _PADDING - 1

_STDOUT: Final = int(RecordType.STDOUT)
_STDERR: Final = int(RecordType.STDERR)
_VERSION: Final = VERSION_1 << 56
_NO_PADDING: Final = b"\0\0"  # and the reserved byte, behind the length
_COMPLETE: Final = int(ProtocolStatus.REQUEST_COMPLETE)


def _header(record_type: "i64", request_id: "i64", length: "i64") -> bytes:
    """A header without padding, of numbers that fit. Compiled, to shift them together takes less
    than to hand them to struct.
    """
    number: int = _VERSION | record_type << 48 | request_id << 32 | length << 16
    return number.to_bytes(HEADER_LEN, "big")


def _plain_tail(request_id: int) -> bytes:
    return pack_header(_STDOUT, request_id, 0) + pack_end_request(request_id, 0, _COMPLETE)


def _stdout_begin(request_id: int) -> bytes:
    """What a record of stdout begins with, up to the length of its content."""
    return pack_header(_STDOUT, request_id, 0)[:4]


# Front ends count request IDs from 1 up, so these few serve nearly every request, and a hostile
# one that uses all 65,535 makes nothing grow.
_PLAIN_TAILS: Final = [_plain_tail(request_id) for request_id in range(256)]
_STDOUT_BEGINS: Final = [_stdout_begin(request_id) for request_id in range(256)]
_FULL_HEADERS: Final = [
    pack_header(_STDOUT, request_id, MAX_CONTENT_LENGTH) for request_id in range(256)
]


def plain_tail(request_id: int) -> bytes:
    """The last bytes of nearly every answer: no stderr, status 0, complete."""
    return _PLAIN_TAILS[request_id] if request_id < 256 else _plain_tail(request_id)


def end_tail(
    request_id: int, app_status: int, protocol_status: int, *, stdout_open: bool, stderr_open: bool
) -> bytes:
    """Make the last bytes of an answer: the ends of the streams that are open, then
    FCGI_END_REQUEST.
    """
    if stdout_open and not stderr_open and app_status == 0 and protocol_status == _COMPLETE:
        return plain_tail(request_id)
    tail = pack_end_request(request_id, app_status, protocol_status)
    if stderr_open:
        tail = pack_header(_STDERR, request_id, 0, _PADDING) + bytes(_PADDING) + tail
    if stdout_open:
        tail = pack_header(_STDOUT, request_id, 0) + tail
    return tail


def _as_bytes(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Give something that cannot change while it waits in the queue, without a copy where the
    bytes behind it are ``bytes`` anyway.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, memoryview) and isinstance(data.obj, bytes) and data.c_contiguous:
        return data.cast("B")
    return bytes(data)


class Output:
    """The queue of outgoing chunks.

    Attributes:
        chunks: what waits, in order.
        size: bytes in it.
        answers: answers to management records in it, counted by whoever adds them.
    """

    __slots__ = ("answers", "chunks", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes | memoryview] = []
        self.size = 0
        self.answers = 0

    def drain(self) -> list[bytes | memoryview]:
        """Take everything out."""
        chunks = self.chunks
        self.chunks = []
        self.size = 0
        self.answers = 0
        return chunks

    def add(self, chunk: bytes) -> None:
        """Queue finished records."""
        self.chunks.append(chunk)
        self.size += len(chunk)

    def add_stream(
        self, record_type: "i64", request_id: "i64", data: bytes | bytearray | memoryview
    ) -> None:
        """Queue content of a stream, of any length, in as few records as it takes.

        Empty content makes no record: that would end the stream (§3.3).
        """
        if type(data) is bytes and len(data) <= JOINED_UP_TO:
            length: i64 = len(data)
            if length:
                # As _header() does it, without the call.
                number: int = _VERSION | record_type << 48 | request_id << 32 | length << 16
                self.chunks.append(number.to_bytes(HEADER_LEN, "big") + data)
                self.size += HEADER_LEN + length
            return
        content = data if type(data) is bytes else _as_bytes(data)
        if len(content) <= JOINED_UP_TO:
            self.add_stream(record_type, request_id, bytes(content))
        else:
            self._add_long_stream(record_type, request_id, content)

    def add_last(self, request_id: "i64", data: bytes, rest: bytes, length: "i64") -> None:
        """Queue what is left of stdout, which together has that ``length`` and is one record, and
        the end of its request: in one chunk, as most answers leave alone.
        """
        if request_id < 256:
            begin = _STDOUT_BEGINS[request_id]
            tail = _PLAIN_TAILS[request_id]
        else:
            begin = _stdout_begin(request_id)
            tail = _plain_tail(request_id)
        number: int = length
        chunk = b"".join((begin, number.to_bytes(2, "big"), _NO_PADDING, data, rest, tail))
        self.chunks.append(chunk)
        self.size += len(chunk)

    def add_padded_stream(
        self, record_type: int, request_id: int, data: bytes | bytearray | memoryview
    ) -> None:
        """Queue content of a stream in records that end in padding, always copied.

        For FCGI_STDERR: HAProxy 2.6.12 dies when one without padding is the last thing that it
        reads at once. 8 bytes aligned, as §3.3 recommends.
        """
        content = bytes(data)
        for start in range(0, len(content), _MAX_PADDED):
            piece = content[start : start + _MAX_PADDED]
            padding = _PADDING - len(piece) % _PADDING
            header = pack_header(record_type, request_id, len(piece), padding)
            self.add(header + piece + bytes(padding))

    def _add_long_stream(
        self, record_type: int, request_id: int, content: bytes | memoryview
    ) -> None:
        chunks = self.chunks
        length: i64 = len(content)
        rest = length
        if rest >= MAX_CONTENT_LENGTH:
            if record_type == _STDOUT and request_id < 256:
                full = _FULL_HEADERS[request_id]
            else:
                full = pack_header(record_type, request_id, MAX_CONTENT_LENGTH)
            view = memoryview(content)
            # In pieces of 64 KiB every second record has one byte, which this goes behind.
            self.add_behind(full)
            chunks.append(view[:MAX_CONTENT_LENGTH])
            rest -= MAX_CONTENT_LENGTH
            while rest >= MAX_CONTENT_LENGTH:
                start: i64 = length - rest
                chunks.append(full)
                chunks.append(view[start : start + MAX_CONTENT_LENGTH])
                rest -= MAX_CONTENT_LENGTH
            records: i64 = (length - rest) // MAX_CONTENT_LENGTH
            self.size += (records - 1) * HEADER_LEN + length - rest
            if not rest:
                return
        header = _header(record_type, request_id, rest)
        self.size += rest
        if rest == length:
            self.add_behind(header)
            chunks.append(content)
            return
        self.size += HEADER_LEN
        if rest <= JOINED_UP_TO:
            chunks.append(header + bytes(content[length - rest :]))
        else:
            chunks.append(header)
            chunks.append(memoryview(content)[length - rest :])

    def add_behind(self, chunk: bytes) -> None:
        """Queue something short: behind a small end of what is queued already, for which
        ``sendmsg`` needs no element of its own then, and most answers leave as one.
        """
        chunks = self.chunks
        self.size += len(chunk)
        if chunks:
            last = chunks[-1]
            if isinstance(last, bytes) and len(last) <= _SMALL:
                chunks[-1] = last + chunk
                return
        chunks.append(chunk)
