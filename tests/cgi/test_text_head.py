"""Heads out of text: the same as those out of bytes, learned or not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trifcgi.cgi import text_head
from trifcgi.cgi.head import encode_head
from trifcgi.cgi.text_head import encode_text_head
from trifcgi.errors import ResponseError

STATUSES = st.sampled_from(
    ["200 OK", "200", "200 ", "404 Gone away", "204 No Content", "304 Not Modified", "999 \xe9",
     "101 Switching", "20 OK", "200\r\nX: y", "200 a\0b", "2000 OK", "200 \u20ac"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["Content-Type", "content-length", "X-A", "Set-Cookie", "Status", "Connection", "X" * 70,
     "bad name", "", "X:", "X-\u20ac", "Transfer-Encoding"]
)  # fmt: skip
VALUES = st.sampled_from(
    ["text/plain", "13", "-1", "\xb2", "\u0661", "", "\xe9", "\u20ac", "a\r\nX: y", "a\nb", "a\rb",
     "a\0b", "9" * 30]
)  # fmt: skip


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        made = function(*arguments)
    except (ResponseError, TypeError) as error:
        return type(error)
    return made.head, made.status, made.content_length


@given(status=STATUSES, headers=st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_what_is_looked_up_is_the_same_as_what_is_worked_out(
    status: str, headers: list[tuple[str, str]]
) -> None:
    expected = outcome(text_head._encode, status, headers)
    assert outcome(encode_text_head, status, headers) == expected
    assert outcome(encode_text_head, status, headers) == expected


ALIKE = [("Content-Type", "a\x85b"), ("content-length", "13"), ("Server", "\x1cx")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["200 OK", "404 Not Found"]),
            st.lists(st.sampled_from(ALIKE), max_size=3),
            st.sampled_from(["13", "7", "", "-1", "\u0661", "9" * 19, "x"]),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_what_came_before_changes_nothing(
    heads: list[tuple[str, list[tuple[str, str]], str]],
) -> None:
    for status, headers, length in heads:
        same = [(name, length if value == "13" else value) for name, value in headers]
        expected = outcome(text_head._encode, status, same)
        assert outcome(encode_text_head, status, same) == expected


def test_a_head_is_known_again_whatever_its_length() -> None:
    encode_text_head("200 OK", ALIKE)
    for length in ("13", "5"):
        headers = [ALIKE[0], ("content-length", length), ALIKE[2]]
        made = encode_text_head("200 OK", headers)
        assert made.content_length == int(length)
        assert made.head == text_head._encode("200 OK", headers).head
    last = text_head._memory.last
    assert last is not None
    assert encode_text_head("200 OK", ALIKE) is last.head


def test_nothing_of_a_client_is_kept() -> None:
    encode_text_head("200 OK", ALIKE)
    encode_text_head("200 OK", [*ALIKE, ("Set-Cookie", "secret")])
    last = text_head._memory.last
    assert last is not None
    assert last.names == [name for name, _ in ALIKE]


def test_a_head() -> None:
    made = encode_text_head("200 OK", [("Content-Length", "13"), ("X-Name", "caf\xe9")])
    assert made.head == encode_head(200, [(b"Content-Length", b"13"), (b"X-Name", b"caf\xe9")])
    assert (made.status, made.content_length) == (200, 13)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, []),
        (b"200 OK", []),
        ([], []),
        ("200 OK", (("X-A", "b"),)),
        ("200 OK", [("X-A", b"b")]),
        ("200 OK", [(b"X-A", "b")]),
        ("200 OK", [("X-A", 1)]),
        ("200 OK", [("X-A",)]),
        ("200 OK", [None]),
    ],
)
def test_what_is_no_text_is_a_type_error(status: Any, headers: Any) -> None:
    with pytest.raises(TypeError, match=r"start_response|pairs of str"):
        encode_text_head(status, headers)


def test_what_is_learned_is_bounded() -> None:
    for number in range(1000):
        encode_text_head(f"200 Reason {number}", [(f"X-{number}", "value")])
    assert len(text_head._statuses) <= 256
    assert len(text_head._names) <= 256
