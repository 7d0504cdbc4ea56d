"""What is known again of earlier blocks, held against what is read afresh."""

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import load_captures
from trifcgi.cgi import Meaning, known
from trifcgi.cgi.known import HOST, REQUEST_METHOD, REQUEST_TIMEOUT
from trifcgi.cgi.reading import Reading, read_pairs, read_params
from trifcgi.errors import ProtocolError
from trifcgi.protocol import decode_pairs, encode_pairs

Pairs = list[tuple[bytes, bytes]]

USUAL: Pairs = [
    (b"QUERY_STRING", b""),
    (b"REQUEST_METHOD", b"GET"),
    (b"SCRIPT_NAME", b"/a"),
    (b"REQUEST_URI", b"/a"),
    (b"SERVER_NAME", b"a.test"),
    (b"REMOTE_ADDR", b"192.0.2.1"),
    (b"HTTP_HOST", b"a.test"),
    (b"HTTP_COOKIE", b"a=1"),
    (b"HTTP_ACCEPT", b"*/*"),
]
MANY = 1000


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    known.memory.forget()
    yield
    known.memory.forget()


def learn(*pairs: tuple[bytes, bytes]) -> None:
    """Have a block known, and the ones like it."""
    for _ in range(known._LEARN_EVERY):
        read_params(encode_pairs(pairs), MANY)
    assert read_params(encode_pairs(pairs), MANY).leaf is not None


def afresh(block: bytes) -> Reading:
    """What it is to those who know nothing."""
    return read_pairs(decode_pairs(block))


def same(block: bytes) -> Reading:
    """Read a block and see that it means what it means to those who know nothing."""
    reading = read_params(block, MANY)
    expected = afresh(block)
    assert reading.count == expected.count
    assert reading.values == expected.values
    assert reading.cookies == expected.cookies
    assert reading.pairs() == decode_pairs(block)
    if reading.values[REQUEST_METHOD]:
        known_again, fresh = Meaning(reading), Meaning(decode_pairs(block))
        assert known_again.headers == fresh.headers
        assert known_again.wsgi_environ() == fresh.wsgi_environ()
    return reading


def changed(**values: bytes) -> Pairs:
    return [(name, values.get(name.decode(), value)) for name, value in USUAL]


def test_other_values_of_what_varies_are_known() -> None:
    learn(*USUAL)
    for value in (b"", b"x", b"x" * 127, b"x" * 128, b"x" * 70_000):
        reading = same(encode_pairs(changed(SCRIPT_NAME=value, HTTP_COOKIE=value)))
        assert reading.leaf is not None


def test_each_length_of_a_value_is_known_the_first_time_and_the_next() -> None:
    learn(*USUAL)
    learn(*changed(HTTP_ACCEPT=b"text/html"), (b"HTTP_X", b"1"))
    for _ in range(2):
        for length in range(140):
            value = b"/" * length
            reading = same(encode_pairs(changed(SCRIPT_NAME=value, REMOTE_ADDR=value)))
            assert reading.leaf is not None
            same(encode_pairs([*USUAL[3:], (b"SCRIPT_NAME", value)]))


