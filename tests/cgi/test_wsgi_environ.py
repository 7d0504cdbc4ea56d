"""The WSGI environ, held against PEP 3333's own checker for every captured request."""

import io
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import CapturedRequest, load_capture, load_captures
from trifcgi.cgi import Meaning, environ, known, wsgi_environ
from trifcgi.protocol import decode_pairs, encode_pairs

GET = [(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/")]


def environ_of(*pairs: tuple[bytes, bytes]) -> dict[str, str]:
    return wsgi_environ([(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/"), *pairs])


def check(request: CapturedRequest) -> None:
    """Pass the environ through wsgiref's validator, as its server would."""
    meaning = Meaning(request.params)
    environ: dict[str, Any] = dict(meaning.wsgi_environ())
    environ |= {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": meaning.scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("204 No Content", [])
        return []

    def start_response(*args: object) -> Callable[[bytes], object]:
        return lambda data: None

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unknown REQUEST_METHOD")
        result = validator(app)(environ, start_response)
        assert list(result) == []
        result.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "front_end",
    [
        "nginx",
        "apache-mod_proxy_fcgi",
        "apache-mod_fcgid",
        "lighttpd",
        "caddy",
        "haproxy",
        "cgi-fcgi",
    ],
)
def test_every_captured_request_gives_a_valid_environ(front_end: str) -> None:
    checked = 0
    for capture in load_captures():
        if capture.front_end != front_end:
            continue
        for request in capture.requests:
            if request.param(b"REQUEST_METHOD") is not None:
                check(request)
                checked += 1
    assert checked > 0


@pytest.mark.parametrize(
    ("file", "dup", "cookie"),
    [
        ("nginx-dup-headers", "a, b, c", "a=1; b=2"),
        ("haproxy-dup-headers", "a, b, c", "a=1; b=2"),
        ("apache-dup-headers", "a, b, c", "a=1, b=2"),
        ("lighttpd-dup-headers", "a, b, c", "a=1; b=2"),
        ("caddy-dup-headers", "a, b, c", "a=1, b=2"),
    ],
)
def test_repeated_headers_are_joined(file: str, dup: str, cookie: str) -> None:
    environ = wsgi_environ(load_capture(file).requests[0].params)
    assert environ["HTTP_X_DUP"] == dup
    assert environ["HTTP_COOKIE"] == cookie


def test_other_repeated_params_are_not_joined() -> None:
    environ = wsgi_environ(load_capture("nginx-pathinfo-get-query").requests[0].params)
    assert environ["SCRIPT_NAME"] == "/app"
    assert environ["PATH_INFO"] == "/hello/world"


def test_values_are_bytes_read_as_latin_1() -> None:
    environ = wsgi_environ(load_capture("nginx-raw-utf8").requests[0].params)
    assert environ["PATH_INFO"] == "/app/caf\xc3\xa9"
    assert environ["QUERY_STRING"] == "q=\xc3\xa9"
    header = wsgi_environ(load_capture("nginx-latin1-header").requests[0].params)["HTTP_X_L"]
    assert header == "caf\xe9 \xc3\xa9"


def test_what_is_empty_or_no_number_is_absent() -> None:
    environ = wsgi_environ(load_capture("nginx-get-query").requests[0].params)
    assert environ.keys().isdisjoint(["CONTENT_LENGTH", "CONTENT_TYPE", "REMOTE_USER"])
    chunked = wsgi_environ(load_capture("caddy-post-chunked").requests[0].params)
    assert "CONTENT_LENGTH" not in chunked
    assert chunked["CONTENT_TYPE"] == "text/plain"
    assert "HTTP_HOST" not in wsgi_environ(load_capture("caddy-http10").requests[0].params)


@pytest.mark.parametrize("front_end", ["nginx", "caddy", "lighttpd"])
def test_the_twins_of_content_length_and_type_are_absent(front_end: str) -> None:
    params = load_capture(f"{front_end}-post-small").requests[0].params
    environ = wsgi_environ([*params, (b"HTTP_CONTENT_LENGTH", b"5"), (b"HTTP_PROXY", b"x")])
    assert environ["CONTENT_LENGTH"] == "7"
    forged = ["HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_PROXY"]
    assert environ.keys().isdisjoint(forged)


def test_a_server_name_is_fit_for_a_url() -> None:
    haproxy = wsgi_environ(load_capture("haproxy-host-ipv6").requests[0].params)
    assert (haproxy["SERVER_NAME"], haproxy["SERVER_PORT"]) == ("[::1]", "18401")
    nameless = wsgi_environ(load_capture("caddy-http10").requests[0].params)
    assert (nameless["SERVER_NAME"], nameless["SERVER_PORT"]) == ("localhost", "80")


def test_the_servers_own_keys_cannot_be_set_from_outside() -> None:
    assert "wsgi.input" not in environ_of((b"wsgi.input", b"x"))


def test_what_wsgi_demands_is_there_even_where_no_front_end_said_it() -> None:
    assert environ_of() == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


BROWSER = [(b"HTTP_ACCEPT", b"*/*"), (b"HTTP_COOKIE", b"session=secret")]

PAIRS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"SCRIPT_NAME",
                b"PATH_INFO",
                b"HTTP_HOST",
                b"HTTP_COOKIE",
                b"HTTP_AUTHORIZATION",
                b"HTTPS",
                b"HTTP_X_A",
                b"DOCUMENT_ROOT",
                b"",
                b"wsgi.x",
                b"HTTP_PROXY",
                b"X" * 200,
            ]
        ),
        st.sampled_from(
            [b"", b"/", b"/a", b"on", b"caf\xc3\xa9", b"v" * 127, b"v" * 128, b"v" * 300]
        ),
    ),
    max_size=8,
)


@given(requests=st.lists(PAIRS, min_size=2, max_size=5))
def test_params_of_earlier_requests_change_nothing(
    requests: list[list[tuple[bytes, bytes]]],
) -> None:
    for pairs in requests:
        pairs = [(b"REQUEST_METHOD", b"GET"), *pairs]
        assert wsgi_environ(encode_pairs(pairs)) == wsgi_environ(pairs)


ENOUGH = 2 * known._LEARN_EVERY  # blocks of one kind, for it to be known


def forget() -> None:
    known.memory.forget()


def steps_in_memory() -> list[known.Step]:
    found, left = [], [known.memory.root]
    while left:
        step = left.pop()
        found.append(step)
        left += [other for other in (step.then, step.other) if other is not None]
    return found


def leaves_in_memory() -> list[known.Leaf]:
    leaves = []
    for step in steps_in_memory():
        leaf = step.leaf
        while leaf is not None:
            leaves.append(leaf)
            leaf = leaf.other
    return leaves


def runs_in_memory() -> list[bytes]:
    """What is known again, names and values."""
    leads = [step.lead[:-1] for step in steps_in_memory()]
    return [*leads, *(leaf.tail for leaf in leaves_in_memory())]


def test_only_what_says_nothing_of_a_client_is_known_again() -> None:
    secrets = [
        (b"HTTP_COOKIE", b"session=secret"),
        (b"HTTP_AUTHORIZATION", b"Basic secret"),
        (b"HTTP_HOST", b"secret" * 50),
        (b"REQUEST_URI", b"/secret"),
    ]
    block = encode_pairs([(b"REQUEST_METHOD", b"GET"), *secrets])
    forget()
    for _ in range(ENOUGH):
        wsgi_environ(block)
        assert (b"cookie", b"session=secret") in Meaning(block).headers
    assert b"\x0e\x03REQUEST_METHODGET" in runs_in_memory()
    assert not [raw for raw in runs_in_memory() if b"secret" in raw]
    leaf = leaves_in_memory()[0]
    assert b"GET" in leaf.values
    assert "secret" not in str((leaf.values, leaf.headers, leaf.scope, leaf.environ))


def test_the_usual_environ_has_nothing_of_a_client_in_it() -> None:
    forget()
    pairs = [*GET, (b"QUERY_STRING", b"q=secret"), (b"REMOTE_ADDR", b"secret"), *BROWSER]
    for _ in range(ENOUGH):
        assert wsgi_environ(encode_pairs(pairs))["HTTP_COOKIE"] == "session=secret"
    usual = leaves_in_memory()[0].environ
    assert usual is not None
    assert usual["HTTP_ACCEPT"] == "*/*"
    assert "secret" not in str(usual)


@pytest.mark.parametrize("value", [b"", b"x"])
@pytest.mark.parametrize("name", sorted(environ._DECISIVE))
def test_what_has_to_be_corrected_always_is(name: str, value: bytes) -> None:
    forget()
    numbers = [b"%d" % number for number in range(10 * known._LEARN_EVERY)]
    for each in [*numbers, value, value, value]:
        pairs = [*GET, (b"QUERY_STRING", b""), (name.encode(), each)]
        assert wsgi_environ(encode_pairs(pairs)) == wsgi_environ(pairs)


def test_an_environ_is_its_callers_own() -> None:
    block = encode_pairs([*GET, (b"QUERY_STRING", b""), *BROWSER])
    for _ in range(ENOUGH):
        environ = wsgi_environ(block)
        assert "x" not in environ
        environ["x"] = "y"
        del environ["HTTP_ACCEPT"]


def test_what_is_known_again_is_bounded() -> None:
    forget()
    many = [(b"SERVER_NAME", b"%d" % n) for n in range(1000)]
    for number in range(1000):
        block = encode_pairs([*many[:number], *GET, (b"X%d" % number, b"x"), *many[:number]])
        assert Meaning(block).server == Meaning(decode_pairs(block)).server
    assert 0 < len(leaves_in_memory()) <= known._MOST_LEAVES
    assert len(steps_in_memory()) <= 1 + known._MOST_STEPS + known._MOST_PARAMS
    assert max(map(len, runs_in_memory())) <= known._MOST_KEPT


def test_few_are_known_in_each_others_place() -> None:
    forget()
    for number in range(20 * known._LEARN_EVERY):
        Meaning(encode_pairs([(b"X%d" % number, b"x"), *GET]))
        Meaning(encode_pairs([*GET, (b"SERVER_NAME", b""), *[(b"HTTPS", b"")] * number]))
    for step in steps_in_memory():
        beside, leaves = step.then, step.leaf
        for _ in range(known._MOST_BESIDE):
            beside = beside and beside.other
            leaves = leaves and leaves.other
        assert beside is None
        assert leaves is None


def test_neighbours_that_come_again_are_known_by_one_look() -> None:
    alike = [(b"SERVER_NAME", b"a.test"), (b"SERVER_PORT", b"80"), (b"HTTP_HOST", b"a.test")]
    pairs = [*GET[:1], (b"REQUEST_URI", b"/"), *alike, (b"HTTP_COOKIE", b"a=1")]
    block = encode_pairs(pairs)
    forget()
    for _ in range(ENOUGH):
        assert Meaning(block).headers == Meaning(pairs).headers
        assert Meaning(block).server == ("a.test", 80)
        assert wsgi_environ(block) == wsgi_environ(pairs)
    assert encode_pairs(alike) in runs_in_memory()


def test_what_never_comes_again_is_given_up() -> None:
    forget()
    for number in range(10 * known._LEARN_EVERY):
        Meaning(encode_pairs([(b"SERVER_NAME", b"%d" % number), *GET]))
    first = known.memory.root.then
    assert first is not None
    assert first.name == b"SERVER_NAME"
    assert first.lead == b"\x0b"
    before = known.memory._misses
    Meaning(encode_pairs([(b"SERVER_NAME", b"never"), *GET]))
    assert known.memory._misses == before


def test_names_that_are_long_are_not_kept() -> None:
    long = b"HTTP_" + b"X" * 1000
    forget()
    for _ in range(ENOUGH):
        assert Meaning(encode_pairs([(long, b"1"), *GET])).headers[0][1] == b"1"
    assert len(steps_in_memory()) == 1


def test_all_is_forgotten_from_time_to_time() -> None:
    forget()
    block = encode_pairs(GET)
    for _ in range(ENOUGH):
        Meaning(block)
    assert leaves_in_memory()
    known.memory.readings = known.FORGET_AFTER
    assert Meaning(block).method == "GET"
    assert not leaves_in_memory()


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [b"HTTP_HOST", b"HTTP_ACCEPT", b"HTTP_CONNECTION", b"SERVER_NAME", b"HTTPS"]
                ),
                st.sampled_from([b"", b"a", b"on", b"b.test"]),
            ),
            max_size=6,
        ),
        max_size=6,
    )
)
def test_what_came_before_changes_nothing(requests: list[list[tuple[bytes, bytes]]]) -> None:
    for pairs in requests:
        block = encode_pairs([*pairs, *GET])
        meant, given = Meaning([*pairs, *GET]), Meaning(block)
        assert given.headers == meant.headers
        assert (given.server, given.scheme) == (meant.server, meant.scheme)
        assert wsgi_environ(block) == wsgi_environ([*pairs, *GET])


def test_nobodys_path_is_kept_with_an_environ() -> None:
    """It is worked out apart for each request."""
    forget()
    block = encode_pairs(
        [
            (b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/secret"), (b"PATH_INFO", b"/secret"),
            (b"QUERY_STRING", b""), (b"SERVER_NAME", b"a.test"), (b"SERVER_PORT", b"80"),
            (b"SERVER_PROTOCOL", b"HTTP/1.1"),
        ]
    )  # fmt: skip
    for _ in range(20):
        made = wsgi_environ(block)
        assert made["SCRIPT_NAME"] == made["PATH_INFO"] == "/secret"
    (leaf,) = leaves_in_memory()
    assert leaf.environ is not None
    assert "/secret" not in leaf.environ.values()
