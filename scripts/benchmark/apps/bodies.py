"""An ASGI app for big bodies: counts one that it is sent, sends one that it is asked for."""

from typing import Any

from . import hello

CHUNK = bytes(range(256)) * 256
"""What a download is made of: 64 KiB."""

CHUNKS = 256
"""How often: 16 MiB."""


def _start(length: int) -> dict[str, Any]:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def asgi(scope: dict[str, Any], receive: hello.Receive, send: hello.Send) -> None:
    """POST answers with the number of bytes in the body; GET with 16 MiB in 64 KiB pieces."""
    if scope["type"] == "lifespan":
        await hello.lifespan(receive, send)
        return
    if scope["method"] == "POST":
        count = 0
        more = True
        while more:
            message = await receive()
            count += len(message.get("body", b""))
            more = message.get("more_body", False)
        answer = b"%d" % count
        await send(_start(len(answer)))
        await send({"type": "http.response.body", "body": answer})
        return
    await send(_start(CHUNKS * len(CHUNK)))
    piece = {"type": "http.response.body", "body": CHUNK, "more_body": True}
    for _ in range(CHUNKS - 1):
        await send(piece)
    await send({"type": "http.response.body", "body": CHUNK})
