"""The site as a native handler: nothing between it and the request."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import trio

import trifcgi
from tests.real.apps import CUT_ANNOUNCED, CUT_SENT, REPLIES, pattern_pieces
from trifcgi.cgi import Meaning


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


def query_of(request: trifcgi.Request) -> dict[str, str]:
    query = parse_qs(request.params.get("QUERY_STRING", ""), keep_blank_values=True)
    return {name: values[-1] for name, values in query.items()}


def story_of(request: trifcgi.Request) -> Story:
    return stories[query_of(request)["key"]]


async def text(request: trifcgi.Request, body: str) -> None:
    await request.stdout.send_all(
        f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )


async def echo(request: trifcgi.Request) -> None:
    meaning = Meaning(request.pairs)
    body = json.dumps(
        {
            "method": meaning.method,
            "path": meaning.path,
            "query": meaning.query_string.decode("latin-1"),
            "scheme": meaning.scheme,
            "client": meaning.client,
            "server": meaning.server,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in meaning.headers
            ],
        }
    )
    await text(request, body)


async def reply(request: trifcgi.Request) -> None:
    status, headers, body = REPLIES[Meaning(request.pairs).path.rpartition("/")[2]]
    lines = [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join([*lines, f"Status: {status} So", "", ""])
    await request.stdout.send_all(head.encode() + body)


async def fail(request: trifcgi.Request) -> None:
    raise RuntimeError("raised before the response")


async def fail_late(request: trifcgi.Request) -> None:
    length = f"Content-Length: {CUT_ANNOUNCED}\r\n" if "sized" in query_of(request) else ""
    await request.stdout.send_all(
        f"Content-Type: text/plain\r\n{length}\r\n".encode() + b"c" * CUT_SENT
    )
    raise RuntimeError("raised after the response began")


async def download(request: trifcgi.Request) -> None:
    query = query_of(request)
    length = "" if "pieces" in query else f"Content-Length: {query['size']}\r\n"
    await request.stdout.send_all(
        f"Content-Type: application/octet-stream\r\n{length}\r\n".encode()
    )
    for piece in pattern_pieces(int(query["size"])):
        await request.stdout.send_all(piece)


async def upload(request: trifcgi.Request) -> None:
    length, digest = 0, hashlib.sha256()
    async for piece in request.stdin:
        length += len(piece)
        digest.update(piece)
    await text(request, f"{length} {digest.hexdigest()}")


EVENT_STREAM = b"Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\r\n"


async def events(request: trifcgi.Request) -> None:
    await request.stdout.send_all(EVENT_STREAM + b"data: first\n\n")
    await story_of(request).released.wait()
    if "cut" in query_of(request):
        raise RuntimeError("raised between two events")
    await request.stdout.send_all(b"data: second\n\n")


async def release(request: trifcgi.Request) -> None:
    story_of(request).released.set()
    await text(request, "released\n")


async def wait(request: trifcgi.Request) -> None:
    story = story_of(request)
    story.begun.set()
    try:
        await trio.sleep_forever()
    finally:
        story.end("gone")


async def endless(request: trifcgi.Request) -> None:
    story = story_of(request)
    story.begun.set()
    try:
        await request.stdout.send_all(EVENT_STREAM)
        while True:
            await request.stdout.send_all(b"data: again\n\n")
            await trio.sleep(0.02)
    finally:
        story.end("gone")


async def slurp(request: trifcgi.Request) -> None:
    story = story_of(request)
    outcome = "gone"
    try:
        async for _ in request.stdin:
            story.begun.set()
        outcome = "complete"
    except trio.BrokenResourceError:
        outcome = "disconnected"
        raise
    finally:
        story.end(outcome)
    await text(request, "complete\n")


async def begun(request: trifcgi.Request) -> None:
    with trio.move_on_after(10) as scope:
        await story_of(request).begun.wait()
    await text(request, "late" if scope.cancelled_caught else "begun")


async def outcome(request: trifcgi.Request) -> None:
    story = story_of(request)
    with trio.move_on_after(10):
        await story.ended.wait()
    await text(request, story.outcome or "runs on")


async def health(request: trifcgi.Request) -> None:
    await text(request, "well\n")


PATHS: dict[str, Callable[[trifcgi.Request], Awaitable[None]]] = {
    "echo": echo,
    "reply": reply,
    "raise": fail,
    "raise-late": fail_late,
    "download": download,
    "upload": upload,
    "events": events,
    "release": release,
    "wait": wait,
    "endless": endless,
    "slurp": slurp,
    "begun": begun,
    "outcome": outcome,
    "health": health,
}


async def app(request: trifcgi.Request) -> None:
    """Go by the first segment below ``/app``, wherever the front end made its cut."""
    path = Meaning(request.pairs).path.removeprefix("/app")
    await PATHS[path.split("/")[1]](request)
