"""The params that ``trifcgi request`` makes of what was typed."""

import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from trifcgi.cgi import Meaning
from trifcgi.cli.request import Question, prepare
from trifcgi.config import TcpAddress
from trifcgi.protocol import Role


def asked(path: str = "/", **changes: Any) -> Question:  # Any: of prepare()'s many types
    arguments: dict[str, Any] = {
        "address": "127.0.0.1:9000", "path": path, "method": None, "data": (), "headers": (),
        "params": (), "include": False, "verbose": False, "role": "responder",
        "filter_data": None, "timeout": None,
    }  # fmt: skip
    return prepare(**arguments | changes)


def params(path: str = "/", **changes: Any) -> dict[bytes, bytes]:
    return dict(asked(path, **changes).params)


def test_a_plain_get() -> None:
    question = asked("/a%20b/%C3%A9?x=1&y=%20#part")
    found = dict(question.params)
    assert (question.address, question.role) == (TcpAddress("127.0.0.1", 9000), Role.RESPONDER)
    assert (question.body, question.timeout) == (b"", math.inf)
    assert found[b"REQUEST_METHOD"] == b"GET"
    assert found[b"SCRIPT_NAME"] == b""
    assert found[b"PATH_INFO"] == "/a b/é".encode()
    assert found[b"QUERY_STRING"] == b"x=1&y=%20"
    assert found[b"REQUEST_URI"] == b"/a%20b/%C3%A9?x=1&y=%20"
    assert b"CONTENT_LENGTH" not in found


def test_it_means_what_was_asked() -> None:
    meaning = Meaning(asked("/a%20b?x=1", headers=["X-Trace: 7", "Host: shop:81"]).params)
    assert (meaning.method, meaning.path, meaning.raw_path) == ("GET", "/a b", b"/a%20b")
    assert (meaning.root_path, meaning.query_string, meaning.scheme) == ("", b"x=1", "http")
    assert (b"x-trace", b"7") in meaning.headers
    assert (b"host", b"shop:81") in meaning.headers


def test_a_path_typed_with_odd_characters_is_quoted_once() -> None:
    found = params("a b/é%41")
    assert found[b"REQUEST_URI"] == b"/a%20b/%C3%A9%41"
    assert found[b"PATH_INFO"] == "/a b/éA".encode()


def test_a_body_makes_a_post_with_its_length() -> None:
    question = asked(data=["a=1", "b=2"])
    found = dict(question.params)
    assert question.body == b"a=1&b=2"
    assert found[b"REQUEST_METHOD"] == b"POST"
    assert found[b"CONTENT_LENGTH"] == b"7"
    assert found[b"CONTENT_TYPE"] == b"application/x-www-form-urlencoded"


def test_an_empty_body_is_a_body() -> None:
    found = params(data=[""])
    assert (found[b"REQUEST_METHOD"], found[b"CONTENT_LENGTH"]) == (b"POST", b"0")


def test_method_and_content_type_can_be_told() -> None:
    found = params(data=["{}"], method="PUT", headers=["content-type: application/json"])
    assert found[b"REQUEST_METHOD"] == b"PUT"
    assert found[b"CONTENT_TYPE"] == b"application/json"
    assert b"HTTP_CONTENT_TYPE" not in found


def test_a_body_can_come_from_a_file_or_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\x00\xff\n")
    assert asked(data=[f"@{file}"]).body == b"\x00\xff\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert asked(data=["@-"]).body == b"piped"


def test_headers_are_set_and_left_out() -> None:
    found = params(headers=["X-A: 1:2", "Accept:"])
    assert found[b"HTTP_X_A"] == b"1:2"
    assert b"HTTP_ACCEPT" not in found


def test_params_win_and_may_hold_anything() -> None:
    found = params(
        headers=["Host: a"],
        params=["HTTP_HOST=b", "SCRIPT_FILENAME=/srv/x=y.py", "EMPTY=", "BYTES=\udcff"],
    )
    assert found[b"HTTP_HOST"] == b"b"
    assert found[b"SCRIPT_FILENAME"] == b"/srv/x=y.py"
    assert found[b"EMPTY"] == b""
    assert found[b"BYTES"] == b"\xff"


def test_a_filter_gets_its_data_with_their_length() -> None:
    question = asked(role="filter", filter_data="abc")
    assert (question.role, question.data) == (Role.FILTER, b"abc")
    found = dict(question.params)
    assert found[b"FCGI_DATA_LENGTH"] == b"3"
    assert found[b"FCGI_DATA_LAST_MOD"].isdigit()


def test_a_timeout_is_a_time() -> None:
    assert asked(timeout="500ms").timeout == 0.5
