"""The same small answer in each interface."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    import trifcgi

BODY = b"Hello, world!"
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
_ANSWER = {"type": "http.response.body", "body": BODY}

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def handler(request: "trifcgi.Request") -> None:
    """A native handler."""
    await request.stdout.send_all(
        b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
    )


async def lifespan(receive: Receive, send: Send) -> None:
    """Say yes to the start and to the end of an ASGI server."""
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An ASGI app."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send(_START)
    await send(_ANSWER)


def wsgi(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """A WSGI app."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]
