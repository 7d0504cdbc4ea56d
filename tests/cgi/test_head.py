"""Response heads: what all front ends take, and nothing that any of them breaks on."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import load_responses
from trifcgi.cgi import complete_head, encode_head, end_of_head, error_response, is_bodyless
from trifcgi.cgi.head import _heads, usual_head
from trifcgi.errors import ResponseError

TEXT = (b"Content-Type", b"text/plain")


def answer_bytes(name: str) -> bytes:
    """What the application of the recordings wrote to stdout for that answer."""
    steps: list[list[object]] = load_responses()["answers"][name]
    return b"".join(str(step[1]).encode("latin-1") for step in steps if step[0] == "out")


def answer_head(name: str) -> bytes:
    data = answer_bytes(name)
    return data[: end_of_head(data)]


@pytest.mark.parametrize(
    ("answer", "head", "status"),
    [
        # no Status: 200, except where there is a Location (Apache and Caddy: 200)
        ("ok", b"Content-Type: text/plain\r\nStatus: 200 OK\r\n\r\n", 200),
        ("no-ct", b"X-A: b\r\nStatus: 200 OK\r\n\r\n", 200),
        ("loc-abs", b"Location: http://other.test/x\r\nStatus: 302 Found\r\n\r\n", 302),
        # mod_fcgid would fetch the local path itself
        ("loc-local", b"Location: /static.txt?y=1\r\nStatus: 302 Found\r\n\r\n", 302),
        # Status then Location: HAProxy makes a 302 of it
        (
            "loc-201",
            b"Location: /new/1\r\nContent-Type: text/plain\r\nStatus: 201 Created\r\n\r\n",
            201,
        ),
        ("loc-302", b"Location: /static.txt\r\nStatus: 302 Found\r\n\r\n", 302),
        # a status without a reason: nginx and HAProxy send none
        ("status-num", b"Content-Type: text/plain\r\nStatus: 404 Not Found\r\n\r\n", 404),
        ("status-odd", b"Content-Type: text/plain\r\nStatus: 299 Weird Thing\r\n\r\n", 299),
        ("status-599", b"Content-Type: text/plain\r\nStatus: 599 Odd\r\n\r\n", 599),
        (
            "status-last",
            b"Content-Type: text/plain\r\nX-A: 1\r\nStatus: 418 Teapot\r\n\r\n",
            418,
        ),
        # HTTP/1.1 201 Created: understood by lighttpd only
        ("httpline", b"Content-Type: text/plain\r\nStatus: 201 Created\r\n\r\n", 201),
        ("lower", b"content-type: text/plain\r\nx-low: 1\r\nStatus: 201 Created\r\n\r\n", 201),
        ("lf", b"Content-Type: text/plain\r\nX-A: 1\r\nStatus: 201 Created\r\n\r\n", 201),
        # an empty header block
        ("no-header", b"Status: 200 OK\r\n\r\n", 200),
        # Transfer-Encoding: mod_fcgid passes it raw, nginx and Apache code twice
        ("te-chunked", b"Content-Type: text/plain\r\nStatus: 200 OK\r\n\r\n", 200),
        (
            "hop",
            (
                b"Content-Type: text/plain\r\nX-Foo: 1\r\nServer: app/1\r\n"
                b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nStatus: 200 OK\r\n\r\n"
            ),
            200,
        ),
        (
            "cookies",
            (
                b"Content-Type: text/plain\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n"
                b"X-Dup: 1\r\nX-Dup: 2\r\nVary: A\r\nVary: B\r\nStatus: 200 OK\r\n\r\n"
            ),
            200,
        ),
        (
            "latin1",
            b"Content-Type: text/plain\r\nX-L: caf\xe9 \xc3\xa9\r\nStatus: 200 OK\r\n\r\n",
            200,
        ),
        # headers that mean something to one front end pass
        (
            "xaccel",
            (
                b"X-Accel-Redirect: /internal/file.txt\r\nX-App: 1\r\n"
                b"Content-Type: text/plain\r\nStatus: 200 OK\r\n\r\n"
            ),
            200,
        ),
        (
            "auth-ok",
            b"Variable-AUTH_USER: alice\r\nVariable-X_y: 2\r\nStatus: 200 OK\r\n\r\n",
            200,
        ),
    ],
)
def test_a_raw_head_becomes_one_that_every_front_end_takes(
    answer: str, head: bytes, status: int
) -> None:
    assert complete_head(answer_head(answer)) == (head, status)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("status-bad", "does not say a status"),
        ("badname", "line without a colon"),
        ("fold", "continued on a second line"),
        ("s100", "no interim responses"),
        ("s103", "no interim responses"),
        ("s101", "no front end switches protocols"),
    ],
)
def test_a_raw_head_that_breaks_front_ends_is_refused(answer: str, cause: str) -> None:
    with pytest.raises(ResponseError, match=cause):
        complete_head(answer_head(answer))


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (b"this is not a header block at all\n\n", "line without a colon"),
        (b"X : 1\n\n", "'X ' is no header name"),
        (b": 1\n\n", "b'' is no header name"),
        (b" X: 1\n\n", "continued on a second line"),
        (b"X: a\rY: b\n\n", "header 'X' has a CR, LF or NUL"),
        (b"X: a\r\r\n\n", "header 'X' has a CR, LF or NUL"),
        (b"X: a\0\n\n", "header 'X' has a CR, LF or NUL"),
        (b"Status: 200 O\rK\n\n", "reason phrase has a CR"),
        (b"Status: 200\nStatus: 404\n\n", "second status"),
        (b"HTTP/1.1 200 OK\nStatus: 404\n\n", "second status"),
        (b"HTTP/1.1 OK\n\n", "does not say a status"),
        (b"Status: 20\n\n", "does not say a status"),
        (b"Status: 2000\n\n", "does not say a status"),
        (b"Status: 000\n\n", "from 200 to 999"),
        (b"Status:\n\n", "does not say a status"),
        (b"X: 1\n", "ends with its first blank line"),
        (b"X: 1\n\nbody", "ends with its first blank line"),
        (b"X: 1\n\nY: 1\n\n", "ends with its first blank line"),
        (b"", "ends with its first blank line"),
    ],
)
def test_what_is_no_head_is_refused(head: bytes, cause: str) -> None:
    with pytest.raises(ResponseError, match=cause):
        complete_head(head)


def test_a_refusal_is_not_forgotten() -> None:
    for _ in range(2):
        with pytest.raises(ResponseError):
            complete_head(b"X Y: 1\n\n")


def test_spaces_around_a_value_are_not_part_of_it() -> None:
    assert (
        complete_head(b"A:b\nC: \t d \nE:\n\n")[0]
        == b"A: b\r\nC: d\r\nE: \r\nStatus: 200 OK\r\n\r\n"
    )


def test_a_long_head_is_completed_like_a_short_one() -> None:
    value = b"v" * 5000
    head, status = complete_head(b"X: " + value + b"\r\nStatus: 404\r\n\r\n")
    assert (head, status) == (b"X: " + value + b"\r\nStatus: 404 Not Found\r\n\r\n", 404)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", -1),
        (b"\n", 1),
        (b"\r\n", 2),
        (b"\r", -1),
        (b"A: b\r\n\r\nbody", 8),
        (b"A: b\n\nbody", 6),
        (b"A: b\r\n\nbody", 7),
        (b"A: b\n\r\nbody", 7),
        (b"A: b\r\n", -1),
        (b"A: b\n\r", -1),
        (b"A: b\r\r\n", -1),
        (b"A: b\n \nC: d\n\n", 13),
        (b"A: b\n\n\n", 6),
    ],
)
def test_the_end_of_a_head_is_found_however_it_arrives(data: bytes, end: int) -> None:
    assert end_of_head(data) == end
    assert end_of_head(bytearray(data)) == end
    written = bytearray()
    for byte in data:
        seen = len(written)
        written.append(byte)
        found = end_of_head(written, seen)
        if found >= 0:
            assert found == len(written) == end
            return
    assert end == -1


@pytest.mark.parametrize("blank", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_a_head_of_any_length_ends_with_its_blank_line(blank: bytes) -> None:
    for length in range(300):
        head = (b"X: " + bytes(length)).replace(b"\0", b"x") + blank
        assert end_of_head(head) == len(head)
        assert end_of_head(head + b"\n\nbody\r\n\r\n") == len(head)
        assert end_of_head(head[:-1]) == -1


def test_looking_for_the_end_leaves_a_buffer_free_to_grow() -> None:
    data = bytearray(b"A: b\r\n\r\n")
    assert end_of_head(data) == 8
    data += b"body"  # raises BufferError while a match still holds on to it


def test_a_head_is_the_headers_in_order_then_the_status() -> None:
    headers = [(b"location", b"/x"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]
    assert encode_head(201, headers) == (
        b"location: /x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nStatus: 201 Created\r\n\r\n"
    )
    assert encode_head(200, iter([])) == b"Status: 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, None, b"Status: 200 OK"),
        (200, "", b"Status: 200 OK"),
        (200, "OK", b"Status: 200 OK"),
        (200, "Fine", b"Status: 200 Fine"),
        (200, "Voil\xe0", b"Status: 200 Voil\xe0"),
        (413, None, b"Status: 413 Content Too Large"),
        (422, None, b"Status: 422 Unprocessable Content"),
        (299, None, b"Status: 299 Success"),
        (399, None, b"Status: 399 Redirection"),
        (499, None, b"Status: 499 Client Error"),
        (599, None, b"Status: 599 Server Error"),
        (999, None, b"Status: 999 Unknown"),
    ],
)
def test_a_status_always_has_a_reason(status: int, reason: str | None, line: bytes) -> None:
    assert encode_head(status, [], reason=reason) == line + b"\r\n\r\n"


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 103, 199, 1000, True, "200", None, 200.5])
def test_a_status_that_cannot_be_sent_is_refused(status: int) -> None:
    with pytest.raises(ResponseError, match="status"):
        encode_head(status, [])


HOP_BY_HOP = (
    b"Connection keep-alive Proxy-Authenticate Proxy-Authentication-Info Proxy-Authorization "
    b"Proxy-Connection TE trailer Transfer-Encoding UPGRADE"
).split()


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Status"])
def test_fields_that_are_not_the_apps_to_send_are_dropped(name: bytes) -> None:
    head = b"Content-Type: text/plain\r\nStatus: 200 OK\r\n\r\n"
    assert encode_head(200, [(name, b"x"), TEXT]) == head


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_they_are_dropped_from_raw_heads_too(name: bytes) -> None:
    assert complete_head(name + b": x\nA: b\n\n") == (b"A: b\r\nStatus: 200 OK\r\n\r\n", 200)


def test_a_dropped_field_does_not_smuggle_one_in() -> None:
    assert encode_head(200, [(b"Connection", b"x\r\nA: b")]) == b"Status: 200 OK\r\n\r\n"


@pytest.mark.parametrize("name", [b"Server", b"Date", b"Proxy-Status", b"X-Status", b"Via"])
def test_other_fields_pass(name: bytes) -> None:
    assert encode_head(200, [(name, b"x")]) == name + b": x\r\nStatus: 200 OK\r\n\r\n"


def test_a_204_has_no_content_length() -> None:
    length = (b"content-length", b"0")
    assert encode_head(204, [length]) == b"Status: 204 No Content\r\n\r\n"
    assert b"content-length: 0\r\n" in encode_head(304, [length])
    assert b"content-length: 0\r\n" in encode_head(200, [length])


@pytest.mark.parametrize("value", [b"a\r\nB: c", b"a\nB: c", b"a\rb", b"a\0b", b"\n", b"a\r\n b"])
def test_a_line_break_or_nul_in_a_value_is_refused(value: bytes) -> None:
    with pytest.raises(ResponseError, match="header 'X-Bad' has a CR, LF or NUL"):
        encode_head(200, [TEXT, (b"X-Bad", value), TEXT])


@pytest.mark.parametrize("reason", ["a\r\nB: c", "a\nb", "a\rb", "a\0b"])
def test_a_line_break_or_nul_in_a_reason_is_refused(reason: str) -> None:
    with pytest.raises(ResponseError, match="reason phrase has a CR, LF or NUL"):
        encode_head(200, [TEXT], reason=reason)


def test_a_reason_outside_latin_1_is_refused() -> None:
    with pytest.raises(ResponseError, match="is not Latin-1"):
        encode_head(200, [], reason="→")


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"a\n", b"\xe9", b"a\0", b"(a)"])
def test_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    for _ in range(2):  # what was refused once is not learned as good
        with pytest.raises(ResponseError, match="is no header name"):
            encode_head(200, [(name, b"x")])


@pytest.mark.parametrize(
    ("method", "status", "bodyless"),
    [
        ("GET", 200, False),
        ("HEAD", 200, True),
        (b"HEAD", 404, True),
        (b"GET", 404, False),
        ("GET", 204, True),
        ("GET", 304, True),
        ("head", 200, False),
        ("POST", 205, False),
    ],
)
def test_which_responses_have_no_body(method: str | bytes, status: int, bodyless: bool) -> None:
    assert is_bodyless(method, status) is bodyless


def test_an_error_response_says_what_happened() -> None:
    assert error_response(
        503, "Too many requests are running.", headers=[(b"Retry-After", b"1")]
    ) == (
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 55\r\nRetry-After: 1\r\n"
        b"Status: 503 Service Unavailable\r\n\r\n"
        b"503 Service Unavailable\nToo many requests are running.\n"
    )
    assert error_response(404).endswith(b"\r\n\r\n404 Not Found\n")


def test_an_error_response_to_head_is_the_same_head_without_the_body() -> None:
    whole = error_response(404, "Gone.")
    head = error_response(404, "Gone.", head_only=True)
    assert head == whole[: end_of_head(whole)]


def lines_of(head: bytes) -> Iterator[bytes]:
    """Lines as the most lenient reader would see them: CR or LF alone ends one, too."""
    return iter(re.split(rb"\r\n|\r|\n", head))


anything = st.one_of(st.binary(max_size=12), st.text("aB-:\r\n\0 \t", max_size=8).map(str.encode))
tokens = st.text("abcXYZ019-_.!~", min_size=1, max_size=10).map(str.encode)
clean = st.text(max_size=12).map(str.encode).filter(lambda value: not set(value) & set(b"\r\n\0"))


@given(
    st.lists(st.tuples(st.one_of(anything, tokens), st.one_of(anything, clean)), max_size=6),
    st.integers(0, 1100),
    st.one_of(st.none(), st.text("OK \r\n\0:é→", max_size=6)),
)
def test_no_headers_ever_make_a_line_of_their_own(
    headers: list[tuple[bytes, bytes]], status: int, reason: str | None
) -> None:
    try:
        head = encode_head(status, headers, reason=reason)
    except ResponseError:
        return
    *lines, status_line, empty, nothing = lines_of(head)
    assert (empty, nothing) == (b"", b"")
    assert status_line.startswith(b"Status: %d " % status)
    given_lines = [name + b": " + value for name, value in headers]
    assert [line for line in given_lines if line in lines] == lines
    assert end_of_head(head) == len(head)


@given(st.lists(st.tuples(tokens, clean), max_size=6), st.integers(200, 999))
def test_a_finished_head_needs_no_completing(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    stripped = [(name, value.strip(b" \t")) for name, value in headers]
    head = encode_head(status, stripped)
    assert complete_head(head) == (head, status)


@given(st.one_of(st.binary(max_size=40), st.text("Status:20 X\r\n", max_size=40).map(str.encode)))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    end = end_of_head(data)
    head = data if end < 0 else data[:end]
    try:
        completed, status = complete_head(head)
    except ResponseError:
        return
    assert end >= 0
    assert 200 <= status <= 999
    assert complete_head(completed) == (completed, status)


@pytest.mark.parametrize("name", [b"Content-Type", b"content-type", b"X-Own"])
def test_a_line_that_comes_again_is_the_same_in_its_own_case(name: bytes) -> None:
    for value in (b"text/plain", b"text/html", b"text/plain"):
        expected = name + b": " + value + b"\r\nStatus: 200 OK\r\n\r\n"
        for pair in ((name, value), [name, value]):
            assert encode_head(200, [pair]) == expected


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\n", b"\r", b"a\0"])
def test_what_is_no_line_is_refused_however_often_it_comes(value: bytes) -> None:
    for _ in range(3):
        with pytest.raises(ResponseError, match="CR, LF or NUL"):
            encode_head(200, [(b"content-type", b"text/plain"), (b"content-type", value)])


def test_lengths_are_those_that_are_sent() -> None:
    lengths: list[bytes] = []
    encode_head(200, [(b"Content-Length", b"5"), (b"x", b"y")], lengths=lengths)
    encode_head(204, [(b"content-length", b"6")], lengths=lengths)
    assert lengths == [b"5"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 204, 304, 599, 99]),
            st.lists(
                st.tuples(
                    st.sampled_from(
                        [b"content-type", b"Content-Length", b"set-cookie", b"connection", b"a b"]
                    ),
                    st.sampled_from([b"", b"a", b"12", b"12", b"0" * 19, b"a\r\nb: c", b"\0"]),
                ),
                max_size=4,
            ),
        ),
        max_size=5,
    )
)
def test_the_usual_way_makes_the_same_heads(
    heads: list[tuple[int, list[tuple[bytes, bytes]]]],
) -> None:
    for status, headers in [*heads, *heads]:
        lengths: list[bytes] = []
        try:
            expected = encode_head(status, headers, lengths=lengths)
        except ResponseError:
            with contextlib.suppress(ResponseError):
                assert usual_head(status, headers) is None
            continue
        head = usual_head(status, headers)
        if head is not None:
            assert head.data == expected
            assert [head.content_length] == ([int(length) for length in lengths] or [-1])


def test_the_usual_way_is_for_what_is_usual() -> None:
    for value in (b"text/plain", b"text/html", b"text/html"):
        pairs = [(b"content-length", b"13"), (b"content-type", value), (b"x-own", b"1")]
        head = usual_head(200, pairs)
        assert head is not None
        assert head.data == encode_head(200, pairs)
        assert head.content_length == 13
    assert usual_head(200, [TEXT]) is usual_head(200, [TEXT])
    for odd in ([[b"a", b"b"]], ((b"a", b"b"),), [(b"a", bytearray(b"b"))], [(b"a",)]):
        assert usual_head(200, odd) is None


class Pair(NamedTuple):
    name: bytes
    value: bytes


@pytest.mark.parametrize(
    "odd",
    [
        bytearray(b"text/plain"),
        memoryview(b"text/plain"),
        "text/plain",
        [b"content-type", b"text/plain"],
        (b"content-type", b"text/plain", b""),
    ],
    ids=repr,
)
def test_what_only_equals_the_last_headers_is_looked_at_like_any_other(odd: Any) -> None:
    length = (b"content-length", b"13")
    last = usual_head(200, [(b"content-type", b"text/plain"), length])
    assert last is usual_head(200, [(b"content-type", b"text/plain"), length])
    pair = odd if isinstance(odd, (tuple, list)) else (b"content-type", odd)
    assert usual_head(200, [pair, length]) is None
    named = usual_head(200, [Pair(b"content-type", b"text/plain"), length])
    assert named is None or (last is not None and named.data == last.data)
    assert usual_head(200, [(b"content-type", b"text/plain")]) is not last
    assert usual_head(404, [(b"content-type", b"text/plain"), length]) is not last


def test_headers_that_change_after_their_head_was_made_do_not_change_what_is_known() -> None:
    headers = [TEXT]
    first = usual_head(200, headers)
    headers.append((b"x-own", b"1"))
    assert usual_head(200, [TEXT]) is first
    other = usual_head(200, headers)
    assert other is not None
    assert other.data == encode_head(200, headers)


def test_nothing_of_a_client_is_kept_of_a_head() -> None:
    usual_head(200, [(b"set-cookie", b"session=secret"), (b"content-type", b"text/plain")])
    kept = [(line.value, line.whole) for line in _heads.last.lines]
    assert kept == [(None, b""), (b"text/plain", b"content-type: text/plain\r\n")]
    assert _heads.last.head is None
    assert _heads.last.pairs == []


def test_a_header_without_a_name_is_refused_whatever_came_before() -> None:
    for headers in ([(b"", b"x")], [(b"X-A", b"1"), (b"", b"")]):
        with pytest.raises(ResponseError, match="no header name"):
            usual_head(200, headers)
