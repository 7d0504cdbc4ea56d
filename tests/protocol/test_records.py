"""Record headers, fixed bodies and the reader that takes a stream apart, §3.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.wire import (
    ABORT,
    BEGIN,
    END,
    EXAMPLES,
    GET_VALUES,
    PARAMS,
    STDIN,
    UNKNOWN_TYPE,
    begin,
    cut,
    end,
    one_by_one,
    record,
)
from trifcgi.protocol import ProtocolError, RecordType
from trifcgi.protocol.records import (
    Piece,
    RecordReader,
    pack_begin_request,
    pack_end_request,
    pack_header,
    pack_record,
    pack_unknown_type,
    unpack_begin_request,
    unpack_end_request,
    unpack_unknown_type,
)


def read(pieces: list[bytes]) -> list[Piece]:
    """What the reader gives, with the pieces of one record joined."""
    reader = RecordReader()
    result: list[Piece] = []
    for data in pieces:
        result += reader.receive(data)
    return result


def fail(data: bytes) -> ProtocolError:
    """Read a good record and those bytes: the reader gives the one and refuses the others."""
    reader = RecordReader()
    assert reader.receive(record(STDIN, 1, b"good") + data) == [(STDIN, 1, b"good")]
    assert reader.failure is not None
    return reader.failure


def joined(pieces: list[Piece]) -> list[Piece]:
    result: list[Piece] = []
    for kind, request_id, content in pieces:
        if result and content and result[-1][:2] == (kind, request_id) and result[-1][2]:
            content = result.pop()[2] + content
        result.append((kind, request_id, content))
    return result


@pytest.mark.parametrize(
    ("numbers", "header"),
    [
        ((1, 1, 8, 0), b"\1\1\0\1\0\x08\0\0"),
        ((4, 0x0102, 0x0304, 5), b"\1\4\1\2\3\4\5\0"),
        ((255, 65535, 65535, 255), b"\1\xff\xff\xff\xff\xff\xff\0"),
    ],
)
def test_headers(numbers: tuple[int, int, int, int], header: bytes) -> None:
    assert pack_header(*numbers) == header


@pytest.mark.parametrize(
    "numbers", [(256, 1, 0, 0), (5, 65536, 0, 0), (5, 1, 65536, 0), (5, 1, 0, 256), (-1, 1, 0, 0)]
)
def test_numbers_that_do_not_fit_a_header_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="record header"):
        pack_header(*numbers)


def test_fixed_bodies() -> None:
    assert pack_begin_request(7, 3, 1) == b"\1\1\0\7\0\x08\0\0" + b"\0\3\1\0\0\0\0\0"
    assert unpack_begin_request(b"\1\2\3reser") == (0x0102, 3)
    assert pack_end_request(7, 1, 3) == b"\1\3\0\7\0\x08\0\0" + b"\0\0\0\1\3\0\0\0"
    assert pack_end_request(7, -1)[8:] == b"\xff\xff\xff\xff\0\0\0\0"
    assert unpack_end_request(b"\xff\xff\xff\xff\2rsv") == (2**32 - 1, 2)
    assert pack_unknown_type(77) == b"\1\x0b\0\0\0\x08\0\0" + b"\x4d\0\0\0\0\0\0\0"
    assert unpack_unknown_type(b"\x4dreserve") == 77
    with pytest.raises(ProtocolError, match="7 bytes"):
        unpack_unknown_type(bytes(7))


def test_padding_is_written_as_zeros() -> None:
    assert pack_record(5, 1, b"abc", 5) == b"\1\5\0\1\0\3\5\0abc\0\0\0\0\0"


def test_reserved_bytes_and_padding_may_hold_anything() -> None:
    data = b"\1\5\0\1\0\3\2\xffabc\xfe\xff" + b"\1\5\0\1\0\0\0\x55"
    assert read([data]) == [(STDIN, 1, b"abc"), (STDIN, 1, b"")]


records = st.builds(
    lambda kind, request_id, content, padding: (kind, request_id, content, padding),
    st.sampled_from([*RecordType, 12, 99, 255]),
    st.sampled_from([1, 2, 255, 65535]),
    st.one_of(st.binary(max_size=20), st.just(b"q" * 65535)),
    st.one_of(st.binary(max_size=9), st.just(b"\xee" * 255)),
).map(lambda r: (r[0], r[1], r[2].ljust(8)[:8] if r[0] in (BEGIN, END) else r[2], r[3]))


@EXAMPLES
@given(st.lists(records, max_size=6), st.data())
def test_records_survive_any_cut(
    written: list[tuple[int, int, bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(record(*fields) for fields in written)
    whole = read([stream])
    assert whole == [fields[:3] for fields in written]
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert joined(read(cut(stream, places))) == joined(whole)


def test_one_byte_at_a_time() -> None:
    stream = begin(1) + record(PARAMS, 1, b"abc", b"pad") + record(PARAMS, 1) + end(9)
    stream += record(GET_VALUES, 0, b"\1\0A", b"p") + record(77, 0, b"whatever") + record(STDIN, 1)
    assert joined(read(one_by_one(stream))) == joined(read([stream]))


def test_content_is_passed_on_before_its_record_is_complete() -> None:
    reader = RecordReader()
    stream = record(STDIN, 1, b"abcdef", b"pad")
    assert reader.receive(stream[:8]) == []
    assert reader.receive(stream[8:11]) == [(STDIN, 1, b"abc")]
    assert reader.receive(stream[11:15]) == [(STDIN, 1, b"def")]
    assert reader.inside_record
    assert reader.receive(stream[15:]) == []
    assert not reader.inside_record


@pytest.mark.parametrize("length", range(1, 27))
def test_inside_record_knows_every_place(length: int) -> None:
    reader = RecordReader()
    stream = begin(1) + record(STDIN, 1, b"x", b"p")
    reader.receive(stream[:length])
    assert reader.inside_record == (length not in (16, 26))


def test_whole_content_is_not_copied_again() -> None:
    reader = RecordReader()
    reader.receive(record(STDIN, 1, bytes(60000))[:8])
    data = bytes(30000)
    [(_, _, content)] = reader.receive(data)
    assert content is data


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_an_error(version: int) -> None:
    failure = fail(bytes([version]) + begin(1)[1:])
    assert str(failure) == f"record of version {version}, expected 1"
    assert failure.request_id is None


@pytest.mark.parametrize("kind", [BEGIN, END])
@pytest.mark.parametrize("length", [0, 7, 9, 65535])
def test_a_fixed_body_of_another_length_is_an_error(kind: int, length: int) -> None:
    failure = fail(record(kind, 3, bytes(length))[:8])
    assert f"{length} bytes of content, expected 8" in str(failure)
    assert failure.request_id == 3


def test_a_long_management_record_is_an_error_at_its_header() -> None:
    header = record(GET_VALUES, 0, bytes(4097))[:8]
    failure = fail(header)
    assert "FCGI_GET_VALUES with 4097 bytes" in str(failure)
    assert failure.request_id == 0
    assert read([record(GET_VALUES, 0, bytes(4096))]) == [(GET_VALUES, 0, bytes(4096))]


@pytest.mark.parametrize("kind", [0, *range(BEGIN, GET_VALUES), UNKNOWN_TYPE + 1, 255])
def test_content_of_an_unknown_management_type_is_skipped(kind: int) -> None:
    stream = record(kind, 0, bytes(65535), bytes(255)) + record(ABORT, 1)
    expected = [(kind, 0, b""), (ABORT, 1, b"")]
    assert read([stream]) == expected
    assert read(cut(stream, range(0, len(stream), 1000))) == expected
