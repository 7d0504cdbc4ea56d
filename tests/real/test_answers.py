"""What clients get, through every front end and set-up."""

import http.client
import itertools

import pytest

from tests.real.apps import REPLIES, pattern, summary
from tests.real.deployment import every_site, sites
from tests.real.front_ends import Site
from tests.real.http_client import fetch

EVERY_SITE = every_site()
MEBI = 1 << 20

# Apache drops the Content-Length of what it proxies.
DROPS_LENGTH = (
    "apache-proxypass",
    "apache-recommended",
    "apache-match",
    "apache-unix",
    "apache-sethandler",
)


@pytest.mark.parametrize("name", ["plain", "missing", "teapot", "created"])
@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_status_and_body(site: Site, name: str) -> None:
    status, headers, body = REPLIES[name]
    answer = fetch(site.origin, f"/reply/{name}")
    assert (answer.status, answer.body) == (status, body)
    for header, value in headers:
        if header == "content-length" and site.set_up.name in DROPS_LENGTH:
            continue
        assert answer.values(header) == [value]


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_no_cgi_header_leaks(site: Site) -> None:
    answer = fetch(site.origin, "/reply/plain")
    # Caddy 2.6 passes Status on to the client.
    leaks = 1 if site.set_up.name.startswith("caddy") else 0
    assert len(answer.values("status")) == leaks


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_redirect_keeps_its_status(site: Site) -> None:
    answer = fetch(site.origin, "/reply/moved")
    assert answer.status == 307
    location = answer.value("location")
    assert location is not None
    assert location.endswith("/elsewhere?x=1")


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_both_cookies_arrive(site: Site) -> None:
    answer = fetch(site.origin, "/reply/cookies")
    assert answer.values("set-cookie") == ["one=1; Path=/", "two=2; Path=/"]


@pytest.mark.parametrize("name", ["plain", "missing"])
@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_head_has_headers_only(site: Site, name: str) -> None:
    status, _, body = REPLIES[name]
    answer = fetch(site.origin, f"/reply/{name}", method="HEAD")
    assert (answer.status, answer.body) == (status, b"")
    assert answer.value("content-type") == "text/plain"
    if site.set_up.name not in DROPS_LENGTH:
        assert answer.value("content-length") == str(len(body))


@pytest.mark.parametrize("name", ["empty", "unchanged"])
@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_answers_without_body(site: Site, name: str) -> None:
    status, headers, _ = REPLIES[name]
    answer = fetch(site.origin, f"/reply/{name}")
    assert (answer.status, answer.body) == (status, b"")
    for header, value in headers:
        assert answer.values(header) == [value]


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_four_kilobytes_of_headers(site: Site) -> None:
    _, headers, body = REPLIES["broad"]
    answer = fetch(site.origin, "/reply/broad")
    assert (answer.status, answer.body) == (200, body)
    got = {name.lower(): value for name, value in answer.headers}
    for name, value in headers:
        if name != "content-length":
            assert got[name] == value


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_error_before_the_response_is_a_500(site: Site) -> None:
    answer = fetch(site.origin, "/raise")
    assert answer.status == 500
    assert b"raised before" not in answer.body
    assert fetch(site.origin, "/reply/plain").status == 200


def assert_cut(site: Site, target: str) -> None:
    """The client is told of an error, or sees for itself that something is missing."""
    try:
        answer = fetch(site.origin, target)
    except (http.client.IncompleteRead, http.client.RemoteDisconnected):
        pass
    else:
        # Nothing had been passed on yet, so the front end could still make it an error.
        assert answer.status in (500, 502, 503), answer
    assert fetch(site.origin, "/reply/plain").status == 200


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_a_cut_reply_with_a_length_never_looks_complete(site: Site) -> None:
    assert_cut(site, "/raise-late?sized=")


# These take any end of a reply of unknown length for its end: a close, a reset, a record that
# is none. Only a Content-Length shows their clients that something is missing. (lighttpd that
# streams does so only while it holds the whole reply.)
TAKES_ANY_END = (
    "apache-fcgid",
    "lighttpd-prefix",
    "lighttpd-root",
    "lighttpd-stream",
    "lighttpd-spawned",
    "caddy-plain",
    "caddy-split",
)


@pytest.mark.parametrize("site", every_site(without=TAKES_ANY_END), indirect=True)
def test_a_cut_reply_of_unknown_length_never_looks_complete(site: Site) -> None:
    assert_cut(site, "/raise-late")


@pytest.mark.parametrize("pieces", ["", "&pieces="], ids=["length", "pieces"])
@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_download(site: Site, pieces: str) -> None:
    size = 16 * MEBI + 7
    answer = fetch(site.origin, f"/download?size={size}{pieces}")
    assert answer.status == 200
    assert summary(answer.body) == summary(pattern(size))


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_upload(site: Site) -> None:
    body = pattern(8 * MEBI + 7)
    answer = fetch(site.origin, "/upload", method="POST", body=body)
    assert (answer.status, answer.body.decode()) == (200, summary(body))


# HAProxy refuses a chunked body that does not fit its buffer.
CHUNKED = every_site(without=["haproxy-plain", "haproxy-pathinfo", "haproxy-mpxs"])


@pytest.mark.parametrize("site", CHUNKED, indirect=True)
def test_chunked_upload(site: Site) -> None:
    if site.set_up.name == "lighttpd-stream":
        # lighttpd answers 411 where it streams request bodies of unknown length.
        assert upload_in_pieces(site, 1 * MEBI)[0] == 411
        return
    status, text = upload_in_pieces(site, 8 * MEBI)
    assert (status, text) == (200, summary(pattern(8 * MEBI)))


def upload_in_pieces(site: Site, size: int) -> tuple[int, str]:
    body = pattern(size)
    pieces = (body[start : start + 40_000] for start in range(0, size, 40_000))
    answer = fetch(site.origin, "/upload", method="POST", body=pieces)
    return answer.status, answer.body.decode()


@pytest.mark.parametrize(
    "site", sites("haproxy-plain", "haproxy-pathinfo", "haproxy-mpxs"), indirect=True
)
def test_small_chunked_upload(site: Site) -> None:
    pieces = [b"12345", b"67890"]
    answer = fetch(site.origin, "/upload", method="POST", body=pieces)
    assert (answer.status, answer.body.decode()) == (200, summary(b"1234567890"))


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_an_empty_upload_ends(site: Site) -> None:
    answer = fetch(site.origin, "/upload", method="POST", body=b"")
    assert (answer.status, answer.body.decode()) == (200, summary(b""))


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_many_requests_in_a_row(site: Site) -> None:
    # Kept connections reuse the request ID: an answer's last byte must not reach the next.
    names = itertools.islice(itertools.cycle(["plain", "empty", "missing", "created"]), 40)
    for name in names:
        status, _, body = REPLIES[name]
        answer = fetch(site.origin, f"/reply/{name}")
        assert (answer.status, answer.body) == (status, body)
