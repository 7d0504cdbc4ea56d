"""WSGI requests that end early: the task leaves at once, the thread learns of it."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trifcgi.testing
from tests.apps.eventually import until
from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.wsgi import RequestGone, WSGIHandler, wsgi

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]

STREAMED = params("POST", "/upload", {"CONTENT_LENGTH": ""})


class Recorder:
    """An app's response that notes what befalls it.

    Args:
        move: called with environ and the write callable; what it raises is noted.
    """

    def __init__(self, move: Callable[[Environ, Any], object]) -> None:
        self._move = move
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.raised: BaseException | None = None
        self.closed = 0
        self.called = 0

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        self.called += 1
        self._environ = environ
        self._write = start_response("200 OK", [])
        self._start = start_response
        return self

    def __iter__(self) -> Iterator[bytes]:
        self.entered.set()
        try:
            self._move(self._environ, self._write)
        except BaseException as error:
            self.raised = error
            raise
        yield b"late"

    def close(self) -> None:
        self.closed += 1


def read(environ: Environ, write: Any) -> None:
    environ["wsgi.input"].read()


def write_much(environ: Environ, write: Any) -> None:
    while True:
        write(b"x" * 50_000)


def start(nursery: trio.Nursery, handler: WSGIHandler, request: MemoryRequest) -> trio.Event:
    ended = trio.Event()

    async def run() -> None:
        await request.run(handler)
        ended.set()

    nursery.start_soon(run)
    return ended


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "told"])
@pytest.mark.parametrize("move", [read, write_much])
async def test_a_waiting_thread_is_woken(move: Any, cancel: bool) -> None:
    app = Recorder(move)
    request = MemoryRequest(STREAMED, ended=False)
    if move is write_much:
        request.stdout.block()
    handler = wsgi(app, 1)
    async with handler.lifespan(), trio.open_nursery() as nursery:
        ended = start(nursery, handler, request)
        await until(app.entered.is_set)
        await trio.sleep(0.01)  # for most runs to find the thread waiting; either way it raises
        began = trio.current_time()
        request.abort(cancel=cancel)
        await ended.wait()
        assert trio.current_time() - began < 0.5
        await until(lambda: app.closed)
        assert handler.pool.crew is not None
        await until(lambda: not handler.pool.crew.busy)  # type: ignore[union-attr]
    assert isinstance(app.raised, RequestGone)
    assert isinstance(app.raised, ConnectionAbortedError)
    assert app.closed == 1


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "told"])
@pytest.mark.parametrize("how", ["read", "write", "start_response", "yield"])
async def test_a_working_thread_learns_of_it_at_its_next_move(how: str, cancel: bool) -> None:
    def move(environ: Environ, write: Any) -> None:
        app.go_on.wait(5)
        if how == "read":
            environ["wsgi.input"].read(1)
        elif how == "write":
            write(b"x")
        elif how == "start_response":
            app._start("500 Oh", [], (ValueError, ValueError(), None))

    app = Recorder(move)
    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": "4"}), body=b"here")
    handler = wsgi(app, 1)
    async with handler.lifespan(), trio.open_nursery() as nursery:
        ended = start(nursery, handler, request)
        await until(app.entered.is_set)
        request.abort(cancel=cancel)
        if cancel:
            await ended.wait()
            crew = handler.pool.crew
            assert crew is not None
            assert (crew.busy, crew.abandoned) == (1, 1)
        app.go_on.set()
        await ended.wait()
        await until(lambda: app.closed)
    assert app.closed == 1
    if how != "yield":
        assert isinstance(app.raised, RequestGone)
    assert not request.stdout.begun


async def test_a_thread_that_ignores_everything_keeps_its_place_until_it_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recorder(lambda environ, write: app.go_on.wait(5))
    handler = wsgi(app, 1)
    gone, other = MemoryRequest(), MemoryRequest()
    async with handler.lifespan(), trio.open_nursery() as nursery:
        crew = handler.pool.crew
        assert crew is not None
        ended = start(nursery, handler, gone)
        await until(app.entered.is_set)
        gone.abort()
        await ended.wait()
        other_ended = start(nursery, handler, other)
        await trio.testing.wait_all_tasks_blocked()
        assert (crew.busy, crew.waiting, crew.abandoned) == (1, 1, 1)
        app.go_on.set()
        await other_ended.wait()
        assert (crew.waiting, crew.abandoned) == (0, 0)
    assert gone.stdout.writes == []
    assert other.response.body == b"late"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_request_that_waits_for_a_thread_and_is_aborted_never_reaches_the_app() -> None:
    app = Recorder(lambda environ, write: app.go_on.wait(5))
    handler = wsgi(app, 1)
    first, second = MemoryRequest(), MemoryRequest()
    async with handler.lifespan(), trio.open_nursery() as nursery:
        crew = handler.pool.crew
        assert crew is not None
        start(nursery, handler, first)
        await until(app.entered.is_set)
        ended = start(nursery, handler, second)
        await trio.testing.wait_all_tasks_blocked()
        assert crew.waiting == 1
        second.abort()
        await ended.wait()
        assert (crew.waiting, crew.abandoned) == (0, 0)
        app.go_on.set()
    assert app.called == 1
    assert first.response.body == b"late"


async def test_a_client_that_leaves_in_its_body_never_reaches_the_app() -> None:
    app = Recorder(read)
    handler = wsgi(app, 1)
    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": "9"}), body=b"x", ended=False)
    async with handler.lifespan(), trio.open_nursery() as nursery:
        ended = start(nursery, handler, request)
        await trio.testing.wait_all_tasks_blocked()
        request.abort(cancel=False)
        await ended.wait()
    assert app.called == 0


async def test_cancelled_is_not_swallowed() -> None:
    app = Recorder(lambda environ, write: app.go_on.wait(5))
    handler = wsgi(app, 1)
    async with handler.lifespan():
        with trio.move_on_after(0.01) as scope:
            await handler(MemoryRequest())
            raise AssertionError("not reached")
        assert scope.cancelled_caught
        app.go_on.set()


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "told"])
async def test_what_an_app_makes_of_the_abort_is_no_failure(
    cancel: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def move(environ: Environ, write: Any) -> None:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raise LookupError("a framework's own word for it") from error

    app = Recorder(move)
    handler = wsgi(app, 1)
    request = MemoryRequest(STREAMED, ended=False)
    with caplog.at_level(logging.INFO):
        async with handler.lifespan(), trio.open_nursery() as nursery:
            ended = start(nursery, handler, request)
            await until(app.entered.is_set)
            request.abort(cancel=cancel)
            await ended.wait()
            await until(lambda: app.closed)
    assert "POST /upload: the app gave up as its request was over" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_output_to_a_slow_front_end_is_bounded() -> None:
    written = 0

    def move(environ: Environ, write: Any) -> None:
        nonlocal written
        for _ in range(100):
            write(b"x" * 10_000)
            written += 1

    app = Recorder(move)
    handler = wsgi(app, 1)
    request = MemoryRequest()
    request.stdout.block()
    async with handler.lifespan(), trio.open_nursery() as nursery:
        ended = start(nursery, handler, request)
        await until(lambda: written > 10)
        await trio.sleep(0.02)
        assert written < 30
        request.stdout.unblock()
        await ended.wait()
    assert len(request.response.body) == 100 * 10_000 + len(b"late")


# Through the real server


async def test_through_the_server() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        data = environ["wsgi.input"].read()
        environ["wsgi.errors"].write("a line\n")
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"got %d " % len(data)
        yield b"x" * 300_000

    async with trifcgi.testing.open_client(wsgi(app, 2)) as client:
        for size in (0, 10, 500_000):
            pairs = trifcgi.testing.params("/x", method="POST", body_length=size)
            response = await client.request(pairs, b"b" * size)
            assert response.status == 200
            assert response.body == b"got %d " % size + b"x" * 300_000
            assert response.stderr == b"a line\n"


async def test_small_answers_through_the_server() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        status = environ["PATH_INFO"].strip("/")
        start_response(status, [])
        return [b"", b"got ", b"it"]

    async with trifcgi.testing.open_client(wsgi(app, 2)) as client:
        for method, status, body in (
            ("GET", 200, b"got it"),
            ("HEAD", 200, b""),
            ("GET", 304, b""),
            ("GET", 404, b"got it"),
        ):
            response = await client.request(trifcgi.testing.params(f"/{status}", method=method))
            assert (response.status, response.body, response.app_status) == (status, body, 0)
            assert not response.stderr


async def test_a_failing_close_after_a_small_answer_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Whole(list[bytes]):
        def close(self) -> None:
            raise LookupError("on purpose")

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return Whole([b"it"])

    async with trifcgi.testing.open_client(wsgi(app, 2)) as client:
        response = await client.request(trifcgi.testing.params("/x"))
        assert (response.status, response.body, response.app_status) == (200, b"it", 1)
    assert "on purpose" in caplog.text


async def test_failures_through_the_server(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/begun":
            start_response("200 OK", [])(b"some")
        raise LookupError("on purpose")

    async with trifcgi.testing.open_client(wsgi(app, 1)) as client:
        response = await client.request(trifcgi.testing.params("/x"))
        assert response.status == 500
        assert response.app_status == 1
    assert "on purpose" in caplog.text


async def test_the_client_leaves_through_the_server() -> None:
    app = Recorder(read)
    handler = wsgi(app, 1)
    async with trifcgi.testing.open_client(handler) as client:
        pairs = trifcgi.testing.params("/x", method="POST", body_length=100_000)
        async with client.open(pairs):
            await until(app.entered.is_set)
        await until(lambda: app.closed)
    assert isinstance(app.raised, RequestGone)
