"""Params that come again, cut and mixed as they may: each handler sees the same of them."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import pytest
import trio
import trio.testing

import trifcgi
from tests.server import raw
from tests.server.conftest import Serve
from trifcgi import Limits
from trifcgi.cgi import Meaning, known
from trifcgi.protocol import decode_pairs
from trifcgi.protocol.pairs import COMPILED
from trifcgi.server.plane import DataPlane
from trifcgi.testing import MemoryServer

OFTEN: Final = 10  # and so known again

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def native(request: trifcgi.Request) -> None:
    meaning = Meaning(request.pairs)
    seen = (list(request.pairs), dict(request.params), request.named, meaning.headers)
    await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n" + repr(seen).encode())


async def asgi(scope: dict[str, Any], receive: object, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    seen = {key: value for key, value in scope.items() if key not in {"extensions", "state"}}
    scope["headers"].append((b"mine", b"now"))
    scope["asgi"]["mine"] = scope["mine"] = True
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(seen).replace("mine", "!").encode()})


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    seen = {key: value for key, value in environ.items() if "." not in key}
    environ["MINE"] = "now"
    start_response("200 OK", [])
    return [repr(sorted(seen.items())).encode()]


HANDLERS: Final[dict[str, Callable[[], Any]]] = {
    "native": lambda: native,
    "asgi": lambda: trifcgi.asgi(asgi),
    "asgi, mounted": lambda: trifcgi.asgi(asgi, mount="/a"),
    "wsgi": lambda: trifcgi.wsgi(wsgi),
}

REQUESTS: Final = [
    raw.pairs(*raw.USUAL_PARAMS, *more)
    for more in (
        [("HTTP_HOST", "a.test"), ("HTTP_COOKIE", "a=1"), ("HTTP_ACCEPT", "*/*")],
        [("HTTP_HOST", "b.test"), ("HTTP_COOKIE", "a=%s" % ("2" * 200))],
        [("HTTP_HOST", ""), ("HTTP_COOKIE", ""), ("HTTP_COOKIE", "b=1")],
        [("SCRIPT_NAME", "/a"), ("PATH_INFO", "/b c"), ("REQUEST_URI", "/a/b%20c?q=%20")],
        [("SCRIPT_NAME", "/a/b"), ("REQUEST_URI", "/a/b?q"), ("QUERY_STRING", "q")],
        [("SCRIPT_NAME", "/a/b"), ("REQUEST_URI", "/a/b?q#f?g"), ("QUERY_STRING", "q")],
        [("SCRIPT_NAME", "/a#b"), ("REQUEST_URI", "/a#b"), ("HTTP_A", "1"), ("HTTP_A", "2")],
        [("SCRIPT_NAME", "/\xe9"), ("REQUEST_URI", "/%c3%a9"), ("REMOTE_ADDR", "unix:")],
        [("REQUEST_METHOD", "PUT"), ("CONTENT_LENGTH", "0"), ("CONTENT_TYPE", "text/x")],
        [("HTTPS", "on"), ("SERVER_NAME", ""), ("SERVER_PORT", ""), ("HTTP_PROXY", "x")],
    )
]


def sent(block: bytes, request_id: int, cut: int, padding: int) -> bytes:
    """A request whose params come in records of that size."""
    pieces = [block[at : at + cut] for at in range(0, len(block), cut)]
    records = [raw.record(raw.PARAMS, request_id, piece, padding) for piece in [*pieces, b""]]
    return raw.begin(request_id) + b"".join(records) + raw.stdin(request_id)


@pytest.mark.parametrize("kind", HANDLERS)
async def test_params_are_the_same_however_they_come_and_how_often(kind: str) -> None:
    expected = []
    for block in REQUESTS:
        known.memory.forget()
        async with MemoryServer(HANDLERS[kind]()) as server:
            front_end = raw.RawFrontEnd(server.connect())
            await front_end.send(sent(block, 1, 60_000, 0))
            expected.append((await front_end.answer()).stdout)
    async with MemoryServer(HANDLERS[kind]()) as server:
        front_end = raw.RawFrontEnd(server.connect())
        for turn in range(OFTEN):
            for number, block in enumerate(REQUESTS):
                request_id = 1 + (turn * number) % 3
                data = sent(block, request_id, [60_000, 1, 7, 50][turn % 4], turn * 25)
                at = len(data) * turn // OFTEN
                await front_end.send(data[:at])
                await front_end.send(data[at:])
                assert (await front_end.answer(request_id)).stdout == expected[number]
        # All together, on a connection that multiplexes.
        ids = range(1, 1 + len(REQUESTS))
        await front_end.send(*(sent(block, ids[at], 9, 1) for at, block in enumerate(REQUESTS)))
        answers = await front_end.answers(*ids)
        assert [answers[request_id].stdout for request_id in ids] == expected
    assert known.memory._leaves > 0 or (COMPILED and kind == "native")


@pytest.mark.parametrize("kind", HANDLERS)
async def test_params_are_all_there_although_somebody_has_looked_while_they_came(
    kind: str,
) -> None:
    data = sent(REQUESTS[0], 1, 60_000, 0)
    async with MemoryServer(HANDLERS[kind]()) as server:
        front_end = raw.RawFrontEnd(server.connect())
        await front_end.send(data)
        expected = (await front_end.answer()).stdout
        await front_end.send(data[:100])
        while not server.plane.exchanges():
            await trio.testing.wait_all_tasks_blocked()
        (exchange,) = server.plane.exchanges()
        # As the control server does, which lists requests however far they have come.
        assert (exchange.named, list(exchange.pairs), len(exchange.params)) == ({}, [], 0)
        assert exchange.method == b""
        await front_end.send(data[100:])
        assert (await front_end.answer()).stdout == expected


async def test_a_request_that_waits_keeps_nothing_of_how_its_params_were_read() -> None:
    seen: list[object] = []

    async def app(scope: dict[str, Any], receive: object, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await trio.lowlevel.checkpoint()
        seen.extend(exchange.reading for exchange in server.plane.exchanges())
        await asgi(scope, receive, send)

    async with MemoryServer(trifcgi.asgi(app)) as server:
        front_end = raw.RawFrontEnd(server.connect())
        await front_end.send(sent(REQUESTS[0], 1, 60_000, 0))
        assert b"a.test" in (await front_end.answer()).stdout
    assert seen == [None]


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("often", [1, OFTEN])
async def test_malformed_params_close_the_connection(
    kind: str, often: int, caplog: pytest.LogCaptureFixture
) -> None:
    block = REQUESTS[0]
    async with MemoryServer(HANDLERS[kind]()) as server:
        for _ in range(often):
            front_end = raw.RawFrontEnd(server.connect())
            await front_end.send(sent(block, 1, 60_000, 0))
            assert (await front_end.answer()).status == 200
            await front_end.send(sent(block[:-1], 1, 60_000, 0))
            assert await front_end.rest() == []
    sentence = f"params of request 1: a block of {len(block) - 1} bytes of name-value pairs ends"
    assert caplog.text.count(sentence) == often


@pytest.mark.parametrize("kind", HANDLERS)
async def test_each_request_is_admitted_by_its_own_params(serve: Serve, kind: str) -> None:
    async with (
        serve(HANDLERS[kind](), limits=Limits(max_body=10)) as server,
        server.raw() as front_end,
    ):
        for _ in range(OFTEN):
            await front_end.send(raw.get())
            assert (await front_end.answer()).status == 200
            await front_end.send(raw.get(REQUEST_METHOD="HEAD"))
            assert (await front_end.answer()).body == b""
            await front_end.send(raw.get(REQUEST_METHOD=""))
            answer = await front_end.answer()
            assert answer.status == 400
            assert b"no REQUEST_METHOD" in answer.stdout
            await front_end.send(raw.get(CONTENT_LENGTH="11"))
            assert (await front_end.answer()).status == 413
            await front_end.send(raw.get(CONTENT_LENGTH="10"))
            assert (await front_end.answer()).status == 200


async def test_a_request_timeout_is_found_in_what_is_known(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async def app(scope: dict[str, Any], receive: object, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await trio.sleep(5)
        await asgi(scope, receive, send)

    async with memory_serve(trifcgi.asgi(app)) as server, server.raw() as front_end:
        for _ in range(OFTEN):
            await front_end.send(raw.get(REQUEST_TIMEOUT="2.5"))
            assert (await front_end.answer()).status == 504
            await front_end.send(raw.get())
            assert (await front_end.answer()).status == 200


async def test_pairs_are_there_when_the_request_is_over() -> None:
    kept = []

    async def handler(request: trifcgi.Request) -> None:
        kept.append(request)
        await request.stdout.send_all(b"\r\n")

    async with MemoryServer(handler) as server:
        front_end = raw.RawFrontEnd(server.connect())
        for _ in range(OFTEN):
            await front_end.send(raw.get())
            await front_end.answer()
    for request in kept:
        assert list(request.pairs) == decode_pairs(raw.pairs(*raw.USUAL_PARAMS))
        assert request.params["REQUEST_METHOD"] == "GET"


class Wrapper:
    """Has the attributes of what it wraps."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    async def __call__(self, request: trifcgi.Request) -> None:
        await self.wrapped(request)


@pytest.mark.parametrize("kind", HANDLERS)
async def test_who_wraps_a_handler_reads_params_itself(kind: str) -> None:
    handler = HANDLERS[kind]()
    assert DataPlane(handler).state.reads is (not COMPILED or kind != "native")
    assert DataPlane(Wrapper(handler)).state.reads is (not COMPILED)
    async with MemoryServer(Wrapper(handler)) as server:
        front_end = raw.RawFrontEnd(server.connect())
        for _ in range(OFTEN):
            await front_end.send(raw.get())
            assert (await front_end.answer()).status == 200
