"""Records as bytes (§3.3): headers, fixed bodies, and the reader that takes a stream apart."""

import struct
from typing import TYPE_CHECKING, Final

from trifcgi.errors import ProtocolError
from trifcgi.protocol.constants import (
    HEADER_LEN,
    NULL_REQUEST_ID,
    VERSION_1,
    ProtocolStatus,
    RecordType,
)

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = [
    "HEADER",
    "MAX_MANAGEMENT_LENGTH",
    "Piece",
    "PieceTaker",
    "RecordReader",
    "pack_begin_request",
    "pack_end_request",
    "pack_header",
    "pack_record",
    "pack_unknown_type",
    "unpack_begin_request",
    "unpack_end_request",
    "unpack_unknown_type",
]

MAX_MANAGEMENT_LENGTH: Final = 4096
"""Largest content, in bytes, of a management record that is read (§4).

All three names of the specification take 51 bytes and HAProxy 2.6 sends 36, so this leaves room
for many more names without letting a peer park 64 KiB in each connection.
"""

Piece = tuple[int, int, bytes]
"""Record type, request ID, content: what :meth:`RecordReader.receive` gives."""

HEADER: Final = struct.Struct("!BBHHBx")
"""Version, type, request ID, content length, padding length; the last byte is reserved."""

_BEGIN_BODY: Final = struct.Struct("!HB5x")
_END_BODY: Final = struct.Struct("!IB3x")
_BODY_LEN: Final = 8  # of every fixed body (§5.1, §5.5, §4.2)

_BEGIN_REQUEST: Final = int(RecordType.BEGIN_REQUEST)
_END_REQUEST: Final = int(RecordType.END_REQUEST)
_GET_VALUES: Final = int(RecordType.GET_VALUES)
_UNKNOWN_TYPE: Final = int(RecordType.UNKNOWN_TYPE)

_pack_header = HEADER.pack


def pack_header(
    record_type: int, request_id: int, content_length: int, padding_length: int = 0
) -> bytes:
    """Make the 8 bytes that begin a record.

    Args:
        record_type: 0 to 255.
        request_id: 0 to 65,535; 0 makes a management record.
        content_length: 0 to 65,535 bytes.
        padding_length: 0 to 255 bytes.

    Raises:
        ValueError: a number does not fit its field.
    """
    try:
        return _pack_header(VERSION_1, record_type, request_id, content_length, padding_length)
    except struct.error as error:
        raise ValueError(f"a record header cannot hold this: {error}") from error


def pack_record(
    record_type: int, request_id: int, content: bytes, padding_length: int = 0
) -> bytes:
    """Make one whole record. ``content`` is at most 65,535 bytes; padding bytes are zero.

    Raises:
        ValueError: a number does not fit its field.
    """
    header = pack_header(record_type, request_id, len(content), padding_length)
    return header + content + bytes(padding_length)


def pack_begin_request(request_id: int, role: int, flags: int) -> bytes:
    """Make a FCGI_BEGIN_REQUEST record (§5.1)."""
    return pack_record(_BEGIN_REQUEST, request_id, _BEGIN_BODY.pack(role, flags))


def unpack_begin_request(content: bytes) -> tuple[int, int]:
    """Read role and flags from the 8 bytes of a FCGI_BEGIN_REQUEST. Reserved bytes may hold
    anything.
    """
    role, flags = _BEGIN_BODY.unpack(content)
    return role, flags


def pack_end_request(
    request_id: int,
    app_status: int,
    protocol_status: int = ProtocolStatus.REQUEST_COMPLETE,
) -> bytes:
    """Make a FCGI_END_REQUEST record (§5.5).

    Args:
        request_id: 1 to 65,535.
        app_status: what a CGI program would give to ``exit``; negative numbers go out as
            their two's complement, as C programs send them.
        protocol_status: 0 to 255.

    Raises:
        ValueError: ``protocol_status`` or the request ID does not fit its field.
    """
    if not 0 <= protocol_status <= 255:
        raise ValueError(f"protocol status {protocol_status} is not within one byte")
    body = _END_BODY.pack(app_status & 0xFFFFFFFF, protocol_status)
    return pack_record(_END_REQUEST, request_id, body)


def unpack_end_request(content: bytes) -> tuple[int, int]:
    """Read application status (0 to 2**32 - 1) and protocol status from the 8 bytes of a
    FCGI_END_REQUEST.
    """
    app_status, protocol_status = _END_BODY.unpack(content)
    return app_status, protocol_status


def pack_unknown_type(record_type: int) -> bytes:
    """Make the FCGI_UNKNOWN_TYPE record that answers a management record of that type (§4.2)."""
    return pack_record(_UNKNOWN_TYPE, NULL_REQUEST_ID, bytes((record_type, 0, 0, 0, 0, 0, 0, 0)))


def unpack_unknown_type(content: bytes) -> int:
    """Read the refused type from the content of a FCGI_UNKNOWN_TYPE.

    Raises:
        ProtocolError: the content is not 8 bytes.
    """
    if len(content) != _BODY_LEN:
        raise ProtocolError(
            f"FCGI_UNKNOWN_TYPE with {len(content)} bytes of content, expected {_BODY_LEN}",
            NULL_REQUEST_ID,
        )
    return content[0]


class PieceTaker:
    """Is told the pieces of records as they come."""

    __slots__ = ()

    def take_piece(self, record_type: "i64", request_id: "i64", content: bytes) -> None:
        """Take one; see :class:`RecordReader`."""
        raise NotImplementedError


