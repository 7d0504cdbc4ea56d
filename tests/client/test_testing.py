"""The help for users' tests: ``open_client``, ``MemoryServer`` and ``params``."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio

import trifcgi
from tests.capture_files import load_capture
from tests.server.handlers import hello, sleep
from trifcgi.testing import MemoryServer, open_client, params


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi " + scope["raw_path"]})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"wsgi ", environ["PATH_INFO"].encode()]


async def handler(request: trifcgi.Request) -> None:
    await request.stdout.send_all(b"\r\nhandler " + request.params["SCRIPT_NAME"].encode())


@pytest.mark.parametrize(
    ("app", "body"),
    [
        (handler, b"handler /x"),
        (asgi_app, b"asgi /x"),
        (wsgi_app, b"wsgi /x"),
        (trifcgi.asgi(asgi_app), b"asgi /x"),
        (trifcgi.wsgi(wsgi_app), b"wsgi /x"),
    ],
    ids=["handler", "asgi", "wsgi", "asgi made a handler", "wsgi made a handler"],
)
async def test_open_client_takes_every_kind_of_app(app: Callable[..., Any], body: bytes) -> None:
    async with open_client(app) as client:
        response = await client.request(params("/x"))
        assert (response.status, response.body) == (200, body)


async def test_what_cannot_be_told_apart_can_be_named() -> None:
    async def any_arguments(*args: Any) -> None:
        await handler(*args)

    with pytest.raises(trifcgi.AppLoadError):
        MemoryServer(any_arguments)
    async with open_client(any_arguments, interface="handler") as client:
        assert (await client.request(params("/x"))).body == b"handler /x"


async def test_a_mock_clock_drives_the_timeouts(autojump_clock: object) -> None:
    start = trio.current_time()
    async with open_client(sleep, timeouts=trifcgi.Timeouts(request_timeout=3600)) as client:
        assert (await client.request(params())).status == 504
    assert 3600 <= trio.current_time() - start < 3700


async def test_a_memory_server_has_many_connections() -> None:
    async with MemoryServer(hello) as server, server.client() as one, server.client() as two:
        assert (await one.request(params())).body == (await two.request(params())).body
        assert server.plane.connections == 2
    assert server.plane.connections == 0


async def test_a_memory_server_must_be_entered() -> None:
    with pytest.raises(RuntimeError, match="enter the MemoryServer"):
        MemoryServer(hello).connect()


def captured(file: str) -> list[tuple[str, str]]:
    """The params that nginx 1.22 was recorded to send."""
    [request] = load_capture(file).requests
    return [(name.decode(), value.decode()) for name, value in request.params]


def test_params_are_what_nginx_sends() -> None:
    made = params(
        "/app/hello/world",
        query="a=1&b=%20two+three&c=%2F",
        headers={"Host": "example.test", "Connection": "close"},
    )
    sent = captured("nginx-get-query.bin")
    assert [name for name, _ in made] == [name for name, _ in sent]
    ours_to_choose = {"DOCUMENT_ROOT", "REMOTE_PORT", "SERVER_PORT"}
    assert [p for p in made if p[0] not in ours_to_choose] == [
        p for p in sent if p[0] not in ours_to_choose
    ]


def test_params_of_a_body_have_its_length_and_type() -> None:
    made = params(
        "/app/post",
        method="POST",
        headers=[
            ("Host", "example.test"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", "7"),
            ("Connection", "close"),
        ],
        body_length=7,
    )
    assert [name for name, _ in made] == [name for name, _ in captured("nginx-post-small.bin")]
    assert dict(made)["CONTENT_LENGTH"] == dict(made)["HTTP_CONTENT_LENGTH"] == "7"


def test_params_decode_the_path_and_let_more_win() -> None:
    made = dict(params("/a%20b/%C3%A9", query="q", REQUEST_TIMEOUT="5", SERVER_NAME="other"))
    assert made["SCRIPT_NAME"] == "/a b/é"
    assert made["REQUEST_URI"] == "/a%20b/%C3%A9?q"
    assert (made["REQUEST_TIMEOUT"], made["SERVER_NAME"]) == ("5", "other")


def test_params_repeat_repeated_headers() -> None:
    made = params(headers=[("Accept", "a"), ("accept", "b")])
    assert [value for name, value in made if name == "HTTP_ACCEPT"] == ["a", "b"]
