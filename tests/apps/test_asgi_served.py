"""ASGI applications behind the real server, over memory streams."""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import trifcgi
from tests.server import raw
from trifcgi.testing import MemoryServer, open_client, params

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"chunk", "more_body": True}
LAST = {"type": "http.response.body", "body": b"last"}
POST = params(method="POST")


class App:
    """Runs one function for each request, and has no lifespan."""

    def __init__(self, work: Callable[[Receive, Send], Awaitable[None]]) -> None:
        self._work = work

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._work(receive, send)


async def test_starlette_with_lifespan_state_upload_and_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, bytes]]:
        steps.append("up")
        yield {"prefix": b"> "}
        steps.append("down")

    async def endpoint(request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield request.state.prefix
            async for chunk in request.stream():
                yield chunk

        return StreamingResponse(lines(), 201, {"x-path": request.url.path})

    app = Starlette(routes=[Route("/up", endpoint, methods=["POST"])], lifespan=lifespan)
    async with open_client(trifcgi.asgi(app)) as client:
        assert steps == ["up"]
        response = await client.request(params("/up", method="POST"), b"data")
        missing = await client.request(params("/down"))
    assert (response.status, response.body, response.app_status) == (201, b"> data", 0)
    assert response.header("x-path") == "/up"
    assert missing.status == 404
    assert steps == ["up", "down"]


async def test_tasks_that_send_at_a_time_take_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    long, last = b"a" * 600_000, b"b" * 700_000

    async def work(receive: Receive, send: Send) -> None:
        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, {**CHUNK, "body": long})
            await trio.sleep(1)  # it waits for the front end to read
            for number in range(10):
                nursery.start_soon(send, {**CHUNK, "body": b" %d" % number})
                await trio.sleep(1)
            await send({**LAST, "body": last})

    async with MemoryServer(App(work), interface="asgi") as server:
        front_end = raw.RawFrontEnd(server.connect(trio.testing.lockstep_stream_pair))
        await front_end.send(raw.get())
        await trio.sleep(30)
        answer = await front_end.answer()
    assert (answer.body, answer.app_status) == (long + b" 0 1 2 3 4 5 6 7 8 9" + last, 0)


async def test_one_that_gives_up_sending_lets_the_next_send(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send(START)
        with trio.move_on_after(1):
            await send({**CHUNK, "body": bytes(600_000)})
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await send(CHUNK)
        await send({**LAST, "body": b"the end"})

    async with MemoryServer(App(work), interface="asgi") as server:
        front_end = raw.RawFrontEnd(server.connect(trio.testing.lockstep_stream_pair))
        await front_end.send(raw.get())
        await trio.sleep(10)
        answer = await front_end.answer()
    assert answer.body.endswith(b"the end")


async def test_an_error_before_the_response_is_a_500(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send(START)
        raise KeyError("mine")

    async with open_client(trifcgi.asgi(App(work))) as client:
        response = await client.request(params())
    assert (response.status, response.app_status) == (500, 1)
    assert "KeyError: 'mine'" in caplog.text


async def test_a_header_with_a_line_break_is_a_500(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"x-a", b"1\r\nset-cookie: a=b")]})
        await send(LAST)

    async with open_client(trifcgi.asgi(App(work))) as client:
        response = await client.request(params())
    assert response.status == 500
    assert response.header("set-cookie") is None
    assert "CR, LF or NUL" in caplog.text


