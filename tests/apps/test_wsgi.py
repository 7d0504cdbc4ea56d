"""The WSGI adapter over a request in memory: PEP 3333, and what an app is promised."""

import io
import logging
import sys
import wsgiref.types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.validate import validator

import flask
import pytest
import trio
import trio.testing

from tests.apps.eventually import until
from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.threads import ThreadPool
from trifcgi.apps.wsgi import WSGIHandler, wsgi
from trifcgi.errors import ResponseError
from trifcgi.protocol.constants import Role

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
App = Callable[[Environ, Start], Iterable[bytes]]


def hello(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello"]


@asynccontextmanager
async def serving(app: App, **more: Any) -> AsyncIterator[WSGIHandler]:
    handler = wsgi(app, **({"threads": 2} | more))
    async with handler.lifespan():
        yield handler


async def run(app: App, request: MemoryRequest | None = None, **more: Any) -> MemoryRequest:
    request = MemoryRequest() if request is None else request
    error: Exception | None = None
    async with serving(app, **more) as handler:
        with trio.fail_after(5):
            try:
                await request.run(handler)
            except Exception as exc:  # noqa: BLE001  # out of the reach of the pool's nursery
                error = exc
    if error is not None:
        raise error
    return request


def answering(pieces: Iterable[bytes], *headers: tuple[str, str], status: str = "200 OK") -> App:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response(status, list(headers))
        return pieces

    return app


class Closable:
    """A response that counts how often it is closed."""

    def __init__(self, pieces: Iterable[bytes] = (b"a", b"b")) -> None:
        self._pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self.closed += 1


def failing(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces
    raise LookupError("on purpose")


# The handler object


async def test_hello() -> None:
    request = await run(hello)
    assert request.response.status == 200
    assert request.response.body == b"Hello"
    assert request.response.header("content-type") == "text/plain"
    assert request.response.header("content-length") == "5"


def test_it_serves_the_responder_only() -> None:
    assert wsgi(hello).roles == {Role.RESPONDER}


async def test_without_its_lifespan_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"async with handler\.lifespan\(\)"):
        await wsgi(hello)(MemoryRequest())


async def test_a_lifespan_can_be_entered_again_and_twice_at_once() -> None:
    handler = wsgi(hello, threads=1)
    for _ in range(2):
        async with handler.lifespan():
            async with handler.lifespan():
                await handler(MemoryRequest())
            request = MemoryRequest()
            await handler(request)
            assert request.response.body == b"Hello"
    assert handler.pool.crew is None


async def test_handlers_can_share_a_pool() -> None:
    pool = ThreadPool(1)
    one, other = wsgi(hello, pool), wsgi(answering([b"other"]), pool)
    async with one.lifespan(), other.lifespan():
        assert one.pool.crew is other.pool.crew
        request = MemoryRequest()
        await other(request)
        assert request.response.body == b"other"


@pytest.mark.parametrize(
    ("app", "threads", "error"),
    [("no", 1, TypeError), (hello, 0, ValueError), (hello, True, TypeError)],
)
def test_bad_arguments_are_refused_at_once(app: Any, threads: Any, error: type) -> None:
    with pytest.raises(error):
        wsgi(app, threads)


async def test_params_that_make_no_request_are_a_400() -> None:
    request = await run(hello, MemoryRequest([(b"SERVER_NAME", b"x")]))
    assert request.response.status == 400


# The environ


async def test_the_environ() -> None:
    seen: Environ = {}

    def app(environ: Environ, start_response: Start) -> list[bytes]:
        seen.update(environ)
        return hello(environ, start_response)

    await run(app, MemoryRequest(params("POST", "/a/b?q", {"HTTPS": "on"}), body=b"x"), mount="/a")
    assert seen["SCRIPT_NAME"] == "/a"
    assert seen["PATH_INFO"] == "/b"
    assert seen["QUERY_STRING"] == "q"
    assert seen["wsgi.url_scheme"] == "https"
    assert seen["wsgi.version"] == (1, 0)
    assert seen["wsgi.input_terminated"] is True
    assert seen["wsgi.multithread"] is True
    assert seen["wsgi.multiprocess"] is False
    assert seen["wsgi.run_once"] is False


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_the_validator_finds_nothing(method: str) -> None:
    @validator
    def app(
        environ: wsgiref.types.WSGIEnvironment, start_response: wsgiref.types.StartResponse
    ) -> list[bytes]:
        stream = environ["wsgi.input"]
        got = [stream.readline(), *stream.readlines(2), stream.read(1), stream.read(-1)]
        environ["wsgi.errors"].write("one\n")
        environ["wsgi.errors"].writelines(["two", "\n"])
        environ["wsgi.errors"].flush()
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"".join(got))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"|", b"end"]

    text = b"" if method in {"GET", "HEAD"} else b"a\nb\ncd"
    extra = {"CONTENT_LENGTH": str(len(text)), "CONTENT_TYPE": "text/plain"}
    request = await run(app, MemoryRequest(params(method, "/x", extra), body=text))
    assert request.response.body == (b"" if method == "HEAD" else text + b"|end")
    assert request.stderr.sent == b"one\ntwo\n"


