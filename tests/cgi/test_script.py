"""The file that a front end names, from what each of them sent."""

import pytest

from tests.capture_files import load_capture
from trifcgi.cgi import Meaning, script_filename, script_mount

SITE = b"/srv/www/site"


@pytest.mark.parametrize(
    ("file", "filename"),
    [
        # proxy:fcgi://127.0.0.1:PORT/
        ("apache-match-get-query", SITE + b"/app/hello/world"),
        ("apache-match-pct-question-hash", SITE + b"/app/what?q#h"),
        ("apache-get-query", b"/hello/world"),
        # proxy:fcgi://localhost/ for a Unix socket
        ("apache-unix-get-query", SITE + b"/app/hello/world"),
        ("apache-unix-raw-utf8", SITE + b"/app/caf\xc3\xa9"),
        ("apache-sethandler-php", SITE + b"/app/script.php"),
        ("apache-sethandler-php-missing", SITE + b"/app/nothere.php"),
        # a balancer's member
        ("apache-balancer-post-small", b"/post"),
        ("apache-rewrite-fallback", SITE + b"/app/script.php"),
        ("apache-rewrite-rw-p", SITE + b"/app/script.php/a b/c"),
        # ProxyFCGIBackendType GENERIC
        ("apache-nocanon-get-query", b"/app/hello/world"),
        ("mod_fcgid-get-query", b"/srv/www/fcgi-bin/rec.fcgi"),
        # broken-scriptfilename
        ("lighttpd-ext-php", SITE + b"/app/script.php"),
        ("lighttpd-ext-php-pathinfo", SITE + b"/app/script.php"),
        ("lighttpd-get-query", SITE + b"/app"),
        ("caddy-php-php-pathinfo", SITE + b"/app/script.php"),
        ("haproxy-nokeep-pct-slash-space-utf8", SITE + b"/app/a/b c/\xc3\xa9"),
        # stock fastcgi_params have none
        ("nginx-get-query", SITE + b"/app/hello/world"),
        ("nginx-pathinfo-get-query", SITE + b"/app"),
        ("cgi-fcgi-get-tcp", None),
    ],
)
def test_the_file_is_found_in_each_spelling(file: str, filename: bytes | None) -> None:
    assert script_filename(load_capture(file).requests[0].params) == filename


def named(filename: bytes, **params: bytes) -> bytes | None:
    others = [(name.encode(), value) for name, value in params.items()]
    return script_filename([(b"SCRIPT_FILENAME", filename), *others])


def test_a_query_left_at_the_end_is_taken_off() -> None:
    assert named(b"proxy:fcgi://h:1/srv/x.py?a=%20", QUERY_STRING=b"a=%20") == b"/srv/x.py"
    assert named(b"/srv/x.py?a=1", QUERY_STRING=b"a=1") == b"/srv/x.py"
    assert named(b"/srv/x?.py", QUERY_STRING=b"a=1") == b"/srv/x?.py"


def test_a_plain_name_is_not_unescaped() -> None:
    assert named(b"/srv/100%41.py") == b"/srv/100%41.py"


def test_path_info_that_only_looks_appended_stays() -> None:
    filename = named(b"/srv/x.py", SCRIPT_NAME=b"/x.py", PATH_INFO=b"/x.py")
    assert filename == b"/srv/x.py"
    assert named(b"/srv/x.py", SCRIPT_NAME=b"", PATH_INFO=b"/x.py") == b"/srv/x.py"


def test_a_name_that_no_file_can_have_is_none() -> None:
    assert named(b"") is None
    assert named(b"/srv/\0.py") is None
    assert named(b"proxy:fcgi://localhost/srv/%00.py") is None
    assert named(b"proxy:fcgi://localhost") is None
    assert script_filename([]) is None


@pytest.mark.parametrize(
    ("file", "behind", "mount", "path"),
    [
        ("nginx-get-query", b"", "/app/hello/world", "/app/hello/world"),
        ("nginx-get-query", b"/world", "/app/hello", "/app/hello/world"),
        ("nginx-recommended-kept-connection", b"/world", "/app/hello", "/app/hello/world"),
        ("apache-sethandler-php", b"", "/app/script.php", "/app/script.php"),
        ("apache-sethandler-php-missing", b"", "/app/nothere.php", "/app/nothere.php/x"),
        ("apache-rewrite-rw-p", b"/a b/c", "/app/rw", "/app/rw/a b/c"),
        ("lighttpd-ext-php", b"", "/app/script.php", "/app/script.php"),
        ("lighttpd-ext-php-pathinfo", b"", "/app/script.php", "/app/script.php/extra path/"),
        ("caddy-php-php-pathinfo", b"", "/app/script.php", "/app/script.php/extra path"),
        ("haproxy-mpxs-kept-connection-5", b"", "/app/1", "/app/1"),
    ],
)
def test_an_app_in_a_script_lives_at_the_scripts_url(
    file: str, behind: bytes, mount: str, path: str
) -> None:
    params = load_capture(file).requests[0].params
    assert script_mount(params, behind) == mount
    meaning = Meaning(params, mount=script_mount(params, behind))
    assert (meaning.root_path, meaning.path) == (mount, path)


def test_a_scripts_url_may_be_no_utf_8() -> None:
    params = [(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/caf\xe9.py/x")]
    meaning = Meaning(params, mount=script_mount(params, b"/x"))
    assert (meaning.script_name, meaning.path_info) == (b"/caf\xe9.py", b"/x")