@pytest.mark.parametrize("messages", [[START, CHUNK], [START, CHUNK, START]])
async def test_a_response_that_was_cut_does_not_look_complete(
    messages: list[dict[str, Any]],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            await trio.sleep(1)

    async with open_client(trifcgi.asgi(App(work))) as client:
        # Whatever it is that the server does to the connection, no front end takes it for an end.
        with pytest.raises((trifcgi.ConnectionLost, trifcgi.ProtocolError)):
            await client.request(params())
    assert "ResponseError" in caplog.text


async def test_no_request_is_a_400(autojump_clock: trio.testing.MockClock) -> None:
    async def work(receive: Receive, send: Send) -> None:
        pytest.fail("there is no request to serve")

    async with open_client(trifcgi.asgi(App(work))) as client:
        response = await client.request([("SCRIPT_NAME", "/")])
    assert response.status == 400


async def test_other_roles_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    async def work(receive: Receive, send: Send) -> None:
        pytest.fail("ASGI knows responders only")

    async with open_client(trifcgi.asgi(App(work))) as client:
        response = await client.request(params(), role=trifcgi.Role.AUTHORIZER)
    assert response.protocol_status is trifcgi.ProtocolStatus.UNKNOWN_ROLE


@pytest.mark.parametrize("body_ended", [True, False])
@pytest.mark.parametrize("grace", [0, 5, math.inf])
async def test_an_abort_is_told_and_then_cancels_after_the_grace(
    body_ended: bool, grace: float, autojump_clock: trio.testing.MockClock
) -> None:
    steps: list[object] = []

    async def work(receive: Receive, send: Send) -> None:
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        told = trio.current_time()
        steps.append("told")
        try:
            await send(START)
            await send(LAST)
        except OSError:
            steps.append("refused")
        try:
            await trio.sleep(20)
        finally:
            steps.append(trio.current_time() - told)

    timeouts = trifcgi.Timeouts(abort_grace=grace)
    async with open_client(trifcgi.asgi(App(work)), timeouts=timeouts) as client:
        async with client.open(POST) as exchange:
            if body_ended:
                await exchange.stdin.aclose()
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(30)
    assert steps[:2] == ["told", "refused"]
    assert steps[2] == pytest.approx(min(grace, 20), abs=1.5)


async def test_an_upload_that_breaks_off_is_never_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = []

    async def work(receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            seen.append((message["body"], message["more_body"]))
        seen.append(message["type"])

    async with open_client(trifcgi.asgi(App(work))) as client, client.open(POST) as exchange:
        await exchange.stdin.send_all(b"half")
        await trio.testing.wait_all_tasks_blocked()
    assert seen == [(b"half", True), "http.disconnect"]


async def test_a_listener_is_let_go_when_the_answer_is_complete(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = []

    async def work(receive: Receive, send: Send) -> None:
        async def listen() -> None:
            seen.extend([await receive(), await receive()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(1)
            await send(START)
            await send(LAST)

    async with open_client(trifcgi.asgi(App(work))) as client, client.open(POST) as exchange:
        with trio.fail_after(30):
            await exchange.response()
            assert await exchange.stdout.receive_some() == b"last"
            await exchange.wait_ended()
    assert [message["type"] for message in seen] == ["http.disconnect", "http.disconnect"]


async def test_work_after_the_response_neither_delays_it_nor_ends_with_the_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    finished = trio.Event()

    async def work(receive: Receive, send: Send) -> None:
        await send(START)
        await send(LAST)
        await trio.sleep(10)
        finished.set()

    began = trio.current_time()
    async with MemoryServer(trifcgi.asgi(App(work))) as server:
        async with server.client() as client:
            for _ in range(2):
                assert (await client.request(POST)).body == b"last"
            assert trio.current_time() == began
        await finished.wait()
    assert trio.current_time() - began == 10


async def test_a_large_answer_waits_for_its_reader(autojump_clock: trio.testing.MockClock) -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(64):
            await send({**CHUNK, "body": bytes(65_536)})
        await send(LAST)

    async with open_client(trifcgi.asgi(App(work))) as client:
        response = await client.request(params())
    assert len(response.body) == 64 * 65_536 + 4


async def test_a_background_task_that_fails_is_logged_and_spoils_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def later() -> None:
        await trio.sleep(1)
        raise KeyError("later")

    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(later))

    app = Starlette(routes=[Route("/", endpoint)])
    async with open_client(trifcgi.asgi(app)) as client:
        response = await client.request(params())
        again = await client.request(params())
        await trio.sleep(2)
    assert response.body == again.body == b"done"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "KeyError: 'later'" in caplog.text
