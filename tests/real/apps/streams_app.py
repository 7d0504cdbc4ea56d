"""Event streams without an end, which say goodbye when their server stops."""

from collections.abc import AsyncIterator

import anyio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

import trifcgi

__all__ = ["native", "starlette"]

_HEAD = b"Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\r\n"
_HELLO = b"data: hello\n\n"
_GOODBYE = b"data: goodbye\n\n"


async def native(request: trifcgi.Request) -> None:
    """A native handler, which asks trifcgi."""
    await request.stdout.send_all(_HEAD + _HELLO)
    while not request.stopping:
        with trio.move_on_after(15):
            await request.wait_stopping()
            break
        await request.stdout.send_all(b": nothing new\n\n")
    await request.stdout.send_all(_GOODBYE)


async def _events(request: Request) -> AsyncIterator[bytes]:
    yield _HELLO
    while True:
        with anyio.move_on_after(15):
            # It knows nothing of trifcgi, and waits for its client to leave.
            while (await request.receive())["type"] != "http.disconnect":
                pass
            break
        yield b": nothing new\n\n"
    yield _GOODBYE


async def _stream(request: Request) -> StreamingResponse:
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request), headers=headers, media_type="text/event-stream")


starlette = Starlette(routes=[Route("/{path:path}", _stream)])
