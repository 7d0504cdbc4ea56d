"""Name-value pairs, §3.4."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import load_captures
from tests.protocol.wire import EXAMPLES, block
from trifcgi.protocol import ProtocolError, decode_pairs, encode_pairs
from trifcgi.protocol.pairs import count_pairs, find_value

LONG = b"x" * 127
LONGER = b"y" * 128

ENCODED = [
    (b"", []),
    (b"\0\0", [(b"", b"")]),
    (b"\1\0A", [(b"A", b"")]),
    (b"\0\1A", [(b"", b"A")]),
    (b"\1\2AbC\0\0", [(b"A", b"bC"), (b"", b"")]),
    (b"\1\1AA\1\1AA", [(b"A", b"A"), (b"A", b"A")]),
    (b"\x7f\0" + LONG, [(LONG, b"")]),
    (b"\x80\0\0\x80\0" + LONGER, [(LONGER, b"")]),
    (b"\0\x7f" + LONG, [(b"", LONG)]),
    (b"\0\x80\0\0\x80" + LONGER, [(b"", LONGER)]),
    (b"\x80\0\0\x80\x80\0\0\x80" + LONGER + LONGER, [(LONGER, LONGER)]),
    (b"\1\x80\1\0\0A" + b"v" * 65536, [(b"A", b"v" * 65536)]),
]

short_bytes = st.one_of(
    st.binary(max_size=8), st.sampled_from([LONG, LONGER, b"z" * 255, b"z" * 256, b"z" * 70000])
)
pair_lists = st.lists(st.tuples(short_bytes, short_bytes), max_size=12)


@pytest.mark.parametrize(("encoded", "pairs"), ENCODED)
def test_both_directions_agree_with_the_table(
    encoded: bytes, pairs: list[tuple[bytes, bytes]]
) -> None:
    assert decode_pairs(encoded) == pairs
    assert encode_pairs(pairs) == encoded


@pytest.mark.parametrize(
    ("encoded", "pairs"),
    [
        (b"\x80\0\0\0\x80\0\0\0", [(b"", b"")]),
        (b"\x80\0\0\1\1AB", [(b"A", b"B")]),
        (b"\1\x80\0\0\1AB", [(b"A", b"B")]),
    ],
)
def test_long_form_of_a_short_length_is_read(
    encoded: bytes, pairs: list[tuple[bytes, bytes]]
) -> None:
    assert decode_pairs(encoded) == pairs
    assert count_pairs(encoded, 9) == len(pairs)


@pytest.mark.parametrize(
    "encoded",
    [
        block((b"REQUEST_METHOD", b"GET")),
        block((b"A", b"B"), (b"name", b"value")),
        block((LONGER, b"v"), (b"n", LONGER)),
        block((LONGER, LONGER)),
    ],
)
def test_every_truncation_is_an_error_or_ends_between_pairs(encoded: bytes) -> None:
    whole = decode_pairs(encoded)
    between = {len(block(*whole[:n])): whole[:n] for n in range(len(whole) + 1)}
    for length in range(len(encoded) + 1):
        if length in between:
            assert decode_pairs(encoded[:length]) == between[length]
        else:
            with pytest.raises(ProtocolError, match="ends inside a pair"):
                decode_pairs(encoded[:length])


@pytest.mark.parametrize(
    "encoded", [b"\xff\xff\xff\xff\0", b"\0\xff\xff\xff\xff", b"\xff" * 8, b"\xff" * 9]
)
def test_a_length_of_two_gigabytes_allocates_nothing(encoded: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_pairs(encoded)


@EXAMPLES
@given(pair_lists)
def test_round_trip(pairs: list[tuple[bytes, bytes]]) -> None:
    encoded = encode_pairs(pairs)
    assert encoded == block(*pairs)
    assert decode_pairs(encoded) == pairs
    assert count_pairs(encoded, len(pairs)) == len(pairs)


@EXAMPLES
@given(st.binary(max_size=64))
def test_any_bytes_give_pairs_or_a_protocol_error(data: bytes) -> None:
    try:
        pairs = decode_pairs(data)
    except ProtocolError:
        return
    assert decode_pairs(encode_pairs(pairs)) == pairs
    assert count_pairs(data, len(data)) == len(pairs)


@EXAMPLES
@given(st.binary(max_size=64), st.integers(0, 40))
def test_counting_fails_where_decoding_does_and_stops_just_past_the_limit(
    data: bytes, most: int
) -> None:
    try:
        pairs = decode_pairs(data)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            count_pairs(data, len(data))
    else:
        assert count_pairs(data, most) == min(len(pairs), most + 1)


@EXAMPLES
@given(pair_lists)
def test_a_value_is_found_without_decoding_the_others(pairs: list[tuple[bytes, bytes]]) -> None:
    encoded = encode_pairs(pairs)
    named = dict(pairs)
    for name in filter(None, [*named, b"REQUEST_METHOD"]):
        assert find_value(encoded, name) == named.get(name)


def test_counts_agree_on_every_captured_request() -> None:
    for capture in load_captures():
        for request in capture.requests:
            encoded = encode_pairs(request.params)
            assert decode_pairs(encoded) == request.params
            assert count_pairs(encoded, 10_000) == len(request.params)


def test_a_name_too_long_for_the_format_is_refused() -> None:
    huge = bytes(2**31)  # zeros that nobody writes or reads take no memory
    with pytest.raises(ValueError, match="2147483648 bytes"):
        encode_pairs([(huge, b"")])
