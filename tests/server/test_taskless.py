"""Requests that are served without a task: WSGI apps, as long as nothing has to be awaited."""

import collections
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import trifcgi
from tests.server import raw
from tests.server.conftest import Serve
from tests.server.raw import RawFrontEnd
from trifcgi import Timeouts
from trifcgi.apps.wsgi import RequestGone, WSGIHandler
from trifcgi.request import Taskless
from trifcgi.testing import MemoryServer

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]


def echo(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["QUERY_STRING"].encode(), b"!"]


class Held:
    """An app that stays in its thread until it is let go, and notes what its next move raises."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.left = threading.Event()
        self.raised: BaseException | None = None

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        if environ["QUERY_STRING"] == "echo":
            return echo(environ, start_response)
        self.calls += 1
        self.entered.set()
        try:
            assert self.go_on.wait(10)
            start_response("200 OK", [])
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.left.set()
        return [b"held"]

    async def reached(self) -> None:
        await trio.to_thread.run_sync(self.entered.wait, 10)

    async def let_go(self) -> None:
        self.go_on.set()
        await trio.to_thread.run_sync(self.left.wait, 10)


@asynccontextmanager
async def front_end(
    serve: Serve, app: Any, *, threads: int = 4, timeouts: Timeouts | None = None
) -> AsyncGenerator[RawFrontEnd]:
    async with (
        serve(trifcgi.wsgi(app, threads), timeouts=timeouts) as server,
        server.raw() as front_end,
    ):
        yield front_end


async def abort(front: RawFrontEnd) -> None:
    """Abort request 1, and see that the server has heard it, which does not answer for a while."""
    await front.send(raw.abort(1), raw.get(9, QUERY_STRING="echo"))
    assert (await front.answer(9)).body == b"echo!"


async def test_a_whole_answer_needs_no_task() -> None:
    app = Held()
    async with MemoryServer(trifcgi.wsgi(app)) as server, server.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, raw.USUAL_PARAMS)
            await app.reached()
            (exchange,) = server.plane.exchanges()
            assert exchange.task is None
            assert exchange.aside is not None
            app.go_on.set()
        assert not server.plane.exchanges()
        assert server.plane.running == 0


async def test_each_of_many_requests_has_its_answer(serve: Serve) -> None:
    ids = range(1, 60)
    async with front_end(serve, echo) as front:
        for _ in range(3):
            await front.send(*(raw.get(each, QUERY_STRING=f"q={each}") for each in ids))
            answers = await front.answers(*ids)
            assert {each: answers[each].body for each in ids} == {
                each: b"q=%d!" % each for each in ids
            }


async def test_the_connection_closes_behind_a_request_that_does_not_keep_it(serve: Serve) -> None:
    async with front_end(serve, echo) as front:
        await front.send(raw.get(keep=False))
        assert (await front.answer()).body == b"!"
        assert await front.rest() == []


async def test_a_thread_that_the_app_has_left_behind_is_told_that_its_request_is_over(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Any] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        kept.append((environ["wsgi.errors"], start_response("200 OK", [])))
        return [b"done"]

    def go_on() -> None:
        errors, write = kept[0]
        for number in range(300):  # more than is held for a task
            errors.write(f"{number} {'x' * 1000}\n")
        with pytest.raises(RequestGone):
            write(b"late")

    async with front_end(serve, app) as front:
        await front.send(raw.get())
        assert (await front.answer()).body == b"done"
        with trio.fail_after(10):
            await trio.to_thread.run_sync(go_on, abandon_on_cancel=True)
    late = "wsgi.errors, after its request was over"
    assert sum(late in record.getMessage() for record in caplog.records) == 300


async def test_a_head_request_has_no_body(serve: Serve) -> None:
    async with front_end(serve, echo) as front:
        await front.send(raw.get(REQUEST_METHOD="HEAD"))
        answer = await front.answer()
    assert (answer.status, answer.body) == (200, b"")


async def test_an_app_that_raises_is_a_500(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def fail(environ: Environ, start_response: Start) -> Iterable[bytes]:
        raise KeyError("mine")

    async with front_end(serve, fail) as front:
        await front.send(raw.get())
        assert (await front.answer()).status == 500
        await front.send(raw.get())
        assert (await front.answer()).status == 500
    assert "KeyError: 'mine'" in caplog.text


async def test_no_request_is_a_400(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with front_end(serve, echo) as front:
        await front.send(raw.get(REQUEST_METHOD="no method"))
        assert (await front.answer()).status == 400


async def test_a_long_answer_comes_whole(serve: Serve) -> None:
    def long(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [bytes(3_000_000)]

    async with front_end(serve, long) as front:
        await front.send(raw.get(1), raw.get(2))
        answers = await front.answers(1, 2)
    assert {len(answer.body) for answer in answers.values()} == {3_000_000}


async def test_a_piece_leaves_before_the_next_is_made(serve: Serve) -> None:
    seen = threading.Event()

    def pieces(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one "
        assert seen.wait(10)
        yield b"two"

    async with front_end(serve, pieces) as front:
        await front.send(raw.get())
        while (record := await front.receive()) and record.content != b"one ":
            assert record.content.startswith(b"Status:")
        seen.set()
        assert (await front.answer()).stdout == b"two"


async def test_a_response_in_a_single_yielded_piece(serve: Serve) -> None:
    def piece(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        yield b"one"

    async with front_end(serve, piece) as front:
        ids = range(1, 20)
        await front.send(*(raw.get(each) for each in ids))
        answers = await front.answers(*ids)
    assert {answer.body for answer in answers.values()} == {b"one"}


async def test_text_for_the_error_log_arrives(serve: Serve) -> None:
    def log(environ: Environ, start_response: Start) -> Iterable[bytes]:
        environ["wsgi.errors"].write("one\ntwo")
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    async with front_end(serve, log) as front:
        await front.send(raw.get())
        answer = await front.answer()
    assert (answer.status, answer.stderr) == (200, b"one\ntwo")


async def test_an_abort_ends_the_request_at_once_and_is_told(serve: Serve) -> None:
    app = Held()
    async with front_end(serve, app) as front:
        await front.send(raw.get())
        await app.reached()
        await front.send(raw.abort())
        answer = await front.answer()
        assert (answer.stdout, answer.app_status) == (b"", 1)
        await app.let_go()
        assert isinstance(app.raised, RequestGone)
        await front.send(raw.get())
        assert (await front.answer()).body == b"held"


async def test_a_request_that_waits_for_a_thread_and_is_aborted_is_never_called(
    serve: Serve,
) -> None:
    app = Held()
    async with front_end(serve, app, threads=1) as front:
        await front.send(raw.get(1))
        await app.reached()
        await front.send(raw.get(2))
        await front.send(raw.abort(2))
        assert (await front.answer(2)).app_status == 1
        await app.let_go()
        assert (await front.answer(1)).body == b"held"
    assert app.calls == 1


async def test_a_lost_connection_is_told(serve: Serve) -> None:
    app = Held()
    async with serve(trifcgi.wsgi(app)) as server:
        async with server.raw() as front:
            await front.send(raw.get())
            await app.reached()
        async with server.raw() as other:
            # Served while the other thread is held, and by then the loss is known.
            app.entered.clear()
            await other.send(raw.get())
            await app.reached()
            await app.let_go()
            assert (await other.answer()).body == b"held"
    assert isinstance(app.raised, RequestGone)


async def test_a_request_that_takes_too_long_is_a_504(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = Held()
    async with front_end(serve, app, timeouts=Timeouts(request_timeout=0.05)) as front:
        await front.send(raw.get())
        assert (await front.answer()).status == 504
        await app.let_go()
    assert isinstance(app.raised, RequestGone)


async def test_an_app_may_learn_of_an_abort_within_the_grace(serve: Serve) -> None:
    app = Held()
    async with front_end(serve, app, timeouts=Timeouts(abort_grace=10)) as front:
        await front.send(raw.get())
        await app.reached()
        await abort(front)
        await app.let_go()
        assert (await front.answer()).app_status == 1
    assert isinstance(app.raised, RequestGone)


async def test_an_error_within_the_grace_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = Held()

    def fail(environ: Environ, start_response: Start) -> Iterable[bytes]:
        if environ["QUERY_STRING"] == "echo":
            return echo(environ, start_response)
        app(environ, lambda *_: print)
        raise KeyError("mine")

    async with front_end(serve, fail, timeouts=Timeouts(abort_grace=10)) as front:
        await front.send(raw.get())
        await app.reached()
        await abort(front)
        await app.let_go()
        assert (await front.answer()).app_status == 1
    assert "KeyError: 'mine'" in caplog.text


async def test_a_stream_that_is_aborted_is_told(serve: Serve) -> None:
    raised: list[BaseException] = []
    left = threading.Event()

    def pieces(environ: Environ, start_response: Start) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        yield b""
        try:
            while True:
                write(b"x" * 1000)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            left.set()

    async with front_end(serve, pieces) as front:
        await front.send(raw.get())
        assert await front.receive()
        await front.send(raw.abort())
        with trio.move_on_after(1):
            await front.answer()
        await trio.to_thread.run_sync(left.wait, 10)
    assert isinstance(raised[0], RequestGone)


async def test_a_blocked_app_holds_nobody_up(serve: Serve) -> None:
    app = Held()

    ids = range(2, 30)
    async with front_end(serve, app, threads=2) as front:
        await front.send(raw.get(1), *(raw.get(each, QUERY_STRING="echo") for each in ids))
        assert {answer.body for answer in (await front.answers(*ids)).values()} == {b"echo!"}
        await app.let_go()
        assert (await front.answer(1)).body == b"held"


async def test_threads_that_are_called_all_at_once_all_arrive(serve: Serve) -> None:
    """Whole answers, pieces that wake the event loop, and bodies, which have tasks."""

    def any_of_them(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        if environ["QUERY_STRING"] == "pieces":
            return (piece for piece in (b"one ", b"two"))
        return [environ["wsgi.input"].read() or b"whole"]

    async def ask(front: RawFrontEnd, requests: bytes, expected: set[bytes]) -> None:
        for _ in range(60):
            await front.send(requests)
            answers = await front.answers(1, 2, 3)
            assert {answer.body for answer in answers.values()} == expected

    async with (
        serve(trifcgi.wsgi(any_of_them, 4)) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        requests = (
            raw.get(1)
            + raw.get(2, QUERY_STRING="pieces")
            + raw.head(3, REQUEST_METHOD="POST", CONTENT_LENGTH="4")
            + raw.stdin(3, b"body")
            + raw.stdin(3)
        )
        async with trio.open_nursery() as asking:
            for _ in range(8):
                front = await stack.enter_async_context(server.raw())
                asking.start_soon(ask, front, requests, {b"whole", b"one two", b"body"})


async def test_a_server_that_is_cancelled_leaves_no_request_and_tells_the_app(
    serve: Serve,
) -> None:
    app = Held()
    handler = trifcgi.wsgi(app)
    async with front_end_of(serve, handler) as front:
        await front.send(raw.get())
        await app.reached()
        threading.Timer(0.05, app.go_on.set).start()
    assert handler.pool.crew is None
    assert isinstance(app.raised, RequestGone)


@asynccontextmanager
async def front_end_of(serve: Serve, handler: WSGIHandler) -> AsyncGenerator[RawFrontEnd]:
    async with serve(handler) as server, server.raw() as front:
        yield front


async def test_a_handler_with_an_attribute_of_that_name_is_an_ordinary_one(serve: Serve) -> None:
    class Handler:
        taskless = "no such thing"

        async def __call__(self, request: trifcgi.Request) -> None:
            await request.stdout.send_all(b"\r\n\r\nplain")

    async with serve(Handler()) as server, server.raw() as front:
        await front.send(raw.get())
        assert (await front.answer()).body.endswith(b"plain")


async def test_a_request_that_has_asked_for_a_task_is_begun_once(serve: Serve) -> None:
    """Bytes of others may come on its connection before the task has its turn."""
    calls: collections.Counter[str] = collections.Counter()

    def pieces(environ: Environ, start_response: Start) -> Iterator[bytes]:
        calls[environ["QUERY_STRING"]] += 1
        start_response("200 OK", [])
        yield b"one "
        yield b"two"

    async with front_end(serve, pieces) as front:
        for number in range(100):
            ids = range(1, 9)
            for each in ids:
                await front.send(raw.get(each, QUERY_STRING=f"{number}-{each}"))
            answers = await front.answers(*ids)
            assert {answer.body for answer in answers.values()} == {b"one two"}
    assert set(calls.values()) == {1}
    assert len(calls) == 800


async def test_what_cannot_be_begun_without_a_task_is_the_handlers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Taskless):
        handler: Any

        def begin(self, request: Any) -> bool:
            raise MemoryError

        def begun(self) -> None:
            pass

    class Handler:
        def __init__(self) -> None:
            self.taskless = Broken()
            self.taskless.handler = self

        async def __call__(self, request: trifcgi.Request) -> None:
            await request.stdout.send_all(b"\r\nserved")

    async with serve(Handler()) as server, server.raw() as front:
        await front.send(raw.get())
        assert (await front.answer()).body == b"served"
    assert "could not be begun without a task" in caplog.text


class Guard:
    """A handler around another, with all that the other has."""

    def __init__(self, handler: WSGIHandler) -> None:
        self.guarded = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)

    async def __call__(self, request: trifcgi.Request) -> None:
        await request.stdout.send_all(b"Status: 403 Forbidden\r\n\r\n")


class Derived(WSGIHandler):
    async def __call__(self, request: trifcgi.Request) -> None:
        await request.stdout.send_all(b"Status: 403 Forbidden\r\n\r\n")


@pytest.mark.parametrize(
    "handler", [Guard(WSGIHandler(echo)), Derived(echo)], ids=["around", "of"]
)
async def test_nobody_gets_past_a_handler_that_stands_in_for_one_of_wsgi(
    serve: Serve, handler: Any
) -> None:
    async with serve(handler) as server, server.raw() as front:
        await front.send(raw.get())
        assert (await front.answer()).status == 403


async def test_the_app_that_a_handler_has_now_is_called(serve: Serve) -> None:
    def other(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"other"]

    handler = WSGIHandler(echo)
    async with serve(handler) as server, server.raw() as front:
        handler.app = other
        await front.send(raw.get())
        assert (await front.answer()).body == b"other"
