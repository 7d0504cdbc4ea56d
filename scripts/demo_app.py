"""The demo's app: what arrived, as the app sees it. Plain ASGI, without any framework."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer every request with a few lines of text."""
    if scope["type"] != "http":
        return
    headers = dict(scope["headers"])
    client = scope["client"]
    lines = [
        "Hello from an ASGI app on trio!",
        "",
        f"  you asked for  {scope['method']} {scope['path']}"
        + (f" with the query {scope['query_string'].decode()!r}" if scope["query_string"] else ""),
        f"  from           {client[0] if client else 'somewhere'}",
        f"  with           {headers.get(b'user-agent', b'no user agent').decode('latin-1')}",
        "",
    ]
    body = "\n".join(lines).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
