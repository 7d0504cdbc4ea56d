"""Apps of each kind that wait in every phase of a request, and say when they were let go."""

import os
import threading
import time
from typing import Any

import trio

import trifcgi

CHUNK = bytes(1 << 20)
GIBI = 1 << 30


def note(event: str) -> None:
    """Write what has happened, and when by the system's clock, to the test's file."""
    line = f"{event} {time.monotonic()}\n".encode()
    descriptor = os.open(os.environ["COSTS_NOTES"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


async def native(request: trifcgi.Request) -> None:
    """Wait in the phase that the URL names."""
    phase = request.params["SCRIPT_NAME"].strip("/")
    try:
        note("started")
        if phase == "body":
            async for _ in request.stdin:
                pass
        elif phase == "output":
            await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n")
            for _ in range(GIBI // len(CHUNK)):
                await request.stdout.send_all(CHUNK)
        await trio.sleep_forever()
    finally:
        note("let-go")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same as an ASGI app."""
    phase = scope["path"].strip("/")
    try:
        note("started")
        if phase == "body":
            while (await receive()).get("more_body"):
                pass
        elif phase == "output":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(GIBI // len(CHUNK)):
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await trio.sleep_forever()
    finally:
        note("let-go")


def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    """The same as a WSGI app, as far as its input and output can wait."""
    phase = environ["PATH_INFO"].strip("/")
    try:
        note("started")
        if phase == "body":
            environ["wsgi.input"].read()
        else:
            write = start_response("200 OK", [("Content-Type", "text/plain")])
            for _ in range(GIBI // len(CHUNK)):
                write(CHUNK)
        threading.Event().wait(60)
        return []
    finally:
        note("let-go")
