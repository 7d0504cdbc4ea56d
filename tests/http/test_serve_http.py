"""HTTP/1.1 in front of a handler: over memory, in plain bytes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

import trifcgi
from trifcgi.http import Endpoint, serve_http

HEAD = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

Connection = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]


class Browser:
    """The client's end."""

    def __init__(self, stream: trio.abc.Stream, done: trio.Event) -> None:
        self.stream = stream
        self.done = done
        self._read = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What comes, through ``end``."""
        while end not in self._read:
            piece = await self.stream.receive_some()
            assert piece, f"the connection ended after {self._read!r}"
            self._read += piece
        found, _, self._read = self._read.partition(end)
        return found + end

    async def rest(self) -> bytes:
        """What comes, to the end of the connection."""
        while piece := await self.stream.receive_some():
            self._read += piece
        return self._read


@asynccontextmanager
async def connected(
    handler: trifcgi.Handler,
    *,
    limits: trifcgi.Limits | None = None,
    timeouts: trifcgi.Timeouts | None = None,
) -> AsyncGenerator[Browser]:
    near, far = trio.testing.memory_stream_pair()
    endpoint = Endpoint(client=("192.0.2.7", 5000), server=("127.0.0.1", 8000))
    done = trio.Event()

    async def serve() -> None:
        await serve_http(handler, far, endpoint=endpoint, limits=limits, timeouts=timeouts)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(1000):
            yield Browser(near, done)
            await near.aclose()
            await done.wait()


async def hello(request: trifcgi.Request) -> None:
    await request.stdout.send_all(HEAD + b"hello")


async def echo(request: trifcgi.Request) -> None:
    body = b"".join([piece async for piece in request.stdin])
    await request.stdout.send_all(HEAD + body)


async def test_a_request_is_what_nginx_would_make_of_it() -> None:
    seen: list[dict[str, str]] = []

    async def look(request: trifcgi.Request) -> None:
        seen.append(dict(request.params))
        await hello(request)

    async with connected(look) as browser:
        await browser.send(
            b"GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX_A: 2\r\nProxy: evil\r\n"
            b"Content-Type: a/b\r\nConnection: close\r\n\r\n"
        )
        await browser.rest()
    params = seen[0]
    assert params["REQUEST_METHOD"] == "GET"
    assert (params["SCRIPT_NAME"], params["PATH_INFO"]) == ("", "/a b")
    assert (params["REQUEST_URI"], params["QUERY_STRING"]) == ("/a%20b?x=1", "x=1")
    assert (params["REMOTE_ADDR"], params["SERVER_PORT"]) == ("192.0.2.7", "8000")
    assert (params["HTTP_HOST"], params["HTTP_X_A"], params["CONTENT_TYPE"]) == ("h", "1", "a/b")
    assert "HTTP_PROXY" not in params


async def test_requests_follow_one_another_on_a_connection() -> None:
    async with connected(hello) as browser:
        for _ in range(3):
            await browser.send(GET)
            head = await browser.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            assert await browser.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_requests_may_come_ahead_of_time() -> None:
    async with connected(hello) as browser:
        await browser.send(GET * 3)
        for _ in range(3):
            await browser.until(b"hello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 6\r\n\r\nabcdef",
                b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"]
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_body_arrives_however_it_is_cut(framing: bytes, step: int) -> None:
    data = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + framing
    async with connected(echo) as browser:
        for start in range(0, len(data), step):
            await browser.send(data[start : start + step])
        assert (await browser.rest()).endswith(b"6\r\nabcdef\r\n0\r\n\r\n")


async def test_a_client_that_waits_for_leave_gets_it() -> None:
    async with connected(echo) as browser:
        await browser.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await browser.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await browser.send(b"ok")
        await browser.until(b"2\r\nok\r\n0\r\n\r\n")


async def test_http_1_0_is_answered_by_closing() -> None:
    async with connected(hello) as browser:
        await browser.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await browser.rest()).endswith(b"\r\n\r\nhello")


async def test_head_has_no_body() -> None:
    async def whole(request: trifcgi.Request) -> None:
        await request.stdout.send_all(b"Status: 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with connected(whole) as browser:
        await browser.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await browser.rest()
        assert b"content-length: 5\r\n" in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


MALFORMED = [
    (b"\r\n\r\nGARBAGE\r\n\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
    (b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"505"),
    (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000, b"431"),
]


@pytest.mark.parametrize(("data", "status"), MALFORMED)
async def test_what_is_no_request_is_refused_and_ends_the_connection(
    data: bytes, status: bytes
) -> None:
    calls = []

    async def called(request: trifcgi.Request) -> None:
        calls.append(request)

    async with connected(called, limits=trifcgi.Limits(max_params=65536)) as browser:
        await browser.send(data)
        answer = await browser.until(b"\r\n\r\n")
        assert answer.split(b" ")[1] in (status, b"400")
        assert b"connection: close" in answer.lower()
        await browser.stream.aclose()
    assert not calls


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HEAD * HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", b"413"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
async def test_a_head_request_is_refused_without_a_body(head: bytes, status: bytes) -> None:
    async with connected(hello, limits=trifcgi.Limits(max_body=10)) as browser:
        await browser.send(head)
        answer = await browser.rest()
    assert answer.split(b" ")[1] == status
    assert answer.endswith(b"\r\n\r\n")


async def test_the_absolute_form_means_its_path() -> None:
    async with connected(hello) as browser:
        await browser.send(b"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n")
        await browser.until(b"hello\r\n0\r\n\r\n")


@pytest.mark.parametrize("what", [RuntimeError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_handler_that_fails_ends_its_request_only_or_cuts_it(
    when: str, what: type[BaseException]
) -> None:
    async def fail(request: trifcgi.Request) -> None:
        if when == "after":
            await request.stdout.send_all(HEAD + b"begun")
        raise what(when)

    async with connected(fail) as browser:
        await browser.send(GET)
        answer = await browser.rest()
        if when == "before":
            assert answer.startswith(b"HTTP/1.1 500 ")
        else:
            assert answer.endswith(b"5\r\nbegun\r\n")  # no last chunk: it was cut


async def test_a_client_that_leaves_cancels_its_request() -> None:
    told = trio.Event()

    async def wait(request: trifcgi.Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            assert request.aborted
            told.set()

    async with connected(wait) as browser:
        await browser.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await browser.stream.aclose()
        await told.wait()


async def hang(request: trifcgi.Request) -> None:
    await trio.sleep_forever()


TIMEOUTS = trifcgi.Timeouts(request_timeout=5, read_timeout=2, keep_alive=9, write_timeout=3)


@pytest.mark.parametrize(
    ("data", "handler", "status", "seconds"),
    [
        (b"", hello, b"", 9),
        (b"GET / HT", hello, b"HTTP/1.1 408 ", 2),
        (GET, hang, b"HTTP/1.1 504 ", 5),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab", echo, b"", 2),
    ],
)
async def test_what_takes_too_long_is_ended(
    data: bytes,
    handler: Callable[[trifcgi.Request], object],
    status: bytes,
    seconds: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(handler, timeouts=TIMEOUTS) as browser:  # type: ignore[arg-type]
        began = trio.current_time()
        await browser.send(data)
        assert (await browser.rest()).startswith(status)
        assert trio.current_time() - began == pytest.approx(seconds)


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with connected(echo, limits=trifcgi.Limits(max_body=10)) as browser:
        await browser.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n" + b"a" * 11)
        assert (await browser.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_more_than_the_head_has_promised_is_not_sent() -> None:
    async def liar(request: trifcgi.Request) -> None:
        await request.stdout.send_all(b"Status: 200 OK\r\nContent-Length: 3\r\n\r\nhello")

    async with connected(liar) as browser:
        await browser.send(GET)
        assert b"hello" not in await browser.rest()
