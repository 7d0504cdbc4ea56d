"""Path, mount and query, from what each front end sent in each set-up."""

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture_files import load_capture
from trifcgi.cgi import Meaning, target

HELLO = b"/app/hello/world"
QUERY = b"a=1&b=%20two+three&c=%2F"

# capture, request in it, mount → path, root path, raw path, query
ROWS: list[tuple[str, int, str | None, str, str, bytes, bytes]] = [
    # nginx, stock fastcgi_params: SCRIPT_NAME is the whole path, no PATH_INFO
    ("nginx-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("nginx-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("nginx-get-query", 0, "/app/", "/app/hello/world", "/app", HELLO, QUERY),
    ("nginx-get-query", 0, "/ap", "/app/hello/world", "", HELLO, QUERY),
    ("nginx-get-query", 0, "/other", "/app/hello/world", "", HELLO, QUERY),
    ("nginx-root-slash", 0, None, "/app/", "", b"/app/", b""),
    ("nginx-root-slash", 0, "/app", "/app/", "/app", b"/app/", b""),
    (
        "nginx-pct-slash-space-utf8",
        0,
        None,
        "/app/a/b c/é",
        "",
        b"/app/a%2Fb%20c/%C3%A9",
        b"x=%2F",
    ),
    ("nginx-double-slash", 0, None, "/app/x/y", "", b"/app//x///y", b""),
    ("nginx-underscores-double-slash", 0, None, "/app//x///y", "", b"/app//x///y", b""),
    ("nginx-dots-pct", 0, None, "/app/b", "", b"/app/a/%2e%2e/b", b""),
    ("nginx-fragment", 0, None, "/app/a", "", b"/app/a", b""),
    ("nginx-pct-crlf", 0, None, "/app/a\r\nX: y", "", b"/app/a%0D%0AX:%20y", b""),
    ("nginx-latin1-pct", 0, None, "/app/caf\ufffd", "", b"/app/caf%E9", b""),
    ("nginx-raw-utf8", 0, None, "/app/café", "", b"/app/caf\xc3\xa9", b"q=\xc3\xa9"),
    ("nginx-two-questions", 0, None, "/app/x", "", b"/app/x", b"a?b"),
    # nginx, split_path_info: SCRIPT_NAME twice
    ("nginx-pathinfo-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("nginx-pathinfo-root", 0, None, "/app", "/app", b"/app", b""),
    ("nginx-pathinfo-fragment", 0, None, "/app/a", "/app", b"/app/a", b""),
    # nginx, SCRIPT_NAME "" and PATH_INFO after the include
    ("nginx-recommended-kept-connection", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("nginx-recommended-kept-connection", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("nginx-recommended-kept-connection", 6, "/app", "/app", "/app", b"/app", b""),
    # Apache ProxyPass, ProxyPassMatch, Unix socket
    ("apache-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("apache-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("apache-double-slash", 0, None, "/app/x/y", "", b"/app//x///y", b""),
    ("apache-lead-double-slash", 0, None, "/app/x", "", b"//app/x", b""),
    ("apache-match-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("apache-match-absolute-form", 0, None, "/app/x", "", b"/app/x", b"y=1"),
    ("apache-match-pct-question-hash", 0, None, "/app/what?q#h", "", b"/app/what%3Fq%23h", b""),
    ("apache-unix-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("apache-unix-dots", 0, None, "/app/b/c", "", b"/app/a/../b/./c", b""),
    # Apache, AllowEncodedSlashes NoDecode: %2F stays in the decoded path
    (
        "apache-nocanon-pct-slash-space-utf8",
        0,
        None,
        "/app/a%2Fb c/é",
        "",
        b"/app/a%2Fb%20c/%C3%A9",
        b"x=%2F",
    ),
    # Apache <Location> SetHandler: the cut depends on the disk
    (
        "apache-sethandler-get-query",
        0,
        None,
        "/loc/hello/world",
        "/loc",
        b"/loc/hello/world",
        QUERY,
    ),
    ("apache-sethandler-root", 0, None, "/loc", "", b"/loc", b""),
    ("apache-sethandler-root", 0, "/loc", "/loc", "/loc", b"/loc", b""),
    (
        "apache-recommended-kept-connection",
        0,
        None,
        "/app/hello/world",
        "/app/hello",
        HELLO,
        QUERY,
    ),
    ("apache-recommended-kept-connection", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    # Apache *.php SetHandler
    ("apache-sethandler-php", 0, None, "/app/script.php", "", b"/app/script.php", b"x=1"),
    (
        "apache-sethandler-php-missing",
        0,
        None,
        "/app/nothere.php/x",
        "/app/nothere.php",
        b"/app/nothere.php/x",
        b"",
    ),
    # Apache FallbackResource and RewriteRule: REQUEST_URI spells another path, or the same
    ("apache-rewrite-fallback", 0, None, "/app/script.php", "", b"/app/script.php", b"x=1"),
    ("apache-rewrite-rw-p", 0, None, "/app/rw/a b/c", "/app/rw", b"/app/rw/a%20b/c", b"x=1"),
    # mod_fcgid
    ("mod_fcgid-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("mod_fcgid-dots", 0, None, "/app/b/c", "/app", b"/app/a/../b/./c", b""),
    (
        "mod_fcgid-wrapped",
        0,
        None,
        "/wrapped/extra path/x",
        "/wrapped",
        b"/wrapped/extra%20path/x",
        b"y=1",
    ),
    ("mod_fcgid-access-checker", 0, None, "/authed/x", "", b"/authed/x", b"y=1"),
    # lighttpd "/app"
    ("lighttpd-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("lighttpd-fragment", 0, None, "/app/a", "/app", b"/app/a", b""),
    ("lighttpd-lone-pct", 0, None, "/app/100%", "/app", b"/app/100%", b""),
    ("lighttpd-lone-pct-query", 0, None, "/app/x", "/app", b"/app/x", b"100%25&%25zz"),
    # lighttpd "/" with fix-root-scriptname
    ("lighttpd-root-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("lighttpd-root-root", 0, None, "/app", "", b"/app", b""),
    ("lighttpd-root-root", 0, "/app", "/app", "/app", b"/app", b""),
    # lighttpd "/" without: the first segment is the script's name; a mount sets it right
    ("lighttpd-root-nofix-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("lighttpd-root-nofix-get-query", 0, "/", "/app/hello/world", "", HELLO, QUERY),
    ("lighttpd-root-nofix-get-query", 0, "", "/app/hello/world", "", HELLO, QUERY),
    ("lighttpd-root-nofix-root", 0, None, "/app", "", b"/app", b""),
    # lighttpd strip-request-uri: REQUEST_URI lacks the prefix
    ("lighttpd-stream2-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("lighttpd-stream2-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    # lighttpd extension
    (
        "lighttpd-ext-php-pathinfo",
        0,
        None,
        "/app/script.php/extra path/",
        "/app/script.php",
        b"/app/script.php/extra%20path/%2F",
        b"x=1",
    ),
    # lighttpd authorizer: REQUEST_URI alone
    ("lighttpd-authorizer-authz-2", 0, None, "/static.txt", "", b"/static.txt", b"x=1"),
    # Caddy: SCRIPT_NAME "", nothing resolved
    ("caddy-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("caddy-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("caddy-root", 0, "/app", "/app", "/app", b"/app", b""),
    ("caddy-double-slash", 0, None, "/app//x///y", "", b"/app//x///y", b""),
    ("caddy-dots-above", 0, None, "/app/../../x", "", b"/app/../../x", b""),
    ("caddy-raw-utf8", 0, None, "/app/café", "", b"/app/caf%C3%A9", b"q=\xc3\xa9"),
    # Caddy split, php_fastcgi
    ("caddy-split-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("caddy-split-root", 0, None, "/app", "/app", b"/app", b""),
    ("caddy-split-lead-double-slash", 0, None, "//app/x", "//app", b"//app/x", b""),
    (
        "caddy-php-php-pathinfo",
        0,
        None,
        "/app/script.php/extra path",
        "/app/script.php",
        b"/app/script.php/extra%20path/%2F",
        b"x=1",
    ),
    # Caddy handle_path: the prefix is gone from the path, and comes back with a mount
    ("caddy-handlepath-get-query", 0, None, "/hello/world", "", b"/hello/world", QUERY),
    ("caddy-handlepath-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    ("caddy-handlepath-dots-pct", 0, "/app", "/app/a/../b", "/app", b"/app/a/%2e%2e/b", b""),
    ("caddy-handlepath-double-slash", 0, "/app", "/app/x/y", "/app", b"/app//x///y", b""),
    ("caddy-handlepath-get-query", 0, "/other", "/hello/world", "", b"/hello/world", QUERY),
    # HAProxy, no path-info
    ("haproxy-nokeep-get-query", 0, None, "/app/hello/world", "", HELLO, QUERY),
    ("haproxy-nokeep-get-query", 0, "/app", "/app/hello/world", "/app", HELLO, QUERY),
    (
        "haproxy-nokeep-pct-slash-space-utf8",
        0,
        None,
        "/app/a/b c/é",
        "",
        b"/app/a%2Fb%20c/%C3%A9",
        b"x=%2F",
    ),
    ("haproxy-mpxs-kept-connection-6", 1, None, "/app/index.php", "", b"/app/index.php", b""),
    # HAProxy path-info; QUERY_STRING is absent when empty
    ("haproxy-get-query", 0, None, "/app/hello/world", "/app", HELLO, QUERY),
    ("haproxy-double-slash", 0, None, "/app//x///y", "/app", b"/app//x///y", b""),
    ("haproxy-dots-above", 0, None, "/app/../../x", "/app", b"/app/../../x", b""),
    ("haproxy-root", 0, None, "/app", "", b"/app", b""),
    ("haproxy-root", 0, "/app", "/app", "/app", b"/app", b""),
    ("haproxy-chk-healthcheck", 0, None, "/health", "", b"/health", b""),
    # cgi-fcgi: no REQUEST_URI
    ("cgi-fcgi-get-tcp", 0, None, "/app/x", "/app", b"/app/x", b"a=1"),
]


@pytest.mark.parametrize(
    ("file", "index", "mount", "path", "root_path", "raw_path", "query"),
    ROWS,
    ids=[f"{file}-{index}-at-{mount}" for file, index, mount, *_ in ROWS],
)
def test_a_url_is_computed_from_what_the_front_end_sent(
    file: str,
    index: int,
    mount: str | None,
    path: str,
    root_path: str,
    raw_path: bytes,
    query: bytes,
) -> None:
    params = load_capture(file).requests[index].params
    meaning = Meaning(params, mount=mount)
    assert meaning.path == path
    assert meaning.root_path == root_path
    assert meaning.raw_path == raw_path
    assert meaning.query_string == query

    environ = meaning.wsgi_environ()
    joined = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    assert joined.encode("latin-1").decode("utf-8", "replace") == path
    assert environ["SCRIPT_NAME"].encode("latin-1").decode() == root_path
    assert environ["QUERY_STRING"].encode("latin-1") == query


def meaning_of(mount: str | None = None, **params: str) -> Meaning:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in params.items()]
    return Meaning([(b"REQUEST_METHOD", b"GET"), *pairs], mount=mount)


@pytest.mark.parametrize(
    ("uri", "raw_path"),
    [
        ("http://example.test", b"/"),
        ("http://example.test/", b"/"),
        ("https://example.test?x=http://y/z", b"/"),
        ("//example.test/a", b"/"),  # a path, whose first segment looks like a host
        ("/?u=http://y/z", b"/"),
        ("", b"/"),
    ],
)
def test_the_authority_of_an_absolute_form_is_no_path(uri: str, raw_path: bytes) -> None:
    assert meaning_of(SCRIPT_NAME="/", REQUEST_URI=uri).raw_path == raw_path


def test_without_a_request_uri_the_raw_path_is_escaped_again() -> None:
    meaning = meaning_of(SCRIPT_NAME="", PATH_INFO="/a b/%/\xc3\xa9?#;=@\xff")
    assert meaning.raw_path == b"/a%20b/%25/%C3%A9%3F%23;=@%FF"


def test_without_a_query_string_the_request_uri_has_it() -> None:
    assert meaning_of(SCRIPT_NAME="/a", REQUEST_URI="/a?b=c?d#e").query_string == b"b=c?d"
    assert meaning_of(SCRIPT_NAME="/a", REQUEST_URI="/a?b", QUERY_STRING="").query_string == b""


def test_the_path_is_never_empty() -> None:
    assert meaning_of().path == "/"
    assert meaning_of(SCRIPT_NAME="", PATH_INFO="").path == "/"
    assert meaning_of("/", SCRIPT_NAME="", PATH_INFO="").path == "/"


@pytest.mark.parametrize(
    ("script_name", "path_info", "root_path", "path"),
    [
        ("/", "/x", "", "/x"),
        ("/", "x", "", "/x"),
        ("/app/", "/x", "/app", "/app/x"),
        ("/app/", "x", "/app", "/app/x"),
        ("/app/", "", "/app", "/app/"),
    ],
)
def test_a_script_name_gives_its_last_slash_to_the_path_info(
    script_name: str, path_info: str, root_path: str, path: str
) -> None:
    meaning = meaning_of(SCRIPT_NAME=script_name, PATH_INFO=path_info)
    assert (meaning.root_path, meaning.path) == (root_path, path)


def test_an_authorizers_path_is_resolved_as_its_front_end_does() -> None:
    assert meaning_of(REQUEST_URI="/a//b/%2e%2e/c%20d/?x").path == "/a/c d/"
    assert meaning_of(REQUEST_URI="/../..").path == "/"


def test_a_prefix_that_repeats_itself_is_taken_off_once() -> None:
    below = meaning_of("/app", SCRIPT_NAME="/app/app/x", REQUEST_URI="/app/app/x")
    assert (below.script_name, below.path_info) == (b"/app", b"/app/x")
    stripped = meaning_of("/app", SCRIPT_NAME="", PATH_INFO="/app/x", REQUEST_URI="/app/app/x")
    assert (stripped.script_name, stripped.path_info) == (b"/app", b"/app/x")


def test_dots_that_the_front_end_left_alone_lead_nowhere_below_the_mount() -> None:
    outside = meaning_of("/app", SCRIPT_NAME="", PATH_INFO="/x/../..", REQUEST_URI="/x/../..")
    assert (outside.script_name, outside.path_info) == (b"", b"/x/../..")


def test_a_mount_cuts_what_the_front_end_cut_with_a_slash_too_many() -> None:
    meaning = meaning_of("/app", SCRIPT_NAME="/", PATH_INFO="/app/x")
    assert (meaning.script_name, meaning.path_info) == (b"/app", b"/x")


def test_a_mount_begins_with_a_slash() -> None:
    with pytest.raises(ValueError, match="begins with a slash, unlike 'app'"):
        meaning_of("app", SCRIPT_NAME="/app")


def test_a_mount_may_lie_outside_ascii() -> None:
    meaning = meaning_of("/café", SCRIPT_NAME="/caf\xc3\xa9/x")
    assert (meaning.root_path, meaning.path) == ("/café", "/café/x")


@given(st.text("/a?#%2:", max_size=6), st.text("/a?#%2:", min_size=1, max_size=6), st.booleans())
def test_a_path_that_is_spelt_as_it_is_takes_the_short_way(
    uri: str, path: str, same: bool
) -> None:
    given_uri = (path + uri if same else uri).encode()
    raw = target._uri_path(given_uri)
    belongs = target._belongs(raw, path.encode())
    expected = raw if belongs else quote_from_bytes(path.encode(), target._PATH_SAFE).encode()
    assert target.raw_path(given_uri, path.encode()) == expected
