"""Headers, addresses, scheme and body length, from what each front end sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import load_capture, load_captures
from trifcgi.cgi import BadParams, Meaning
from trifcgi.cgi.names import LearnedNames, header_name
from trifcgi.protocol import encode_pairs


def captured(file: str, index: int = 0) -> Meaning:
    return Meaning(load_capture(file).requests[index].params)


def meaning_of(*pairs: tuple[bytes, bytes]) -> Meaning:
    return Meaning([(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/"), *pairs])


def header_values(meaning: Meaning, name: bytes) -> list[bytes]:
    return [value for header, value in meaning.headers if header == name]


def test_every_captured_request_has_a_meaning() -> None:
    understood = 0
    for capture in load_captures():
        for request in capture.requests:
            if request.param(b"REQUEST_METHOD") is None:
                continue
            meaning = Meaning(request.params)
            understood += 1
            assert meaning.path.startswith("/")
            assert meaning.path.startswith(meaning.root_path)
            assert meaning.raw_path.startswith(b"/")
            assert b"?" not in meaning.raw_path
            assert meaning.http_version in {"1.0", "1.1", "2"}
            assert meaning.scheme == ("https" if request.param(b"HTTPS") else "http")
            for name, value in meaning.headers:
                assert name == name.lower()
                assert (b"HTTP_" + name.upper().replace(b"-", b"_"), value) in request.params or (
                    name in {b"content-type", b"content-length", b"cookie"}
                )
    assert understood > 600


def test_params_without_a_method_make_no_request() -> None:
    # HAProxy, a path with a bad escape: BEGIN_REQUEST, ABORT_REQUEST, nothing between
    with pytest.raises(BadParams, match="no REQUEST_METHOD, so they make no request"):
        captured("haproxy-pct-nul")
    with pytest.raises(BadParams, match="no REQUEST_METHOD"):
        Meaning([(b"REQUEST_METHOD", b"")])
    with pytest.raises(BadParams, match="is no HTTP method: b'GET /'"):
        Meaning([(b"REQUEST_METHOD", b"GET /")])
    assert issubclass(BadParams, ValueError)


def test_a_method_stays_as_the_client_wrote_it() -> None:
    assert captured("nginx-odd-method").method == "FOO-BAR"
    assert captured("caddy-propfind").method == "PROPFIND"
    assert Meaning([(b"REQUEST_METHOD", b"get")]).method == "get"


@pytest.mark.parametrize(
    ("file", "scheme", "http_version"),
    [
        ("nginx-get-query", "http", "1.1"),
        ("nginx-tls", "https", "1.1"),
        ("nginx-h2-post", "https", "2"),
        ("nginx-http10", "http", "1.0"),
        ("nginx-spoof", "http", "1.1"),  # HTTP_HTTPS, HTTP_X_FORWARDED_PROTO, HTTP_FORWARDED
        ("apache-tls-h2-post", "https", "2"),
        ("lighttpd-spoof", "http", "1.1"),
        ("caddy-tls-tls", "https", "1.1"),
        ("haproxy-get-query", "http", "1.1"),  # no REQUEST_SCHEME
        ("haproxy-tls-kept-connection-2", "https", "2"),
        ("haproxy-chk-healthcheck", "http", "1.0"),
        ("cgi-fcgi-get-tcp", "http", "1.1"),
    ],
)
def test_scheme_and_version(file: str, scheme: str, http_version: str) -> None:
    meaning = captured(file)
    assert (meaning.scheme, meaning.http_version) == (scheme, http_version)


@pytest.mark.parametrize(
    ("https", "request_scheme", "scheme"),
    [
        (b"on", b"http", "https"),
        (b"ON", b"", "https"),
        (b"1", b"", "https"),
        (b"off", b"http", "http"),
        (b"", b"https", "https"),
        (b"", b"HTTPS", "https"),
        (b"", b"gopher", "http"),
    ],
)
def test_https_comes_before_request_scheme(
    https: bytes, request_scheme: bytes, scheme: str
) -> None:
    assert meaning_of((b"HTTPS", https), (b"REQUEST_SCHEME", request_scheme)).scheme == scheme


@pytest.mark.parametrize(
    ("file", "server"),
    [
        ("nginx-get-query", ("example.test", 18001)),
        ("apache-host-port", ("example.test", 8443)),  # the port of the Host header
        ("apache-host-ipv6", ("::1", 8443)),  # SERVER_NAME=[::1]
        ("lighttpd-host-ipv6", ("::1", 18201)),
        ("caddy-tls-tls", ("example.test", 443)),
        ("caddy-http10", None),  # SERVER_NAME=""
        ("lighttpd-http10", ("127.0.0.1", 18201)),
        ("haproxy-host-port", ("Example.TEST", 18401)),  # SERVER_NAME=Example.TEST:8443
        ("haproxy-host-ipv6", ("::1", 18401)),  # SERVER_NAME=[::1]:8443
        ("haproxy-chk-healthcheck", ("127.0.0.1", 19000)),
    ],
)
def test_the_server_is_named_without_port_and_brackets(
    file: str, server: tuple[str, int] | None
) -> None:
    assert captured(file).server == server


@pytest.mark.parametrize(
    ("pairs", "server"),
    [
        ([(b"SERVER_NAME", b"::1"), (b"SERVER_PORT", b"8443")], ("::1", 8443)),  # Caddy
        ([(b"SERVER_NAME", b"a.test:8080")], ("a.test", 8080)),
        ([(b"SERVER_NAME", b"[::1]:8080")], ("::1", 8080)),
        ([(b"SERVER_NAME", b"a.test")], ("a.test", 80)),
        ([(b"SERVER_NAME", b"a.test"), (b"HTTPS", b"on")], ("a.test", 443)),
        ([(b"SERVER_NAME", b"a.test"), (b"SERVER_PORT", b"x")], ("a.test", 80)),
        ([(b"SERVER_NAME", b"a.test"), (b"SERVER_PORT", b"70000")], ("a.test", 80)),
        ([(b"SERVER_NAME", b""), (b"SERVER_ADDR", b"10.0.0.1")], ("10.0.0.1", 80)),
        ([(b"SERVER_PORT", b"80")], None),
        ([(b"SERVER_NAME", b":")], None),
    ],
)
def test_a_server_port_is_always_known(
    pairs: list[tuple[bytes, bytes]], server: tuple[str, int] | None
) -> None:
    assert meaning_of(*pairs).server == server


def test_the_client_is_an_address_and_a_port() -> None:
    request = load_capture("nginx-get-query").requests[0]
    port = request.param(b"REMOTE_PORT")
    assert port is not None
    assert captured("nginx-get-query").client == ("127.0.0.1", int(port))
    assert meaning_of((b"REMOTE_ADDR", b"::1"), (b"REMOTE_PORT", b"")).client == ("::1", 0)


def test_a_port_is_a_number_below_65536() -> None:
    given = {b"%d" % port: port for port in (1, 80, 51_234, 65_535)}
    odd = {b"0": 0, b"65536": 0, b"00080": 80, b"-1": 0, b"+1": 0, b" 1": 0, b"1_0": 0, b"1x": 0}
    for digits, port in [*given.items(), *odd.items()]:
        assert meaning_of((b"REMOTE_ADDR", b"::1"), (b"REMOTE_PORT", digits)).client == (
            "::1",
            port,
        )
    assert meaning_of((b"REMOTE_ADDR", b"::1")).client == ("::1", 0)


def test_some_requests_come_from_no_client() -> None:
    assert captured("haproxy-chk-healthcheck").client is None
    assert captured("cgi-fcgi-get-tcp").client is None
    assert meaning_of((b"REMOTE_ADDR", b"unix:"), (b"REMOTE_PORT", b"")).client is None


@pytest.mark.parametrize(
    ("file", "content_length", "content_type"),
    [
        ("nginx-get-query", None, None),  # "" and ""
        ("nginx-post-small", 7, b"application/x-www-form-urlencoded"),
        ("nginx-post-chunked", 12, b"text/plain"),
        ("apache-get-query", None, None),  # absent
        ("apache-post-chunked-slow", None, b"text/plain"),  # absent, with a body
        ("caddy-get-query", 0, None),
        ("caddy-post-chunked", None, b"text/plain"),  # -1
        ("lighttpd-spoof", 0, None),  # HTTP_CONTENT_LENGTH=5
        ("caddy-spoof", 0, None),
        ("haproxy-get-query", 0, None),
    ],
)
def test_body_length_and_type(
    file: str, content_length: int | None, content_type: bytes | None
) -> None:
    meaning = captured(file)
    assert meaning.content_length == content_length
    assert meaning.content_type == content_type
    sent = [] if content_length is None else [b"%d" % content_length]
    assert header_values(meaning, b"content-length") == sent
    assert header_values(meaning, b"content-type") == ([content_type] if content_type else [])


@pytest.mark.parametrize("length", [b"-1", b"+1", b" 1", b"1_0", b"0x1", b"\xb2", b"9" * 30, b""])
def test_a_content_length_that_is_no_number_is_unknown(length: bytes) -> None:
    meaning = meaning_of((b"CONTENT_LENGTH", length))
    assert meaning.content_length is None
    assert header_values(meaning, b"content-length") == []


@pytest.mark.parametrize(
    ("file", "dup", "cookie", "accept"),
    [
        ("nginx-dup-headers", [b"a", b"b", b"c"], b"a=1; b=2", [b"a", b"b"]),
        ("haproxy-dup-headers", [b"a", b"b", b"c"], b"a=1; b=2", [b"a", b"b"]),
        ("apache-dup-headers", [b"a, b, c"], b"a=1, b=2", [b"a, b"]),
        ("mod_fcgid-dup-headers", [b"a, b, c"], b"a=1, b=2", [b"a, b"]),
        ("lighttpd-dup-headers", [b"a, b, c"], b"a=1; b=2", [b"a, b"]),
        ("caddy-dup-headers", [b"a, b, c"], b"a=1, b=2", [b"a, b"]),
        ("nginx-h2-post", [], b"a=1; b=2", [b"*/*"]),
    ],
)
def test_repeated_headers_stay_apart_and_cookies_are_one(
    file: str, dup: list[bytes], cookie: bytes, accept: list[bytes]
) -> None:
    meaning = captured(file)
    assert header_values(meaning, b"x-dup") == dup
    assert header_values(meaning, b"cookie") == [cookie]
    assert header_values(meaning, b"accept") == accept


@pytest.mark.parametrize("file", ["nginx-spoof", "apache-spoof", "lighttpd-spoof", "caddy-spoof"])
def test_a_client_cannot_write_what_counts(file: str) -> None:
    meaning = captured(file)
    assert meaning.script_name != b"/evil"
    assert meaning.path_info != b"/evil"
    assert meaning.remote_user is None
    assert meaning.scheme == "http"
    assert meaning.content_length in {None, 0}


@pytest.mark.parametrize(
    ("file", "left_out"),
    [
        ("nginx-hop-headers", [b"connection", b"te", b"keep-alive", b"proxy-authorization"]),
        ("lighttpd-hop-headers", [b"connection", b"te", b"keep-alive", b"proxy-connection"]),
        ("nginx-upgrade", [b"connection", b"upgrade"]),
        ("nginx-expect", [b"expect"]),
        ("nginx-post-chunked", [b"transfer-encoding"]),
        ("nginx-post-chunked-trailer", [b"trailer", b"transfer-encoding"]),
        ("caddy-proxy-header", [b"proxy"]),
    ],
)
def test_headers_that_are_not_for_the_app_are_left_out(file: str, left_out: list[bytes]) -> None:
    meaning = captured(file)
    names = {name for name, _ in meaning.headers}
    assert b"host" in names
    assert names.isdisjoint(left_out)
    for name in left_out:
        assert "HTTP_" + name.decode().upper().replace("-", "_") not in meaning.wsgi_environ()


def test_header_names_come_back_as_far_as_they_can() -> None:
    names = {name for name, _ in captured("caddy-underscore2").headers}
    assert {b"x-under", b"x.dot", b"x!ex", b"a-b-c"} <= names


def test_header_values_are_the_bytes_that_were_sent() -> None:
    meaning = captured("nginx-latin1-header")
    assert header_values(meaning, b"x-l") == [b"caf\xe9 \xc3\xa9"]
    assert header_values(meaning, b"x-tab") == [b"a\tb"]
    assert len(header_values(captured("caddy-cookie-16k"), b"cookie")[0]) > 16000


def test_a_host_that_the_client_did_not_send_is_no_header() -> None:
    assert header_values(captured("caddy-http10"), b"host") == []  # HTTP_HOST=""
    assert header_values(captured("lighttpd-http10"), b"host") == []


def test_a_front_ends_own_environment_never_becomes_headers() -> None:
    params = load_capture("apache-get-query").requests[0].params
    sent = {name for name, _ in params}
    assert {b"PATH", b"CONTEXT_PREFIX", b"SERVER_SIGNATURE"} <= sent
    assert {name for name, _ in Meaning(params).headers} == {b"host"}
    odd = meaning_of((b"proxy-nokeepalive", b"1"), (b"http_x", b"1"), (b"HTTP_", b"1"))
    assert odd.headers == []


@pytest.mark.parametrize("name", [b"HTTP_A B", b"HTTP_A:B", b"HTTP_A\r\nB", b"HTTP_\xe9"])
def test_a_param_whose_name_is_no_header_name_is_no_header(name: bytes) -> None:
    meaning = meaning_of((name, b"1"))
    assert meaning.headers == []
    assert name.decode("latin-1") not in meaning.wsgi_environ()


def test_remote_user_is_there_for_who_knows_that_it_was_checked() -> None:
    assert captured("nginx-auth-basic").remote_user == "alice"  # never checked
    assert captured("nginx-get-query").remote_user is None  # ""
    assert captured("apache-get-query").remote_user is None  # absent


def test_the_last_value_of_a_name_counts() -> None:
    meaning = meaning_of((b"REMOTE_ADDR", b"1.1.1.1"), (b"REMOTE_ADDR", b"2.2.2.2"))
    assert meaning.client == ("2.2.2.2", 0)


def test_a_meaning_shows_what_it_is_about() -> None:
    assert repr(captured("nginx-get-query")) == "<Meaning GET b'/app/hello/world'>"


def test_header_lists_are_the_callers_own() -> None:
    meaning = captured("nginx-get-query")
    meaning.headers.clear()
    assert meaning.headers != []


def test_learned_names_are_bounded() -> None:
    lengths = LearnedNames(len)
    for number in range(3 * lengths.MOST):
        assert lengths[b"%d" % number] == len(str(number))
        assert len(lengths) <= lengths.MOST
    known = len(lengths)
    assert lengths[b"x" * (lengths.LONGEST + 1)] == lengths.LONGEST + 1
    assert len(lengths) == known


KNOWN_NAMES = (
    b"SCRIPT_NAME PATH_INFO REQUEST_URI QUERY_STRING SERVER_NAME SERVER_PORT REMOTE_ADDR "
    b"REMOTE_PORT CONTENT_LENGTH CONTENT_TYPE HTTP_COOKIE HTTP_HOST HTTPS SERVER_PROTOCOL"
).split()


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(KNOWN_NAMES),
                st.binary(max_size=8).map(lambda name: b"HTTP_" + name),
                st.binary(max_size=8),
            ),
            st.one_of(st.binary(max_size=20), st.text("/.%2Fa?#:[]", max_size=12).map(str.encode)),
        ),
        max_size=12,
    ),
    st.sampled_from([None, "", "/", "/a", "/a/a"]),
)
def test_no_bytes_at_all_break_it(pairs: list[tuple[bytes, bytes]], mount: str | None) -> None:
    meaning = Meaning([*pairs, (b"REQUEST_METHOD", b"GET")], mount=mount)
    assert meaning.path.startswith(meaning.root_path)
    assert meaning.path
    assert b"?" not in meaning.raw_path
    meaning.path.encode("utf-8")
    assert meaning.server is None or 0 < meaning.server[1] < 65536
    assert meaning.client is None or 0 <= meaning.client[1] < 65536
    assert all(header_name(b"HTTP_" + name) == name for name, _ in meaning.headers)
    environ = meaning.wsgi_environ()
    assert environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    assert all(environ[name] for name in ("SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"))
    assert environ.get("CONTENT_LENGTH", "0").isdigit()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"H", b"HTTP_", b"HTTPS", b"HTTP_HOST", b"HTTP_COOKIE", b"X"])
            | st.binary(max_size=12),
            st.binary(max_size=200),
        ),
        max_size=8,
    )
)
def test_params_mean_the_same_as_pairs_and_as_they_came(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs.insert(len(pairs) // 2, (b"REQUEST_METHOD", b"GET"))
    given_as_pairs, as_they_came = Meaning(pairs), Meaning(encode_pairs(pairs))
    assert as_they_came.headers == given_as_pairs.headers
    names = [name for name, _ in given_as_pairs.headers]
    assert sorted(set(names) & {b"host", b"cookie"}) == sorted(
        {name[5:].lower() for name, value in pairs if name == b"HTTP_HOST" and value}
        | {name[5:].lower() for name, value in pairs if name == b"HTTP_COOKIE"}
    )
    assert names.count(b"cookie") <= 1
    assert Meaning(pairs).wsgi_environ() == as_they_came.wsgi_environ()
