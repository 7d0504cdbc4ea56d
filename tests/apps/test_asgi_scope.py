"""Scopes of requests whose params are known again, held against those that are made afresh."""

from collections.abc import Iterator

import pytest

from trifcgi.apps.asgi_exchange import Exchanges, Scope
from trifcgi.cgi import known
from trifcgi.cgi.reading import read_pairs, read_params
from trifcgi.protocol import decode_pairs, encode_pairs

Pairs = list[tuple[bytes, bytes]]

USUAL: Pairs = [
    (b"REQUEST_METHOD", b"GET"),
    (b"SCRIPT_NAME", b"/a"),
    (b"REQUEST_URI", b"/a"),
    (b"REMOTE_ADDR", b"192.0.2.1"),
    (b"REMOTE_PORT", b"51234"),
    (b"HTTP_HOST", b"a.test"),
    (b"HTTP_COOKIE", b"a=1"),
    (b"HTTP_ACCEPT", b"*/*"),
]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    known.memory.forget()
    yield
    known.memory.forget()


def same(pairs: Pairs, mount: str | None = None) -> Scope:
    """The scope of a request that has come often, which is the one that it had at first."""
    exchanges = Exchanges(mount)
    block = encode_pairs(pairs)
    for _ in range(2 * known._LEARN_EVERY):
        read_params(block, len(block))
    reading = read_params(block, len(block))
    assert reading.leaf is not None
    expected = exchanges._make_scope(read_pairs(decode_pairs(block)))
    for _ in range(2):  # the first makes what the next are copied from
        scope = exchanges._make_scope(reading)
        assert scope == expected
        scope["headers"].append((b"mine", b"now"))
        scope["asgi"]["mine"] = scope["extensions"]["mine"] = scope["mine"] = True
    return expected


@pytest.mark.parametrize(
    "more",
    [
        [],
        [(b"CONTENT_TYPE", b""), (b"CONTENT_LENGTH", b"")],
        [(b"CONTENT_TYPE", b"text/plain"), (b"CONTENT_LENGTH", b"")],
        [(b"CONTENT_TYPE", b"x" * 300)],
        [(b"CONTENT_LENGTH", b"4711")],
        [(b"CONTENT_LENGTH", b"-1")],
        [(b"CONTENT_LENGTH", b"5"), (b"CONTENT_LENGTH", b"")],
        [(b"CONTENT_LENGTH", b""), (b"CONTENT_LENGTH", b"5")],
        [(b"HTTP_COOKIE", b"b=2")],
        [(b"HTTP_COOKIE", b"b=2"), (b"CONTENT_TYPE", b"text/plain")],
    ],
)
def test_headers_are_all_there(more: Pairs) -> None:
    for mount in (None, "/a"):
        same([*USUAL, *more], mount)


@pytest.mark.parametrize(
    ("path", "uri", "raw_path"),
    [
        (b"/a", b"/a", b"/a"),
        (b"/a", b"/a?b", b"/a"),
        (b"/a", b"/a#b", b"/a"),
        (b"/a?", b"/a?", b"/a%3F"),
        (b"/a#", b"/a#", b"/a%23"),
        (b"/a?", b"/a%3F", b"/a%3F"),
        (b"a", b"a", b"a"),
        (b"/\xff", b"/\xff", b"/\xff"),
        (b"/a", b"", b"/a"),
        (b"", b"", b"/"),
    ],
)
def test_raw_paths_are_as_the_client_spelt_them(path: bytes, uri: bytes, raw_path: bytes) -> None:
    scope = same([*USUAL, (b"SCRIPT_NAME", path), (b"REQUEST_URI", uri)])
    assert scope["raw_path"] == raw_path


def test_each_of_many_hosts_is_told_its_own_name() -> None:
    names = [b"a.test", b"b.test", b"c.test:8443", b"[::1]", b"", b"caf\xe9.test"]
    exchanges = Exchanges(None)
    served = []
    leaf = None
    for round_ in range(2 * known._LEARN_EVERY):
        for name in names:
            pairs = [*USUAL, (b"SERVER_ADDR", b"10.0.0.1"), (b"SERVER_NAME", name)]
            block = encode_pairs(pairs)
            reading = read_params(block, len(block))
            leaf = reading.leaf
            scope = exchanges._make_scope(reading)
            assert scope == exchanges._make_scope(read_pairs(decode_pairs(block)))
            if round_:
                served.append(scope["server"])
    assert leaf is not None
    assert leaf.scope is not None
    assert leaf.scope["server"] is None
    assert set(served) == {
        ("a.test", 80), ("b.test", 80), ("c.test", 8443), ("::1", 80), ("10.0.0.1", 80),
        ("café.test", 80),
    }  # fmt: skip
