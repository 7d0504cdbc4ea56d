"""Each row of "Responses that the server makes itself" happens as it says."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trifcgi
from tests.docs.markdown import page
from trifcgi import Limits, Role, Timeouts
from trifcgi.client import Response
from trifcgi.protocol import Connection, RequestEnded, Side
from trifcgi.server import DataPlane, open_tcp_listeners
from trifcgi.testing import MemoryServer, open_client, params

ROWS = page("docs/reference/responses.md").table("Responses that the server makes itself")
_HEAD = b"Content-Type: text/plain\r\n\r\n"


async def hello(request: trifcgi.Request) -> None:
    """An app without faults."""
    await request.stdout.send_all(_HEAD + b"Hello!\n")


async def _ask(app: Any, sent: Any = None, **options: Any) -> Response:
    role = options.pop("role", Role.RESPONDER)
    async with open_client(app, **options) as client:
        return await client.request(params("/") if sent is None else sent, role=role)


async def raised_before(request: trifcgi.Request) -> None:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("before")


async def raised_after(request: trifcgi.Request) -> None:
    await request.stdout.send_all(_HEAD + b"the first ha")
    raise RuntimeError("after")


async def raised_at_the_end(request: trifcgi.Request) -> None:
    await request.stdout.send_all(b"Content-Length: 2\r\n\r\nok")
    raise RuntimeError("at the end")


async def raised_after_the_end(request: trifcgi.Request) -> None:
    await hello(request)
    request.stdout.end()
    raise RuntimeError("after the end")


async def half_a_head(request: trifcgi.Request) -> None:
    await request.stdout.send_all(b"Content-Type: te")


async def split_header(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"x", b"a\r\nSet-Cookie: b")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def slow(request: trifcgi.Request) -> None:
    await trio.sleep_forever()


async def reader(request: trifcgi.Request) -> None:
    async for _ in request.stdin:
        pass
    await hello(request)


async def gives_up(request: trifcgi.Request) -> None:
    request.cancel_scope.cancel()
    await trio.lowlevel.checkpoint()


async def silent_upload() -> Response:
    """The head and end of a request whose body stops coming."""
    async with open_client(reader) as client, client.open(params("/")) as exchange:
        await exchange.stdin.send_all(b"x")
        return await _rest(exchange)


async def _rest(exchange: Any) -> Response:
    head = await exchange.response()
    ending = await exchange.wait_ended()
    return Response(
        status=head.status, reason=head.reason, headers=head.headers, body=b"", stderr=b"",
        app_status=ending.app_status, protocol_status=ending.protocol_status,
    )  # fmt: skip


async def too_large() -> Response:
    limits = Limits(max_body=3)
    declared = await _ask(reader, params("/", body_length=4), limits=limits)
    assert (declared.status, declared.app_status) == (413, 0)
    async with open_client(reader, limits=limits) as client:
        return await client.request(params("/"), b"four")


async def missing_script() -> Response:
    return await _ask(trifcgi.scripts(Path(__file__).parent), params("/no-such.py"))


async def busy() -> Response:
    async with (
        MemoryServer(slow, limits=Limits(max_requests=1)) as server,
        server.client() as first,
        first.open(params("/")),
        server.client() as second,
    ):
        await trio.testing.wait_all_tasks_blocked()
        refused = await second.request(params("/"), role=Role.AUTHORIZER)
        assert refused.protocol_status == trifcgi.ProtocolStatus.OVERLOADED
        response = await second.request(params("/"))
    assert response.header("Retry-After") == "1"
    return response


async def stopping() -> Response:
    begun = trio.Event()

    async def app(request: trifcgi.Request) -> None:
        begun.set()
        await trio.sleep_forever()

    async with (
        DataPlane(app, timeouts=Timeouts(grace=0.01)) as plane,
        trio.open_nursery() as nursery,
    ):
        listeners = await open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(plane.serve, listeners)
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with trifcgi.Client(stream) as client, client.open(params("/")) as exchange:
            await begun.wait()
            plane.drain()
            response = await _rest(exchange)
    assert response.header("Retry-After") == "1"
    return response


async def aborted() -> Response:
    async with MemoryServer(slow) as server, server.connect() as stream:
        wire = Connection(Side.FRONT_END)
        wire.begin_request(1, Role.RESPONDER)
        wire.send_params(1, [(b"REQUEST_METHOD", b"GET")])
        wire.abort_request(1)
        await stream.send_all(b"".join(wire.data_to_send()))
        while True:
            for event in wire.receive_data(await stream.receive_some()):
                if isinstance(event, RequestEnded):
                    return Response(
                        status=0, reason="", headers=[], body=b"", stderr=b"",
                        app_status=event.app_status, protocol_status=event.protocol_status,
                    )  # fmt: skip


async def wrong_role() -> Response:
    return await _ask(trifcgi.asgi(split_header), role=Role.AUTHORIZER)


@attrs.frozen
class Row:
    """What is to be done for a row, by words from its first cell."""

    words: str
    cause: Callable[[], Awaitable[Response]]
    real_time: bool = False


CAUSES = [
    Row("raised before it began", partial(_ask, raised_before)),
    Row("raised after that", partial(_ask, raised_after)),
    Row("whole `Content-Length`", partial(_ask, raised_at_the_end)),
    Row("ended its response", partial(_ask, raised_after_the_end)),
    Row("half a head", partial(_ask, half_a_head)),
    Row("CR, LF or NUL", partial(_ask, trifcgi.asgi(split_header))),
    Row("`--request-timeout`", partial(_ask, slow, timeouts=Timeouts(request_timeout=1))),
    Row("`--read-timeout`", silent_upload),
    Row("`--max-body`", too_large),
    Row("`--max-params`", partial(_ask, hello, limits=Limits(max_params=100))),
    Row("script does not exist", missing_script, real_time=True),
    Row("`--max-requests`", busy),
    Row("`--grace`", stopping, real_time=True),
    Row("cancelled its own scope", partial(_ask, gives_up)),
    Row("role that the app does not serve", wrong_role),
    Row("no REQUEST_METHOD", partial(_ask, hello, [("SERVER_NAME", "x")])),
    Row("aborted by the front end", aborted),
]


def _cells(row: Row) -> list[str]:
    (found,) = (cells for cells in ROWS if row.words in cells[0])
    return found


def test_every_row_is_tried() -> None:
    assert sorted(_cells(row)[0] for row in CAUSES) == sorted(cells[0] for cells in ROWS)


@pytest.mark.parametrize("row", CAUSES, ids=lambda row: row.words)
def test_it_happens_as_the_row_says(row: Row) -> None:
    _, answer, app_status = _cells(row)
    clock = None if row.real_time else trio.testing.MockClock(autojump_threshold=0)
    if "ends without FCGI_END_REQUEST" in answer:
        with pytest.raises((trifcgi.ConnectionLost, trifcgi.ProtocolError)):
            trio.run(row.cause, clock=clock)
        return
    response: Response = trio.run(row.cause, clock=clock)
    status = re.search(r"Status: (\d+)", answer)
    if status is not None:
        assert response.status == int(status[1])
    assert str(response.app_status) in re.findall(r"\b[01]\b", app_status)
    if "FCGI_UNKNOWN_ROLE" in answer:
        assert response.protocol_status == trifcgi.ProtocolStatus.UNKNOWN_ROLE
    if "FCGI_STDERR" in answer:
        assert b"Traceback" in response.stderr
