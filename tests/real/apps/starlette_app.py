"""The site as a Starlette app."""

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator

import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.real.apps import CUT_ANNOUNCED, CUT_SENT, REPLIES, pattern_pieces

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]


class Story:
    """What is known of the request with one key."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.released = trio.Event()
        self.ended = trio.Event()
        self.outcome = ""

    def end(self, outcome: str) -> None:
        self.outcome = outcome
        self.ended.set()


stories: defaultdict[str, Story] = defaultdict(Story)


def story_of(request: Request) -> Story:
    return stories[request.query_params["key"]]


async def echo(request: Request) -> Response:
    scope = request.scope
    return JSONResponse(
        {
            "method": scope["method"],
            "path": scope["path"],
            "root_path": scope["root_path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "scheme": scope["scheme"],
            "client": scope["client"],
            "server": scope["server"],
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in scope["headers"]
            ],
        }
    )


async def reply(request: Request) -> Response:
    status, headers, body = REPLIES[request.path_params["name"]]
    response = Response(body, status)
    response.raw_headers = [(name.encode(), value.encode()) for name, value in headers]
    return response


async def fail(request: Request) -> Response:
    raise RuntimeError("raised before the response")


async def fail_late(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"c" * CUT_SENT
        raise RuntimeError("raised after the response began")

    headers = {"content-length": str(CUT_ANNOUNCED)} if "sized" in request.query_params else {}
    return StreamingResponse(body(), headers=headers)


async def download(request: Request) -> Response:
    size = int(request.query_params["size"])

    async def body() -> AsyncIterator[bytes]:
        for piece in pattern_pieces(size):
            yield piece

    headers = {} if "pieces" in request.query_params else {"content-length": str(size)}
    return StreamingResponse(body(), headers=headers, media_type="application/octet-stream")


async def upload(request: Request) -> Response:
    length, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        length += len(piece)
        digest.update(piece)
    return PlainTextResponse(f"{length} {digest.hexdigest()}")


async def events(request: Request) -> Response:
    story = story_of(request)

    async def body() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await story.released.wait()
        if "cut" in request.query_params:
            raise RuntimeError("raised between two events")
        yield b"data: second\n\n"

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def release(request: Request) -> Response:
    story_of(request).released.set()
    return PlainTextResponse("released\n")


async def wait(request: Request) -> Response:
    story = story_of(request)
    story.begun.set()
    try:
        await trio.sleep_forever()
    finally:
        story.end("gone")


async def endless(request: Request) -> Response:
    story = story_of(request)

    async def body() -> AsyncIterator[bytes]:
        story.begun.set()
        try:
            while True:
                yield b"data: again\n\n"
                await trio.sleep(0.02)
        finally:
            story.end("gone")

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def slurp(request: Request) -> Response:
    story = story_of(request)
    outcome = "gone"
    try:
        async for _ in request.stream():
            story.begun.set()
        outcome = "complete"
    except ClientDisconnect:
        outcome = "disconnected"
        raise
    finally:
        story.end(outcome)
    return PlainTextResponse("complete\n")


async def begun(request: Request) -> Response:
    with trio.move_on_after(10) as scope:
        await story_of(request).begun.wait()
    return PlainTextResponse("late" if scope.cancelled_caught else "begun")


async def outcome(request: Request) -> Response:
    story = story_of(request)
    with trio.move_on_after(10):
        await story.ended.wait()
    return PlainTextResponse(story.outcome or "runs on")


async def health(request: Request) -> Response:
    return PlainTextResponse("well\n")


app = Starlette(
    routes=[
        Route("/echo/{rest:path}", echo, methods=METHODS),
        Route("/reply/{name}", reply),
        Route("/raise", fail),
        Route("/raise-late", fail_late),
        Route("/download", download),
        Route("/upload", upload, methods=["POST", "PUT"]),
        Route("/events", events),
        Route("/release", release),
        Route("/wait", wait),
        Route("/endless", endless),
        Route("/slurp", slurp, methods=["POST"]),
        Route("/begun", begun),
        Route("/outcome", outcome),
        Route("/health", health),
    ]
)
