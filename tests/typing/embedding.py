"""A program that embeds trifcgi, as a careful user would write it; it is only type-checked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, assert_type

import trio

import trifcgi
from trifcgi import Client, Limits, Request, Role, Timeouts
from trifcgi.client import Exchange, Response
from trifcgi.protocol import Connection, Event, Side
from trifcgi.testing import open_client, params


async def handler(request: Request) -> None:
    """The smallest handler."""
    assert_type(request.id, int)
    assert_type(request.role, Role)
    assert_type(request.params["SCRIPT_NAME"], str)
    assert_type(request.params.get("PATH_INFO"), str | None)
    assert_type(request.keep_connection, bool)
    assert_type(request.cancel_scope, trio.CancelScope)
    body = b""
    async for chunk in request.stdin:
        body += chunk
    stream: trio.abc.SendStream = request.stdout
    await stream.send_all(b"Content-Type: text/plain\r\n\r\n" + body)
    await request.stderr.send_all(b"done\n")


async def counting(request: Request) -> int:
    """A handler with an application status."""
    await handler(request)
    return 3


class Authorizer:
    """A handler object with roles and a lifespan."""

    roles = frozenset({Role.AUTHORIZER})

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Connect to something."""
        return self._connected()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        yield

    async def __call__(self, request: Request) -> int | None:
        """Let everyone in."""
        await request.stdout.send_all(b"Status: 200\r\n\r\n")
        return None


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application as frameworks type theirs."""


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A WSGI application."""
    start_response("200 OK", [])
    return [b""]


async def serve() -> None:
    """Every way to serve."""
    limits = Limits(max_requests=10, max_body=None)
    timeouts = Timeouts(request_timeout=30, keep_alive=None)
    async with trio.open_nursery() as nursery:
        listeners: Sequence[trio.SocketListener] = await nursery.start(
            trifcgi.serve_tcp, handler, 9000
        )
        await nursery.start(trifcgi.serve_unix, counting, "/run/app.sock")
        await trifcgi.serve_unix(Authorizer(), Path("/run/app.sock"), mode=0o600, limits=limits)
        await trifcgi.serve_tcp(trifcgi.asgi(asgi_app), 0, host="::1", timeouts=timeouts)
        await trifcgi.serve_listeners(trifcgi.wsgi(wsgi_app, threads=4), listeners)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(trifcgi.serve_stream, trifcgi.scripts("/srv/www"), far)
        await near.aclose()


async def ask(stream: trio.abc.Stream) -> None:
    """Every way to ask."""
    async with Client(stream) as client:
        assert_type(client, Client)
        response = await client.request({"REQUEST_METHOD": "GET"}, b"body", role=Role.RESPONDER)
        assert_type(response, Response)
        assert_type(response.status, int)
        assert_type(response.headers, list[tuple[str, str]])
        assert_type(response.body, bytes)
        await client.request([(b"A", "b"), ("A", b"c")], keep_connection=False)
        async with client.open(params("/x", headers={"Host": "example.test"})) as exchange:
            assert_type(exchange, Exchange)
            await exchange.stdin.send_all(b"")
            async for chunk in exchange.stdout:
                assert_type(chunk, bytes)
        assert_type(await client.get_values(["FCGI_MAX_CONNS"]), dict[str, str])


async def check() -> None:
    """The testing help, and errors."""
    try:
        async with open_client(handler, timeouts=Timeouts(read_timeout=1)) as client:
            assert_type(client, Client)
            await client.request(params())
    except trifcgi.RequestRefused as refused:
        assert_type(refused.protocol_status, int)
    except trifcgi.ConnectionLost as lost:
        raise RuntimeError from lost
    except trifcgi.Error:
        raise


def decode(data: bytes) -> list[Event]:
    """The protocol alone."""
    connection = Connection(Side.APPLICATION)
    return connection.receive_data(data)