async def test_the_validator_finds_nothing_in_file_wrapper() -> None:
    @validator
    def app(
        environ: wsgiref.types.WSGIEnvironment, start_response: wsgiref.types.StartResponse
    ) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 20_000), 8192)
        return wrapped

    request = await run(app)
    assert request.response.body == b"x" * 20_000


# The response


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        ([], "0"),
        ([b""], "0"),
        ((b"ab", b"", b"c"), "3"),
        (iter([]), "0"),
        (iter([b"ab"]), None),
        ({b"ab": 1}, "2"),
    ],
)
async def test_content_length_where_it_is_known(
    pieces: Iterable[bytes], length: str | None
) -> None:
    request = await run(answering(pieces))
    assert request.response.header("content-length") == length
    assert request.response.body == b"".join(pieces) or isinstance(pieces, Iterator)


async def test_content_length_of_the_app_is_left_alone() -> None:
    request = await run(answering([b"abc"], ("content-length", "3")))
    assert [value for name, value in request.response.headers if "length" in name.lower()] == ["3"]


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"ab", b"cdef"], iter([b"abcd", b"ef"])])
async def test_never_more_than_declared(
    pieces: Iterable[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    request = await run(answering(pieces, ("Content-Length", "3")))
    assert request.response.body == b"abc"
    assert "more than its Content-Length of 3" in caplog.text


async def test_too_much_ends_an_endless_response() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"ab"

    request = await run(answering(endless(), ("Content-Length", "3")))
    assert request.response.body == b"aba"


async def test_less_than_declared_is_an_error_before_anything_left() -> None:
    request = MemoryRequest()
    with pytest.raises(ResponseError, match="declared a Content-Length of 9 and gave 1"):
        await run(answering([b"a"], ("Content-Length", "9")), request)
    assert not request.stdout.begun


async def test_less_than_declared_is_an_error_after_streaming_too() -> None:
    request = MemoryRequest()
    with pytest.raises(ResponseError, match="declared a Content-Length of 9 and gave 1"):
        await run(answering(iter([b"a"]), ("Content-Length", "9")), request)
    assert request.response.body == b"a"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_statuses_without_a_body(status: str) -> None:
    request = await run(answering([b"body"], status=status))
    assert request.stdout.writes[1:] == []
    assert request.response.header("content-length") is None


async def test_head_has_no_body_and_stops_a_long_one() -> None:
    response = Closable(iter(lambda: b"x", b""))
    request = await run(
        answering(response, ("Content-Length", "1000")), MemoryRequest(params("HEAD"))
    )
    assert request.stdout.writes[1:] == []
    assert request.response.header("content-length") == "1000"
    assert response.closed == 1


async def test_the_head_waits_for_the_first_body_byte() -> None:
    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("X-Try", "first")])
        yield b""
        start_response("500 Oh", [("X-Try", "second")], sys.exc_info())
        yield b"body"

    request = await run(app)
    assert request.response.status == 500
    assert request.response.header("X-Try") == "second"


