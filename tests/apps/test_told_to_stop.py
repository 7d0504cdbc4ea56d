"""How ASGI and WSGI apps and scripts learn that their server begins to stop."""

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

import trifcgi
from tests.apps.eventually import until
from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.asgi import asgi
from trifcgi.apps.wsgi import wsgi
from trifcgi.errors import ResponseError
from trifcgi.testing import App, MemoryServer

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

DISCONNECT = {"type": "http.disconnect"}
LAST = {"type": "http.response.body", "body": b"goodbye"}


def start(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


EVENTS = start((b"content-type", b"text/event-stream"))


def event(data: bytes = b"data: 1\n\n") -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def whole_body(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


@asynccontextmanager
async def running(app: Any, request: MemoryRequest) -> AsyncIterator[None]:
    """Run an app, from the point where it waits; it has to end by itself within a second."""
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.run, asgi(app))
            await trio.testing.wait_all_tasks_blocked()
            yield


# The extension


async def test_the_extension_tells() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        stopping = scope["extensions"]["trifcgi.stopping"]
        assert stopping["is_set"]() is False
        await stopping["wait"]()
        assert stopping["is_set"]() is True
        await send(start())
        await send(LAST)

    request = MemoryRequest()
    async with running(app, request):
        request.stop_signal.set()
    assert request.response.body == b"goodbye"


async def test_it_is_made_once_for_all_requests_of_a_server() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["extensions"])
        await send(start())
        await send(LAST)

    handler = asgi(app)
    for server in (MemoryServer(handler), MemoryServer(handler)):
        async with server, server.client() as client:
            for _ in range(2):
                await client.request(trifcgi.testing.params())
    first, again, other, _ = seen
    assert first is not again
    assert first["trifcgi.stopping"] is again["trifcgi.stopping"]
    assert first["trifcgi.stopping"] != other["trifcgi.stopping"]


# Event streams of apps that know nothing of it


@pytest.mark.parametrize(
    "header",
    [
        (b"content-type", b"text/event-stream"),
        (b"Content-Type", b"text/event-stream; charset=utf-8"),
        (b"CONTENT-TYPE", b"Text/Event-Stream ;charset=utf-8"),
    ],
)
@pytest.mark.parametrize("listens_first", [True, False])
async def test_a_listener_sees_a_disconnect_while_send_goes_on(
    header: tuple[bytes, bytes], listens_first: bool
) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        told = trio.Event()

        async def listen() -> None:
            seen.append(await receive())
            told.set()

        async with trio.open_nursery() as nursery:
            if listens_first:
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked()
            await send(start((b"x-a", b"1"), header))
            await send(event())
            if not listens_first:
                nursery.start_soon(listen)
            await told.wait()
            await send(event(b"data: 2\n\n"))
            seen.append(await receive())
            await send(LAST)

    request = MemoryRequest()
    async with running(app, request):
        assert seen == []
        request.stop_signal.set()
    assert seen == [DISCONNECT] * 2
    assert request.response.body == b"data: 1\n\ndata: 2\n\ngoodbye"
    assert request.stdout.finished
    assert not request.stop_signal._scopes


async def test_a_stream_that_begins_too_late_is_told_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await send(EVENTS)
        assert await receive() == DISCONNECT
        await send(LAST)

    request = MemoryRequest()
    request.stop_signal.set()
    async with running(app, request):
        pass
    assert request.response.body == b"goodbye"


async def test_who_only_asks_in_a_cancelled_scope_is_told() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send(EVENTS)
        asked = Request(scope, receive)
        assert not await asked.is_disconnected()
        request.stop_signal.set()
        assert await asked.is_disconnected()
        await send(LAST)

    request = MemoryRequest()
    async with running(app, request):
        pass
    assert request.response.body == b"goodbye"


async def give_up_by_return(receive: Receive, send: Send) -> None:
    assert await receive() == DISCONNECT


async def give_up_by_raising(receive: Receive, send: Send) -> None:
    assert await receive() == DISCONNECT
    raise RuntimeError("the client has gone, it seems")