def test_a_block_is_known_again_where_another_one_goes_on_for_longer() -> None:
    short = [(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/a")]
    learn(*short)
    learn((b"SERVER_SOFTWARE", b"x" * 200), *short)
    assert same(encode_pairs(short)).leaf is not None


def test_no_more_than_so_many_lengths_are_kept() -> None:
    learn(*USUAL)
    assert known.memory.spellings
    known.memory.spellings = known._MOST_SPELLINGS
    for length in (*range(140), 5):
        value = b"/" * length
        assert same(encode_pairs(changed(SCRIPT_NAME=value, REMOTE_ADDR=value))).leaf is not None
    assert known.memory.spellings == known._MOST_SPELLINGS
    known.memory.forget()
    assert not known.memory.spellings


@pytest.mark.parametrize("at", range(len(USUAL)))
@pytest.mark.parametrize("value", [b"", b"x", b"GET", b"x" * 200])
def test_any_other_value_is_read_as_it_is(at: int, value: bytes) -> None:
    learn(*USUAL)
    pairs = USUAL.copy()
    pairs[at] = (pairs[at][0], value)
    for _ in range(2 * known._LEARN_EVERY):
        same(encode_pairs(pairs))
        same(encode_pairs(USUAL))


@pytest.mark.parametrize("at", range(len(USUAL) + 1))
def test_one_more_or_less_is_noticed(at: int) -> None:
    learn(*USUAL)
    for _ in range(2 * known._LEARN_EVERY):
        same(encode_pairs(USUAL))
        for other in ((b"X", b"1"), (b"HTTP_X", b""), *USUAL):
            same(encode_pairs([*USUAL[:at], other, *USUAL[at:]]))
        same(encode_pairs([*USUAL[:at], *USUAL[at + 1 :]]))


@pytest.mark.parametrize("known_before", [False, True])
def test_a_block_that_ends_inside_a_pair_is_malformed_wherever_it_is(known_before: bool) -> None:
    pairs = changed(HTTP_COOKIE=b"c" * 300)
    block = encode_pairs(pairs)
    if known_before:
        learn(*pairs)
    whole = {len(encode_pairs(pairs[:count])) for count in range(len(pairs) + 1)}
    for length in range(len(block)):
        leaves = known.memory._leaves
        if length in whole:
            same(block[:length])
            continue
        with pytest.raises(ProtocolError) as raised:
            read_params(block[:length], MANY)
        with pytest.raises(ProtocolError) as expected:
            decode_pairs(block[:length])
        assert str(raised.value) == str(expected.value)
        assert known.memory._leaves == leaves


def test_nothing_is_learned_from_a_malformed_block() -> None:
    block = encode_pairs([(b"HTTP_NEW", b"1"), *USUAL])[:-1]
    for _ in range(2 * known._LEARN_EVERY):
        with pytest.raises(ProtocolError):
            read_params(block, MANY)
    assert known.memory.root.then is None
    assert not known.names


def test_lengths_of_four_bytes_are_taken_for_short_ones_too() -> None:
    def long(name: bytes, value: bytes) -> bytes:
        lengths = struct.pack("!LL", len(name) | 1 << 31, len(value) | 1 << 31)
        return lengths + name + value

    block = b"".join(long(name, value) for name, value in USUAL)
    halves = [encode_pairs([pair]) if at % 2 else long(*pair) for at, pair in enumerate(USUAL)]
    learn(*USUAL)
    for _ in range(2 * known._LEARN_EVERY):
        same(block)
        same(b"".join(halves))
        same(encode_pairs(USUAL))
    value_alone = bytes((11,)) + struct.pack("!L", 2 | 1 << 31) + b"SCRIPT_NAME" + b"/a"
    plain = encode_pairs([(b"SCRIPT_NAME", b"/a")])
    assert same(encode_pairs(USUAL).replace(plain, value_alone)).leaf is not None


def test_the_last_of_a_repeated_param_counts() -> None:
    for twice in (
        [(b"SCRIPT_NAME", b"/b"), (b"SCRIPT_NAME", b"")],
        [(b"SCRIPT_NAME", b""), (b"SCRIPT_NAME", b"/b")],
        [(b"SCRIPT_NAME", b"/b"), (b"SCRIPT_NAME", b"/c")],
        [(b"HTTPS", b"on"), (b"HTTPS", b"")],
        [(b"HTTP_X", b"1"), (b"HTTP_X", b"2")],
        [(b"HTTP_HOST", b"x" * 300), (b"HTTP_HOST", b"y" * 300)],
        [(b"HTTP_COOKIE", b"x"), (b"HTTP_COOKIE", b"")],
    ):
        for _ in range(2 * known._LEARN_EVERY):
            same(encode_pairs([*USUAL, *twice]))


def test_a_host_that_varies_is_no_header_where_it_is_empty() -> None:
    hosts = [b"%d.test" % number for number in range(10)]
    for host in hosts * known._LEARN_EVERY:
        same(encode_pairs(changed(HTTP_HOST=host)))
    leaf = read_params(encode_pairs(changed(HTTP_HOST=b"other.test")), MANY).leaf
    assert leaf is not None
    assert next(slot.kind for slot in leaf.fields) == HOST
    assert b"host" not in dict(Meaning(encode_pairs(changed(HTTP_HOST=b""))).headers)


def test_more_params_than_are_wanted_are_counted_and_no_more() -> None:
    learn(*USUAL)
    for block in (encode_pairs(USUAL), encode_pairs([(b"X", b""), *USUAL])):
        reading = read_params(block, 3)
        assert reading.count > 3
        assert reading.leaf is None
        assert not reading.headers
    assert read_params(encode_pairs(USUAL), len(USUAL)).count == len(USUAL)


def test_a_timeout_is_found() -> None:
    timeout = [*USUAL, (b"REQUEST_TIMEOUT", b"5")]
    for _ in range(2 * known._LEARN_EVERY):
        assert same(encode_pairs(timeout)).values[REQUEST_TIMEOUT] == b"5"
        assert same(encode_pairs(USUAL)).values[REQUEST_TIMEOUT] is None


def test_what_front_ends_send_means_the_same_when_it_comes_again() -> None:
    blocks = [
        encode_pairs(request.params) for capture in load_captures() for request in capture.requests
    ]
    for _ in range(3):
        for block in blocks:
            same(block)
    assert known.memory._leaves > 10


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [b"HTTP_HOST", b"HTTP_COOKIE", b"HTTP_X", b"SCRIPT_NAME", b"HTTPS", b"X", b""]
                ),
                st.sampled_from([b"", b"a", b"on", b"\x0bSCRIPT_NAME", b"x" * 130]),
            ),
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    ),
    st.binary(max_size=30),
    st.integers(0, 80),
)
def test_what_came_before_changes_no_reading(requests: list[Pairs], noise: bytes, at: int) -> None:
    for _ in range(2 * known._LEARN_EVERY):
        for pairs in requests:
            block = encode_pairs([*pairs, (b"REQUEST_METHOD", b"GET")])
            same(block)
            broken = block[:at] + noise + block[at:]
            try:
                decode_pairs(broken)
            except ProtocolError as error:
                with pytest.raises(ProtocolError, match=str(error)):
                    read_params(broken, MANY)
            else:
                same(broken)