async def test_exc_info_raises_once_the_head_has_left() -> None:
    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"body"
        try:
            raise LookupError("on purpose")
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())

    request = MemoryRequest()
    with pytest.raises(LookupError, match="on purpose"):
        await run(app, request)
    assert request.response.body == b"body"


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (200, [], TypeError),
        ("200", {}, TypeError),
        ("OK", [], ResponseError),
        ("2000 OK", [], ResponseError),
        ("100 Continue", [], ResponseError),
        ("200 O\nK", [], ResponseError),
        ("200 OK", [("X", 1)], TypeError),
        ("200 OK", ["X: 1"], TypeError),
        ("200 OK", [("X", "a\r\nb")], ResponseError),
        ("200 OK", [("X", "€")], ResponseError),
        ("200 OK", [("X Y", "a")], ResponseError),
        ("200 OK", [("Content-Length", "many")], ResponseError),
        ("200 OK", [("Content-Length", "5"), ("content-length", "6")], ResponseError),
    ],
)
async def test_a_bad_head_is_refused_while_the_app_can_answer_otherwise(
    status: Any, headers: Any, error: type[Exception]
) -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        with pytest.raises(error):
            start_response(status, headers)
        return hello(environ, start_response)

    request = await run(app)
    assert request.response.body == b"Hello"


async def test_exc_info_of_nothing_cannot_replace_a_head_that_has_left() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"body")
        start_response("500 Oh", [], (None, None, None))
        return []

    with pytest.raises(ResponseError, match="sent already"):
        await run(app)


async def test_a_second_start_response_needs_exc_info() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        start_response("201 OK", [])
        return []

    with pytest.raises(ResponseError, match="second time"):
        await run(app)


@pytest.mark.parametrize("pieces", [[b"a"], [], iter([b"a"]), iter([])])
async def test_a_response_without_a_head_is_an_error(pieces: Iterable[bytes]) -> None:
    request = MemoryRequest()
    with pytest.raises(ResponseError, match="without calling start_response"):
        await run(lambda environ, start_response: pieces, request)
    assert not request.stdout.begun


@pytest.mark.parametrize("pieces", [["text"], iter(["text"]), [b"a", "text"], [None]])
async def test_text_is_no_body(pieces: Any) -> None:
    request = MemoryRequest()
    with pytest.raises(TypeError, match="bytes"):
        await run(answering(pieces), request)
    assert not request.stdout.begun


async def test_write_comes_before_the_iterable() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"")
        write(b"one ")
        write(b"two ")
        return [b"three"]

    request = await run(app)
    assert request.response.body == b"one two three"
    assert request.response.header("content-length") is None


async def test_a_big_answer_goes_out_whole() -> None:
    pieces = [bytes([n]) * 30_000 for n in range(40)]
    request = await run(answering(iter(pieces)))
    assert request.response.body == b"".join(pieces)


# close(), in each outcome


async def test_closed_after_a_response() -> None:
    response = Closable()
    await run(answering(response))
    assert response.closed == 1


async def test_closed_after_the_iteration_failed() -> None:
    response = Closable(failing(b"a"))
    request = MemoryRequest()
    with pytest.raises(LookupError, match="on purpose"):
        await run(answering(response), request)
    assert response.closed == 1
    assert request.response.body == b"a"


async def test_a_failing_close_is_an_error() -> None:
    class Bad(Closable):
        def close(self) -> None:
            super().close()
            raise LookupError("close failed")

    response = Bad()
    with pytest.raises(LookupError, match="close failed"):
        await run(answering(response))
    assert response.closed == 1


async def test_a_failing_close_does_not_hide_the_first_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bad(Closable):
        def close(self) -> None:
            raise ValueError("close failed")

    with pytest.raises(LookupError, match="on purpose"):
        await run(answering(Bad(failing())))
    assert "close failed" in caplog.text


async def test_closed_when_there_is_no_head() -> None:
    response = Closable()
    with pytest.raises(ResponseError):
        await run(lambda environ, start_response: response)
    assert response.closed == 1


# Failures