class _Pieces(PieceTaker):
    """Collects them."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Piece] = []

    def take_piece(self, record_type: "i64", request_id: "i64", content: bytes) -> None:
        self.found.append((record_type, request_id, content))


class RecordReader:
    """Takes a byte stream apart into records, wherever reads may have cut it.

    Content of the stream types (params, stdin, …) is passed on as it arrives, so a record that
    spans several reads comes as several pieces; an empty piece always is an empty record. Records
    with a fixed body and management records come whole. What is kept between reads is at
    most a cut header or :data:`MAX_MANAGEMENT_LENGTH` bytes.

    Attributes:
        failure: set, and not raised, when bytes came that are no record: the pieces ahead
            of them count still. The reader cannot be used after that.
    """

    __slots__ = (
        "_collected",
        "_content_left",
        "_request_id",
        "_skip_left",
        "_tail",
        "_type",
        "failure",
    )

    def __init__(self) -> None:
        self._tail = b""  # the beginning of a header
        self._type: i64 = 0
        self._request_id: i64 = 0
        self._content_left: i64 = 0
        self._skip_left: i64 = 0  # padding, or content that nobody wants
        self._collected: bytearray | None = None  # content so far of a record that comes whole
        self.failure: ProtocolError | None = None

    @property
    def inside_record(self) -> bool:
        """Whether what was received so far ends inside a record, its padding included."""
        return bool(self._content_left != 0 or self._skip_left != 0 or self._tail)

    def receive(self, data: bytes) -> list[Piece]:
        """Take the next bytes of the stream; return the pieces that they complete.

        It stops where :meth:`read` does.
        """
        pieces = _Pieces()
        self.read(data, pieces)
        return pieces.found

    def read(self, data: bytes, taker: PieceTaker) -> None:
        """Take the next bytes of the stream; give ``taker`` the pieces that they complete.

        It stops at a record that is not version 1, has a fixed body of the wrong length, or is
        a management record with more than :data:`MAX_MANAGEMENT_LENGTH` bytes: see ``failure``.
        """
        at: i64 = 0
        if self._content_left != 0 or self._skip_left != 0:
            at = self._resume(data, taker)
        elif self._tail:
            # Copies this read once, and only when the last one ended inside a header.
            data = self._tail + data
            self._tail = b""
        end: i64 = len(data)
        while end - at >= HEADER_LEN:
            # Compiled, eight looks at a byte cost less than one call that unpacks them.
            if data[at] != VERSION_1:
                self.failure = _not_version_1(data[at])
                return
            record_type: i64 = data[at + 1]
            request_id: i64 = data[at + 2] << 8 | data[at + 3]
            length: i64 = data[at + 4] << 8 | data[at + 5]
            padding: i64 = data[at + 6]
            at += HEADER_LEN
            if request_id == NULL_REQUEST_ID:
                if record_type < _GET_VALUES or record_type > _UNKNOWN_TYPE:
                    padding += length  # only its type matters (§4.2)
                    length = 0
                elif length > MAX_MANAGEMENT_LENGTH:
                    self.failure = _too_long(record_type, length)
                    return
            elif length != _BODY_LEN and (record_type in (_BEGIN_REQUEST, _END_REQUEST)):
                self.failure = _not_a_body(record_type, request_id, length)
                return
            stop: i64 = at + length
            if stop > end:
                self._begin_cut_record(record_type, request_id, length, padding)
                self._resume(data[at:], taker)
                return
            taker.take_piece(record_type, request_id, data[at:stop] if length != 0 else b"")
            at = stop + padding
        if at < end:
            self._tail = data[at:]
        elif at > end:
            self._skip_left = at - end

    def _begin_cut_record(
        self, record_type: "i64", request_id: "i64", length: "i64", padding: "i64"
    ) -> None:
        self._type = record_type
        self._request_id = request_id
        self._content_left = length
        self._skip_left = padding
        whole = request_id == NULL_REQUEST_ID or record_type in (_BEGIN_REQUEST, _END_REQUEST)
        self._collected = bytearray() if whole else None

    def _resume(self, data: bytes, taker: PieceTaker) -> "i64":
        """Go on inside a record; return where in ``data`` the next one begins."""
        at: i64 = 0
        left: i64 = self._content_left
        if left != 0:
            content = data if len(data) <= left else data[:left]
            at = len(content)
            self._content_left = left - at
            if self._collected is None:
                if content:
                    taker.take_piece(self._type, self._request_id, content)
            else:
                self._collected += content
                if at == left:
                    whole = bytes(self._collected)
                    self._collected = None
                    taker.take_piece(self._type, self._request_id, whole)
        skipped: i64 = min(self._skip_left, len(data) - at)
        self._skip_left -= skipped
        return at + skipped


def _not_version_1(version: int) -> ProtocolError:
    return ProtocolError(f"record of version {version}, expected {VERSION_1}")


def _too_long(record_type: int, length: int) -> ProtocolError:
    return ProtocolError(
        f"management record FCGI_{RecordType(record_type)} with {length} bytes of content, "
        f"more than {MAX_MANAGEMENT_LENGTH}",
        NULL_REQUEST_ID,
    )


def _not_a_body(record_type: int, request_id: int, length: int) -> ProtocolError:
    return ProtocolError(
        f"FCGI_{RecordType(record_type)} with {length} bytes of content, expected {_BODY_LEN}",
        request_id,
    )
