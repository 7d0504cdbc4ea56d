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