async def test_what_the_app_raises_comes_out_with_its_own_line() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose") as caught:
        await run(app)
    assert caught.traceback[-1].path == __file__ or str(caught.traceback[-1].path) == __file__


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_what_would_end_the_process_ends_the_request(error: BaseException) -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        raise error

    with pytest.raises(RuntimeError, match=f"GET / raised {type(error).__name__}") as caught:
        await run(app)
    assert caught.value.__cause__ is error


# The body


@pytest.mark.parametrize("known", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize(
    "read",
    [
        lambda stream: stream.read(),
        lambda stream: b"".join(iter(lambda: stream.read(4), b"")),
        lambda stream: b"".join(iter(lambda: stream.read1(5), b"")),
        lambda stream: b"".join(stream),
        lambda stream: b"".join(stream.readlines()),
        lambda stream: b"".join(iter(lambda: stream.readline(2), b"")),
        lambda stream: (reader := io.BufferedReader(stream), reader.read(), reader.detach())[1],
        lambda stream: stream.read(0) + stream.readline() + stream.read(3) + stream.read(),
        lambda stream: b"".join(stream.readlines(1) + stream.readlines(4) + [stream.read(999)]),
    ],
)
async def test_each_way_of_reading(known: bool, cut: int, read: Any) -> None:
    text = b"line one\nline two\n\nrest"
    got: list[bytes] = []

    def app(environ: Environ, start_response: Start) -> list[bytes]:
        got.append(read(environ["wsgi.input"]))
        got.append(environ["wsgi.input"].read())
        return hello(environ, start_response)

    extra = {"CONTENT_LENGTH": str(len(text))} if known else {"CONTENT_LENGTH": ""}
    chunks = [text[at : at + cut] for at in range(0, len(text), cut)]
    await run(app, MemoryRequest(params("POST", "/", extra), body=chunks))
    assert got == [text, b""]


async def test_lines_are_the_same_as_a_file_gives() -> None:
    text = b"one\n\ntwo two two\nthree"
    got: list[bytes] = []

    def app(environ: Environ, start_response: Start) -> list[bytes]:
        got.extend(environ["wsgi.input"].readline(5) for _ in range(8))
        return hello(environ, start_response)

    await run(app, MemoryRequest(params("POST"), body=[text[:2], text[2:9], text[9:]]))
    file = io.BytesIO(text)
    assert got == [file.readline(5) for _ in range(8)]


async def test_a_declared_short_body_is_awaited_before_a_thread_is_taken() -> None:
    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": "4"}), ended=False)
    async with serving(hello) as handler, trio.open_nursery() as nursery:
        nursery.start_soon(request.run, handler)
        await trio.testing.wait_all_tasks_blocked()
        request.stdin.feed(b"body")
        await trio.testing.wait_all_tasks_blocked()
        assert handler.pool.crew is not None
        assert handler.pool.crew.busy == 0
        assert not request.stdout.begun
        request.stdin.end()
    assert request.response.body == b"Hello"


async def test_a_body_beyond_its_declared_length_is_streamed() -> None:
    chunks = [b"x" * 50_000] * 5

    def app(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": "9"}), body=chunks)
    await run(app, request)
    assert request.response.body == b"250000"


async def test_the_body_can_be_streamed_back_while_it_arrives() -> None:
    def echo(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        while data := environ["wsgi.input"].read1():
            yield data

    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": ""}), ended=False)
    async with serving(echo) as handler, trio.open_nursery() as nursery:
        nursery.start_soon(request.run, handler)
        for n in range(1, 4):
            request.stdin.feed(b"%d" % n)
            await until(lambda: len(request.stdout.writes) == n + 1)  # noqa: B023
        request.stdin.end()
    assert request.stdout.writes[1:] == [b"1", b"2", b"3"]


async def test_a_closed_input_says_so() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        environ["wsgi.input"].close()
        with pytest.raises(ValueError, match="closed"):
            environ["wsgi.input"].read()
        return hello(environ, start_response)

    await run(app)


async def test_the_input_can_be_wrapped_like_any_file() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        body: Any = environ["wsgi.input"]
        assert issubclass(type(body), io.BufferedIOBase)
        assert (body.readable(), body.writable(), body.seekable()) == (True, False, False)
        assert not body.isatty()
        with pytest.raises(io.UnsupportedOperation):
            body.write(b"x")
        for refused in (body.fileno, body.tell, body.detach):
            with pytest.raises(io.UnsupportedOperation):
                refused()
        assert next(body) == b"one\n"
        room = bytearray(2)
        assert body.readinto(room) == 2
        assert room == b"tw"
        assert body.readinto1(room) == 2
        assert room == b"o\n"
        with io.TextIOWrapper(body, "utf-8") as text:
            assert text.readline() == "thr\u20ac\n"
            assert list(text) == ["four\n", "five"]
        assert body.closed
        for closed in (body.readable, body.flush, body.__iter__, body.read):
            with pytest.raises(ValueError, match="closed"):
                closed()
        return hello(environ, start_response)

    body = "one\ntwo\nthr\u20ac\nfour\nfive".encode()
    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": str(len(body))}), body=body)
    await run(app, request)


# wsgi.errors


async def test_errors_take_text_only_and_whole_lines_leave_first() -> None:
    def app(environ: Environ, start_response: Start) -> list[bytes]:
        errors = environ["wsgi.errors"]
        with pytest.raises(TypeError, match="str"):
            errors.write(b"bytes")
        print("a", "b\u20ac", "\udc80", file=errors)
        errors.write("no end")
        return hello(environ, start_response)

    request = await run(app)
    assert request.stderr.sent == "a b€ \\udc80\nno end".encode()


async def test_a_flush_sends_what_has_no_end_yet() -> None:
    seen: list[bytes] = []

    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        environ["wsgi.errors"].write("no end")
        environ["wsgi.errors"].flush()
        start_response("200 OK", [])
        # Asked for only after what was left before it has been sent.
        environ["wsgi.input"].read()
        seen.append(request.stderr.sent)
        yield b"body"

    request = MemoryRequest(params("POST", "/", {"CONTENT_LENGTH": ""}), body=b"x", ended=True)
    await run(app, request)
    assert seen == [b"no end"]


async def test_late_text_for_errors_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []

    def app(environ: Environ, start_response: Start) -> list[bytes]:
        kept.append(environ["wsgi.errors"])
        return hello(environ, start_response)

    request = await run(app)
    kept[0].write("late\n")
    assert "late" in caplog.text
    assert not request.stderr.writes


# wsgi.file_wrapper


async def test_files_go_in_large_blocks_no_further_than_declared_and_are_closed() -> None:
    sizes: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    file = File(b"x" * 300_000)

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "200000")])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 10)
        return wrapped

    request = await run(app)
    assert len(request.response.body) == 200_000
    assert file.closed
    assert len(sizes) == 2


