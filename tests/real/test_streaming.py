"""Answers that come in pieces, and clients that leave, through the front ends that tell."""

import contextlib
import http.client
import itertools
import os
from collections.abc import Iterator

import pytest

from tests.real.deployment import sites
from tests.real.front_ends import Site
from tests.real.http_client import fetch, open_exchange, reset

_numbers = itertools.count()

# Those that pass an event stream on as it comes. The rest, as interop tables have it, hold
# an answer back until it is whole: Apache without flushpackets, lighttpd by default.
STREAMING = (
    "nginx-stock",
    "nginx-stock-location",
    "nginx-split",
    "nginx-recommended",
    "apache-recommended",
    "apache-sethandler",
    "lighttpd-stream",
    "caddy-plain",
    "caddy-split",
    "haproxy-plain",
    "haproxy-pathinfo",
    "haproxy-mpxs",
)
ON_TRIO = ("starlette", "native")


@pytest.fixture
def key() -> str:
    """A name for one request that no other test uses."""
    return f"{os.getpid()}-{next(_numbers)}"


def ask(site: Site, path: str) -> str:
    answer = fetch(site.origin, path)
    assert answer.status == 200, answer
    return answer.body.decode()


@contextlib.contextmanager
def under_way(
    site: Site, path: str, key: str, method: str = "GET", length: int | None = None
) -> Iterator[http.client.HTTPConnection]:
    """A request that the application is known to have begun."""
    with open_exchange(site.origin, f"{path}?key={key}", method=method, length=length) as exchange:
        if length is not None:
            exchange.send(b"u" * (length // 2))
        assert ask(site, f"/begun?key={key}") == "begun"
        yield exchange


@pytest.mark.parametrize("site", sites(*STREAMING), indirect=True)
def test_the_first_event_arrives_before_the_second_is_made(site: Site, key: str) -> None:
    with open_exchange(site.origin, f"/events?key={key}") as exchange:
        response = exchange.getresponse()
        assert response.readline() == b"data: first\n"
        assert response.readline() == b"\n"
        assert ask(site, f"/release?key={key}") == "released\n"
        assert response.read() == b"data: second\n\n"


# Caddy 2.6 logs that it is "aborting with incomplete response", and completes it.
SHOWS_CUTS = tuple(name for name in STREAMING if not name.startswith("caddy"))


@pytest.mark.parametrize("site", sites(*SHOWS_CUTS), indirect=True)
def test_a_stream_that_breaks_off_does_not_look_complete(site: Site, key: str) -> None:
    with open_exchange(site.origin, f"/events?key={key}&cut=") as exchange:
        response = exchange.getresponse()
        assert response.readline() == b"data: first\n"
        assert ask(site, f"/release?key={key}") == "released\n"
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize(
    "site",
    sites("nginx-stock", "nginx-split", "nginx-recommended", apps=ON_TRIO),
    indirect=True,
)
@pytest.mark.parametrize("how", [http.client.HTTPConnection.close, reset])
def test_nginx_tells_at_once_that_a_waiting_client_left(site: Site, key: str, how: object) -> None:
    with under_way(site, "/wait", key) as exchange:
        assert callable(how)
        how(exchange)
        assert ask(site, f"/outcome?key={key}") == "gone"


@pytest.mark.parametrize(
    "site", sites("lighttpd-prefix", "lighttpd-stream", apps=ON_TRIO), indirect=True
)
def test_lighttpd_tells_of_a_waiting_client_that_reset(site: Site, key: str) -> None:
    # lighttpd 1.4.69 watches a client only if it once had to wait for it. A connection that
    # stays silent until a later one has been answered is such a client.
    with (
        open_exchange(
            site.origin, f"/wait?key={key}", once_connected=lambda: ask(site, "/reply/plain")
        ) as exchange,
    ):
        assert ask(site, f"/begun?key={key}") == "begun"
        reset(exchange)
        assert ask(site, f"/outcome?key={key}") == "gone"


@pytest.mark.parametrize(
    "site",
    sites(
        "nginx-stock",
        "nginx-recommended",
        "lighttpd-stream",
        "caddy-split",
        "haproxy-plain",
        "haproxy-pathinfo",
    ),
    indirect=True,
)
def test_an_endless_answer_ends_when_its_client_leaves(site: Site, key: str) -> None:
    with under_way(site, "/endless", key) as exchange:
        response = exchange.getresponse()
        assert response.readline() == b"data: again\n"
        response.close()
        reset(exchange)
        assert ask(site, f"/outcome?key={key}") == "gone"


@pytest.mark.parametrize(
    "site",
    sites(
        "nginx-split",
        "apache-proxypass",
        "apache-unix",
        "lighttpd-stream",
        "caddy-plain",
        "haproxy-plain",
        "haproxy-pathinfo",
        "haproxy-mpxs",
    ),
    indirect=True,
)
def test_half_an_upload_is_never_a_whole_one(site: Site, key: str) -> None:
    with under_way(site, "/slurp", key, method="POST", length=4 << 20) as exchange:
        reset(exchange)
        assert ask(site, f"/outcome?key={key}") in ("disconnected", "gone")


@pytest.mark.parametrize(
    "site", sites("haproxy-plain", "haproxy-pathinfo", "haproxy-mpxs"), indirect=True
)
def test_paths_that_haproxy_gives_up_after_begin(site: Site) -> None:
    # BEGIN_REQUEST, ABORT_REQUEST and a reset in one go, without any params.
    for path in ("/reply/%00", "/reply/%0D", "/reply/%"):
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            assert fetch(site.origin, path).status in (400, 404, 500, 502)
    assert fetch(site.origin, "/reply/plain").status == 200


@pytest.mark.parametrize("site", sites("haproxy-mpxs"), indirect=True)
def test_requests_that_share_a_connection_do_not_wait_for_each_other(site: Site, key: str) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(open_exchange(site.origin, f"/events?key={key}-{number}"))
            for number in range(6)
        ]
        for number, exchange in reversed(list(enumerate(waiting))):
            assert ask(site, f"/release?key={key}-{number}") == "released\n"
            response = exchange.getresponse()
            assert response.read() == b"data: first\n\ndata: second\n\n"