async def give_up_in_a_task_group(receive: Receive, send: Send) -> None:
    async def watch() -> None:
        await receive()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        while True:
            await send(event(b"data: 2\n\n"))
            await anyio.sleep(15)


GIVING_UP = pytest.mark.parametrize(
    "give_up", [give_up_by_return, give_up_by_raising, give_up_in_a_task_group]
)


@GIVING_UP
@pytest.mark.parametrize("events", [0, 1])
async def test_an_event_stream_that_is_given_up_ends_whole(
    give_up: Callable[[Receive, Send], Awaitable[None]],
    events: int,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await whole_body(receive)
            await send(EVENTS)
            for _ in range(events):
                await send(event())
            await give_up(receive, send)

    caplog.set_level(logging.INFO)
    async with MemoryServer(asgi(app)) as server, server.client() as client:
        async with client.open(trifcgi.testing.params()) as exchange:
            await exchange.stdin.aclose()
            await trio.sleep(1)
            server.plane.drain()
            response = await exchange.response()
            body = b"".join([chunk async for chunk in exchange.stdout])
            ended = await exchange.wait_ended()
        await server.plane.wait_drained()
    assert response.status == 200
    assert body.startswith(b"data: 1\n\n" * events)
    assert (ended.app_status, ended.protocol_status) == (0, 0)
    problems = [record for record in caplog.records if record.levelno > logging.INFO]
    assert not problems
    assert ("gave up as the server is stopping" in caplog.text) == (give_up is give_up_by_raising)


@GIVING_UP
async def test_when_the_client_goes_after_that_nothing_is_sent_or_logged(
    give_up: Callable[[Receive, Send], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send(EVENTS)
        await send(event())

        async def receive_and_lose() -> dict[str, Any]:
            message = await receive()
            request.abort(cancel=False)
            return message

        await give_up(receive_and_lose, send)

    request = MemoryRequest()
    async with running(app, request):
        request.stop_signal.set()
    assert request.stdout.sent.count(b"data: ") <= 2
    assert not request.stdout.finished
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# What is left alone


@pytest.mark.parametrize(
    "header",
    [
        (b"content-type", b"application/octet-stream"),
        (b"content-type", b"text/event-streams"),
        (b"content-type", b"text/plain; x=text/event-stream"),
        (b"x-content-type", b"text/event-stream"),
        (b"x-a", b"content-type: text/event-stream"),
    ],
)
async def test_other_responses_have_their_grace(header: tuple[bytes, bytes]) -> None:
    told: list[object] = []
    release = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            told.append(await receive())

        await whole_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send(start(header))
            await send(event(b"half "))
            await release.wait()
            await send({"type": "http.response.body", "body": b"done"})

    request = MemoryRequest()
    async with running(app, request):
        request.stop_signal.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        release.set()
    assert request.response.body == b"half done"
    assert told == [DISCONNECT]  # as always once a response is complete


async def test_the_rest_of_a_body_is_waited_for() -> None:
    messages = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(EVENTS)
        await send(event())
        messages.extend([await receive() for _ in range(2)])
        await send(LAST)

    request = MemoryRequest(params("POST"), body=b"half ", ended=False)
    async with running(app, request):
        request.stop_signal.set()
        await trio.testing.wait_all_tasks_blocked()
        request.stdin.feed(b"done")
        request.stdin.end()
    assert [message["body"] for message in messages] == [b"half ", b"done"]


async def test_an_app_that_was_not_told_has_to_complete_its_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(EVENTS)
        await send(event())

    request = MemoryRequest()
    request.stop_signal.set()
    with pytest.raises(ResponseError, match="before its response was complete"):
        await request.run(asgi(app))


async def test_a_length_that_was_said_is_owed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send(start((b"content-length", b"100"), (b"content-type", b"text/event-stream")))
        await send(event())
        assert await receive() == DISCONNECT

    request = MemoryRequest()
    request.stop_signal.set()
    with pytest.raises(ResponseError, match="before its response was complete"):
        await request.run(asgi(app))


async def test_a_failure_after_the_last_piece_is_a_failure() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send(EVENTS)
        assert await receive() == DISCONNECT
        await send(LAST)
        raise KeyError("mine")

    request = MemoryRequest()
    request.stop_signal.set()
    with pytest.raises(KeyError, match="mine"):
        await request.run(asgi(app))


# Starlette


async def test_a_starlette_stream_that_listens_says_goodbye(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def endpoint(request: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            while not await request.is_disconnected():
                yield "data: 1\n\n"
                await anyio.sleep(1)
            yield "data: goodbye\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", endpoint)])
    async with MemoryServer(asgi(app)) as server, server.client() as client:
        async with client.open(trifcgi.testing.params()) as exchange:
            await exchange.stdin.aclose()
            await trio.sleep(2.5)
            server.plane.drain()
            body = b"".join([chunk async for chunk in exchange.stdout])
            await exchange.wait_ended()
        await server.plane.wait_drained()
    assert body.endswith(b"data: 1\n\n" * 3 + b"data: goodbye\n\n")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# WSGI

Environ = dict[str, Any]


async def test_a_wsgi_app_can_ask_and_wait() -> None:
    waits = threading.Event()
    seen: list[bool] = []

    def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        stopping = environ["trifcgi.stopping"]
        start_response("200 OK", [("Content-Type", "text/event-stream")])

        def events() -> Iterator[bytes]:
            yield b"data: 1\n\n"
            seen.append(stopping.is_set())
            seen.append(stopping.wait(0.001))
            waits.set()
            seen.append(stopping.wait(10))
            seen.append(stopping.is_set())
            yield b"data: goodbye\n\n"

        return events()

    async with MemoryServer(wsgi(app, 2)) as server, server.client() as client:
        with trio.fail_after(5):
            async with client.open(trifcgi.testing.params()) as exchange:
                await exchange.stdin.aclose()
                await until(waits.is_set)
                server.plane.drain()
                body = b"".join([chunk async for chunk in exchange.stdout])
                await exchange.wait_ended()
            await server.plane.wait_drained()
    assert seen == [False, False, True, True]
    assert body.endswith(b"data: 1\n\ndata: goodbye\n\n")


async def test_threads_that_wait_do_not_hold_up_a_stop_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waits = threading.Event()
    seen = []

    def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        start_response("200 OK", [])
        waits.set()
        seen.append(environ["trifcgi.stopping"].wait(10))
        return [b"late"]

    with trio.fail_after(5):
        async with (
            MemoryServer(wsgi(app, 2)) as server,
            server.client() as client,
            client.open(trifcgi.testing.params()) as exchange,
        ):
            await exchange.stdin.aclose()
            await until(waits.is_set)
    assert seen == [True]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# Scripts

SCRIPTS = {
    "native": """
async def app(request):
    await request.stdout.send_all(b"Content-Type: text/event-stream\\r\\n\\r\\ndata: 1\\n\\n")
    await request.wait_stopping()
    await request.stdout.send_all(b"data: goodbye\\n\\n")
""",
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
    await scope["extensions"]["trifcgi.stopping"]["wait"]()
    await send({"type": "http.response.body", "body": b"data: goodbye\\n\\n"})
""",
    "wsgi": """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield b"data: 1\\n\\n"
    environ["trifcgi.stopping"].wait(10)
    yield b"data: goodbye\\n\\n"
""",
}


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_scripts_are_told(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "events.py"
    script.write_text(SCRIPTS[kind])
    # The URL goes on behind the script, which so gets a request of its host's making.
    asked = trifcgi.testing.params("/events.py/more", SCRIPT_FILENAME=f"{script}/more")
    host: App = trifcgi.scripts(tmp_path, threads=2)
    with trio.fail_after(10):
        async with MemoryServer(host, interface="handler") as server, server.client() as client:
            async with client.open(asked) as exchange:
                await exchange.stdin.aclose()
                await exchange.response()
                assert await exchange.stdout.receive_some() == b"data: 1\n\n"
                server.plane.drain()
                rest = b"".join([chunk async for chunk in exchange.stdout])
                await exchange.wait_ended()
            await server.plane.wait_drained()
    assert rest == b"data: goodbye\n\n"