async def test_a_wrapped_file_without_close_has_none() -> None:
    class Reader:
        def read(self, size: int) -> bytes:
            return b""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        wrapped = environ["wsgi.file_wrapper"](Reader())
        assert not hasattr(wrapped, "close")
        start_response("200 OK", [])
        return wrapped  # type: ignore[no-any-return]

    request = await run(app)
    assert request.response.header("content-length") == "0"


# A framework


async def test_flask(caplog: pytest.LogCaptureFixture) -> None:
    app = flask.Flask(__name__)
    torn_down: list[str] = []

    @app.post("/form/<name>")
    def form(name: str) -> str:
        return f"{name}: {flask.request.form['a']}, {flask.request.url}"

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(flask.stream_with_context(iter(["one,", "two"])))

    @app.get("/fail")
    def fail() -> str:
        raise LookupError("on purpose")

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        torn_down.append(flask.request.path)

    extra = {
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": "5",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/form/x",
    }
    with caplog.at_level(logging.CRITICAL):
        posted = await run(app, MemoryRequest(params("POST", "/app/form/x", extra), body=b"a=b c"))
        streamed = await run(app, MemoryRequest(params("GET", "/stream")))
        failed = await run(app, MemoryRequest(params("GET", "/fail")))
    assert posted.response.body == b"x: b c, http://example.org/app/form/x"
    assert streamed.response.body == b"one,two"
    assert failed.response.status == 500
    assert set(torn_down) == {"/form/x", "/stream", "/fail"}
