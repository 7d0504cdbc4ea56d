"""What a client of the control server may send, and how the answers look to it."""

import json
import logging

import pytest

from tests.admin.rig import Rig, local_rig
from trifcgi.admin import ControlHandler
from trifcgi.admin.guard import Guard
from trifcgi.testing import open_client, params

HOSTILE = "/<script>alert(1)</script>%0d%0aX:%20y\"'\x1b[31m\u202e"


async def test_hostile_uris_come_out_escaped_everywhere() -> None:
    async with (
        local_rig() as rig,
        rig.front.open(
            [*params("/hold"), ("REQUEST_URI", HOSTILE), ("REQUEST_METHOD", "\x1b[2JGET")]
        ),
    ):
        answer = await rig.ask("GET", "/requests")
        while not answer.data["requests"]:
            answer = await rig.ask("GET", "/requests")
        assert answer.data["requests"][0]["uri"] == HOSTILE
        assert "<" not in answer.text
        assert answer.text.isascii()
        for path in ("/requests", "/requests/1", "/tasks"):
            text = (await rig.ask("GET", path, "format=text")).text
            assert "\x1b" not in text
            assert "\u202e" not in text
        assert r"\x1b[31m\u202e" in (await rig.ask("GET", "/requests", "format=text")).text


async def test_secrets_never_leave() -> None:
    async with local_rig() as rig:
        async with rig.held(query="password=geheim&x=1&api_key=geheim"):
            for path in ("/requests", "/requests/1", "/tasks", "/connections", "/config"):
                for shape in ("json", "text"):
                    answer = await rig.ask("GET", path, f"format={shape}")
                    assert answer.status == 200
                    assert "geheim" not in answer.text
            shown = dict((await rig.get("/requests/1"))["request"]["params"])
            assert shown["HTTP_COOKIE"] == shown["HTTP_AUTHORIZATION"] == "***"
            assert shown["QUERY_STRING"] == "password=***&x=1&api_key=***"
        options = (await rig.get("/config"))["options"]
        assert options[1]["value"] == "/etc/token"
        assert options[2] == {"name": "api-token", "value": "***", "origin": "TRIFCGI_API_TOKEN"}


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("", "", "application/json"),
        ("*/*", "", "application/json"),
        ("text/html, application/json;q=0.9, text/plain;q=0.1", "", "application/json"),
        ("text/plain", "", "text/plain; charset=utf-8"),
        ("text/plain", "format=json", "application/json"),
        ("application/json", "format=text", "text/plain; charset=utf-8"),
    ],
)
async def test_the_client_chooses_json_or_text(accept: str, query: str, kind: str) -> None:
    async with local_rig() as rig:
        answer = await rig.ask("GET", "/health", query, Accept=accept)
        assert answer.headers["content-type"] == kind


async def test_nothing_is_stored_sniffed_or_run() -> None:
    async with local_rig() as rig:
        for path in ("/", "/status", "/nothing"):
            headers = (await rig.ask("GET", path)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none';")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]


async def test_the_page_is_whole_and_loads_nothing() -> None:
    async with local_rig() as rig:
        page = await rig.ask("GET", "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.text.startswith("<!DOCTYPE html>")
        for foreign in ("http:", "https:", "//cdn", "src=", "@import", "innerHTML", "eval("):
            assert foreign not in page.text
        assert (await rig.ask("POST", "/")).status == 405


async def test_a_head_request_gets_the_head_only() -> None:
    async with local_rig() as rig:
        whole = await rig.ask("GET", "/health")
        head = await rig.ask("HEAD", "/health")
        assert (head.status, head.text) == (200, "")
        assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/status/", 404), ("//status", 404), ("/x/status", 404), ("/%73", 404)],
)
async def test_what_is_not_in_the_table_is_not_there(path: str, status: int) -> None:
    async with local_rig() as rig:
        assert (await rig.ask("GET", path)).status == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ops/trifcgi/health", 200),
        ("/ops/requests/9", 404),
        ("/ops/nothing", 404),
        ("/ops/", 200),
    ],
)
async def test_a_prefix_is_found_where_the_front_end_does_not_name_it(
    path: str, status: int
) -> None:
    async with local_rig() as rig:
        response = await rig.control.request(params(path))  # nginx: no PATH_INFO
        assert response.status == status


