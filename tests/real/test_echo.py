"""What applications see of a request, through every front end and set-up."""

import json
from typing import Any

import pytest

from tests.real.deployment import every_site, sites
from tests.real.front_ends import Site
from tests.real.http_client import HOST, fetch

EVERY_SITE = every_site()


def seen(site: Site, target: str, **options: Any) -> tuple[dict[str, Any], int]:
    """What the application saw, and the port that it was asked from."""
    answer = fetch(site.origin, target, **options)
    assert answer.status == 200, answer
    return json.loads(answer.body), answer.client_port


def values(echo: dict[str, Any], name: str) -> list[str]:
    return [value for header, value in echo["headers"] if header == name]


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_path_query_and_peers(site: Site) -> None:
    echo, client_port = seen(site, "/echo/a%20b/caf%C3%A9?x=1&y=%2F%20")
    assert echo["method"] == "GET"
    assert echo["path"] == site.set_up.prefix + "/echo/a b/café"
    assert echo["query"] == "x=1&y=%2F%20"
    assert echo["scheme"] == "http"
    assert echo["client"] == ["127.0.0.1", client_port]
    assert echo["server"] == [HOST, site.port]


@pytest.mark.parametrize("site", every_site(["starlette", "flask"]), indirect=True)
def test_root_path_is_where_the_app_lives(site: Site) -> None:
    echo, _ = seen(site, "/echo/here")
    assert echo["root_path"] == site.set_up.prefix


@pytest.mark.parametrize("site", every_site(["starlette"]), indirect=True)
def test_raw_path_keeps_the_escapes(site: Site) -> None:
    echo, _ = seen(site, "/echo/a%20b/caf%C3%A9?x=1")
    assert echo["raw_path"] == site.set_up.prefix + "/echo/a%20b/caf%C3%A9"


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_headers_arrive_once_and_without_forgeries(site: Site) -> None:
    sent = [
        ("X-Probe", "one"),
        ("Accept-Language", "de, en;q=0.5"),
        ("Cookie", "a=1; b=2"),
        ("Authorization", "Basic dTpw"),
        ("Proxy", "http://evil.test/"),
    ]
    echo, _ = seen(site, "/echo/headers", headers=sent)
    assert values(echo, "x-probe") == ["one"]
    assert values(echo, "accept-language") == ["de, en;q=0.5"]
    assert values(echo, "cookie") == ["a=1; b=2"]
    assert values(echo, "authorization") == ["Basic dTpw"]
    assert values(echo, "proxy") == []


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_host_is_the_clients(site: Site) -> None:
    # Debian's fastcgi_params send nginx's $host, which has lost the port.
    portless = ("nginx-stock", "nginx-stock-location", "nginx-recommended")
    host = HOST if site.set_up.name in portless else f"{HOST}:{site.port}"
    echo, _ = seen(site, "/echo/host")
    assert values(echo, "host") == [host]


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_content_headers_come_once(site: Site) -> None:
    echo, _ = seen(
        site,
        "/echo/content",
        method="POST",
        headers=[("Content-Type", "text/x-probe")],
        body=b"four",
    )
    assert echo["method"] == "POST"
    assert values(echo, "content-type") == ["text/x-probe"]
    assert values(echo, "content-length") == ["4"]


@pytest.mark.parametrize("site", EVERY_SITE, indirect=True)
def test_no_body_no_content_type(site: Site) -> None:
    echo, _ = seen(site, "/echo/nothing")
    assert values(echo, "content-type") == []
    assert values(echo, "content-length") in ([], ["0"])


@pytest.mark.parametrize(
    "site",
    sites("nginx-stock", "nginx-recommended", "haproxy-plain", "haproxy-mpxs"),
    indirect=True,
)
def test_repeated_cookies_are_one_header_or_two_but_all_there(site: Site) -> None:
    echo, _ = seen(site, "/echo/cookies", headers=[("Cookie", "a=1"), ("Cookie", "b=2")])
    assert "; ".join(values(echo, "cookie")) == "a=1; b=2"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("site", every_site(["starlette"]), indirect=True)
def test_methods(site: Site, method: str) -> None:
    echo, _ = seen(site, "/echo/method", method=method, body=b"x")
    assert echo["method"] == method


# What the front end matched its access rules on is what the app has to route on: the slash
# that was %2F, the dots that are resolved or not.
@pytest.mark.parametrize(
    ("site", "path"),
    [
        pytest.param(("nginx-stock", "starlette"), "/echo/a/b/d", id="nginx-stock"),
        pytest.param(("nginx-split", "starlette"), "/app/echo/a/b/d", id="nginx-split"),
        pytest.param(("lighttpd-root", "starlette"), "/echo/a/b/d", id="lighttpd-root"),
        pytest.param(("lighttpd-prefix", "starlette"), "/app/echo/a/b/d", id="lighttpd-prefix"),
        pytest.param(("caddy-plain", "starlette"), "/echo/a/b/c/../d", id="caddy-plain"),
        pytest.param(("haproxy-plain", "starlette"), "/echo/a/b/c/../d", id="haproxy-plain"),
        pytest.param(
            ("haproxy-pathinfo", "starlette"), "/app/echo/a/b/c/../d", id="haproxy-pathinfo"
        ),
    ],
    indirect=["site"],
)
def test_odd_paths_are_the_front_ends(site: Site, path: str) -> None:
    echo, _ = seen(site, "/echo/a%2Fb/c/../d")
    assert echo["path"] == path
    assert echo["raw_path"] == site.set_up.prefix + "/echo/a%2Fb/c/../d"