def _page(number: int, at_random: random.Random) -> bytes:
    """What one of some browsers asks one of some hosts for: pages, and what is in them."""
    what, mode, accept = at_random.choice(
        [
            (b"document", b"navigate", b"text/html,application/xhtml+xml;q=0.9"),
            (b"image", b"no-cors", b"image/avif,image/webp"),
            (b"script", b"no-cors", b"*/*"),
            (b"style", b"no-cors", b"text/css,*/*;q=0.1"),
            (b"empty", b"cors", b"application/json"),
        ]
    )
    browser = at_random.randrange(6)
    host = b"h%d.test" % at_random.randrange(5)
    path = b"/%d" % number
    pairs = [
        (b"QUERY_STRING", at_random.choice([b"", b"q=%d" % number])),
        (b"REQUEST_METHOD", at_random.choice([b"GET", b"GET", b"POST"])),
        (b"SCRIPT_NAME", path),
        (b"REQUEST_URI", path),
        (b"DOCUMENT_ROOT", b"/srv"),
        (b"SERVER_PROTOCOL", at_random.choice([b"HTTP/1.1", b"HTTP/2.0"])),
        (b"REMOTE_ADDR", b"192.0.2.%d" % (number % 250)),
        (b"SERVER_NAME", host),
        (b"HTTP_HOST", host),
        (b"HTTP_USER_AGENT", b"Browser/%d" % browser),
        (b"HTTP_ACCEPT", accept),
        (b"HTTP_ACCEPT_ENCODING", [b"gzip", b"gzip, br", b"gzip, br, zstd"][browser % 3]),
        (b"HTTP_SEC_FETCH_SITE", at_random.choice([b"none", b"same-origin", b"cross-site"])),
        (b"HTTP_SEC_FETCH_MODE", mode),
        (b"HTTP_SEC_FETCH_DEST", what),
    ]
    if what == b"document":
        pairs.append((b"HTTP_UPGRADE_INSECURE_REQUESTS", b"1"))
    if number % 3:
        pairs.append((b"HTTP_COOKIE", b"sid=%d" % number))
    return encode_pairs(pairs)


def test_blocks_of_mixed_traffic_are_soon_known() -> None:
    """Names that come with ever other values are taken for such, and do not multiply the paths."""
    at_random = random.Random(1)
    hits = [read_params(_page(number, at_random), MANY).leaf is not None for number in range(3000)]
    assert sum(hits[1000:]) > 1950
    assert known.memory._leaves < 100


def test_what_is_beside_many_others_is_kept_when_it_comes_again() -> None:
    """Of those in each other's place the one that is found is not the one that makes room."""

    def block(kind: int, more: bytes) -> bytes:
        lead = [(b"HTTP_X_%d" % kind, b"")]
        return encode_pairs([*lead, (b"REQUEST_URI", b"/"), (b"HTTP_Y_" + more, b"")])

    for more in (b"A", b"B", b"C"):
        for kind in range(known._MOST_BESIDE):
            for _ in range(known._LEARN_EVERY):
                read_params(block(kind, more), MANY)
    for more in (b"A", b"B", b"C"):
        for kind in range(known._MOST_BESIDE):
            assert read_params(block(kind, more), MANY).leaf is not None, (kind, more)
    assert known.memory._leaves == 3 * known._MOST_BESIDE


def test_no_long_name_is_kept() -> None:
    name = b"HTTP_" + b"X" * 100
    for _ in range(20):
        reading = read_params(encode_pairs([*USUAL, (name, b"")]), MANY)
        assert reading.leaf is None
        assert reading.headers[-1] == (b"x" * 100, b"")
    assert name not in known.names


def test_a_client_can_have_all_given_up_only_so_often() -> None:
    for number in range(400):
        name = b"HTTP_X_%d" % number
        for value in (b"", b"1"):
            for _ in range(known._LEARN_EVERY):
                read_params(encode_pairs([(name, value)]), MANY)
    assert known.memory._given_up == known._MOST_GIVEN_UP
    assert known.memory._leaves <= known._MOST_LEAVES