async def test_a_mount_that_the_front_end_names_is_cut_off() -> None:
    async with local_rig() as rig:
        pairs = params("/ops/health", SCRIPT_NAME="/ops", PATH_INFO="/health")
        assert (await rig.control.request(pairs)).status == 200


async def test_params_that_make_no_request_are_refused() -> None:
    async with local_rig() as rig:
        assert (await rig.control.request(params("/health", method="G T"))).status == 400


async def test_changes_are_on_the_log_with_who_made_them() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("trifcgi.admin")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    try:
        async with local_rig() as rig:
            assert await _guarded(rig, None, "POST") == 200
            assert await _guarded(rig, None, "GET") == 200
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    assert lines == ["/gc asked for by 127.0.0.1 by way of stream"]


async def _guarded(rig: Rig, token: str | None, method: str = "GET", **more: str) -> int:
    handler = ControlHandler(rig.source, Guard(token))
    async with open_client(handler) as client:
        pairs = params("/", method=method, PATH_INFO="/gc" if method == "POST" else "/health")
        response = await client.request([*pairs, ("SCRIPT_NAME", ""), *more.items()])
        if response.status >= 400:
            assert set(json.loads(response.body)) == {"error"}
        if response.status == 401:
            assert ("www-authenticate", 'Bearer realm="trifcgi"') in response.headers
        return response.status


TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer 0123456789abcde", 401),
        ("Bearer 0123456789abcdef0", 401),
        ("Bearer 0123456789ABCDEF", 401),
        ("Basic 0123456789abcdef", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("Bearer \udcff\udcfe", 401),
    ],
)
async def test_every_request_has_to_carry_the_token(given: str | None, status: int) -> None:
    async with local_rig() as rig:
        more = {} if given is None else {"HTTP_AUTHORIZATION": given}
        assert await _guarded(rig, TOKEN, **more) == status


async def test_a_token_in_the_query_opens_nothing() -> None:
    async with local_rig() as rig:
        assert await _guarded(rig, TOKEN, QUERY_STRING=f"token={TOKEN}") == 401


async def test_the_page_itself_needs_no_token_and_all_that_it_asks_for_does() -> None:
    async with local_rig() as rig, open_client(ControlHandler(rig.source, Guard(TOKEN))) as client:
        assert (await client.request(params("/"))).status == 200
        for path in ("/status", "/health", "/ready", "/help", "/nothing", "/metrics"):
            assert (await client.request(params(path))).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({"HTTP_SEC_FETCH_SITE": "none"}, 200),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403),
        ({"HTTP_ORIGIN": "http://example.test"}, 200),
        ({"HTTP_ORIGIN": "https://evil.example"}, 403),
        ({"HTTP_ORIGIN": "http://example.test:81"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_ORIGIN": "http://[::1"}, 403),
        ({"HTTP_ORIGIN": "", "HTTP_HOST": ""}, 200),
        ({"HTTP_ORIGIN": "null", "HTTP_HOST": ""}, 403),
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_no_other_site_can_make_changes(
    headers: dict[str, str], status: int, token: str | None
) -> None:
    async with local_rig() as rig:
        if token is not None:
            headers = {**headers, "HTTP_AUTHORIZATION": f"Bearer {token}"}
        assert await _guarded(rig, token, "POST", **headers) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9001", 200),
        ("[::1]:9001", 200),
        ("localhost", 200),
        ("LOCALHOST:9001", 200),
        ("x.localhost", 200),
        ("", 200),
        ("evil.example:9001", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
    ],
)
def test_a_name_that_anybody_may_point_here_is_not_ours(host: str, status: int) -> None:
    refusal = Guard(None).refusal({"HTTP_HOST": host}, changes=False, direct=True)
    assert (200 if refusal is None else refusal[0]) == status
    assert Guard(None).refusal({"HTTP_HOST": host}, changes=False, direct=False) is None
    carried = {"HTTP_HOST": host, "HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
    assert Guard(TOKEN).refusal(carried, changes=False, direct=True) is None
