"""Handlers that do well and handlers that do everything wrong, by the name of what they do."""

import contextlib
import random
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio

from tests.server.handlers import HEAD
from trifcgi import Request

# The longest that a deed or a visitor does nothing at a time (seconds).
MOMENT = 0.003


class Handler:
    """Does what the request's DO param says, and counts what began and what was cleaned up."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.begun: Counter[str] = Counter()
        self.cleaned_up: Counter[str] = Counter()
        self.left_open: list[AsyncGenerator[int]] = []

    async def __call__(self, request: Request) -> int | None:
        deed = request.params["DO"]
        self.begun[deed] += 1
        try:
            return await DEEDS[deed](self, request)
        finally:
            self.cleaned_up[deed] += 1

    async def moment(self) -> None:
        await trio.sleep(self.rng.random() * MOMENT)


Deed = Callable[[Handler, Request], Awaitable[int | None]]
GOOD: dict[str, Deed] = {}
BAD: dict[str, Deed] = {}


def good(deed: Deed) -> Deed:
    """A deed that answers with what :func:`expected` says."""
    GOOD[deed.__name__] = deed
    return deed


def bad(deed: Deed) -> Deed:
    BAD[deed.__name__] = deed
    return deed


def answer_to(number: str, body: bytes) -> bytes:
    return b"%s %d %d\n" % (number.encode(), len(body), zlib.crc32(body))


def expected(deed: str, number: str, body: bytes) -> bytes:
    read = b"" if deed in {"hello", "background", "nested", "child_writes"} else body
    line = answer_to(number, read)
    return line * (40 if deed == "stream" else 8000 if deed == "big" else 1)


async def body_of(request: Request) -> bytes:
    return b"".join([bytes(chunk) async for chunk in request.stdin])


@good
async def hello(handler: Handler, request: Request) -> None:
    await request.stdout.send_all(HEAD + answer_to(request.params["NUMBER"], b""))


@good
async def count(handler: Handler, request: Request) -> None:
    body = await body_of(request)
    await request.stdout.send_all(HEAD + answer_to(request.params["NUMBER"], body))


@good
async def count_slowly(handler: Handler, request: Request) -> None:
    body = b""
    while chunk := await request.stdin.receive_some(handler.rng.choice([1000, 50_000, None])):
        body += chunk
        await handler.moment()
    await request.stdout.send_all(HEAD)
    await request.stdout.send_all(answer_to(request.params["NUMBER"], body))


@good
async def stream(handler: Handler, request: Request) -> None:
    body = await body_of(request)
    await request.stdout.send_all(HEAD)
    for _ in range(40):
        await request.stdout.send_all(answer_to(request.params["NUMBER"], body))
        if handler.rng.random() < 0.2:
            await handler.moment()


@good
async def big(handler: Handler, request: Request) -> None:
    body = await body_of(request)
    await request.stdout.send_all(HEAD)
    await request.stdout.send_all(bytearray(answer_to(request.params["NUMBER"], body) * 8000))


@good
async def background(handler: Handler, request: Request) -> None:
    await hello(handler, request)
    async with request.stdout:
        request.stdout.end()
        await handler.moment()
    with contextlib.suppress(trio.ClosedResourceError):
        await request.stdin.receive_some()


@good
async def nested(handler: Handler, request: Request) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(handler.moment)
    with trio.move_on_after(handler.rng.random() * MOMENT):
        await trio.sleep_forever()
    await hello(handler, request)


@good
async def child_writes(handler: Handler, request: Request) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hello, handler, request)


@bad
async def fail_before(handler: Handler, request: Request) -> None:
    raise ValueError("before")


@bad
async def fail_after(handler: Handler, request: Request) -> None:
    await request.stdout.send_all(HEAD + b"begun")
    await handler.moment()
    raise ValueError("after")


@bad
async def fail_in_a_group(handler: Handler, request: Request) -> None:
    async def leave() -> None:
        await handler.moment()
        raise SystemExit(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(trio.sleep, 0.1)


@bad
async def fail_closed(handler: Handler, request: Request) -> None:
    await request.stdout.send_all(HEAD + b"whole")
    await request.stdout.aclose()
    await request.stdout.aclose()
    raise ValueError("closed")


@bad
async def fail_in_clean_up(handler: Handler, request: Request) -> None:
    try:
        await trio.sleep(0.05)
    finally:
        raise KeyError("in clean-up")


@bad
async def fail_in_a_cancelled_group(handler: Handler, request: Request) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_in_clean_up, handler, request)
        nursery.start_soon(trio.sleep, 0.1)


@bad
async def fail_in_the_background(handler: Handler, request: Request) -> None:
    await hello(handler, request)
    request.stdout.end()
    await handler.moment()
    raise ValueError("in the background")


@bad
async def never_read(handler: Handler, request: Request) -> None:
    await trio.sleep(0.03)
    await hello(handler, request)


@bad
async def close_stdin(handler: Handler, request: Request) -> None:
    await request.stdin.receive_some(1)
    await request.stdin.aclose()
    await hello(handler, request)


@bad
async def nothing(handler: Handler, request: Request) -> None:
    await handler.moment()


@bad
async def half_a_head(handler: Handler, request: Request) -> None:
    await request.stdout.send_all(b"Status: 200 OK\r\n")


@bad
async def bad_head(handler: Handler, request: Request) -> None:
    await request.stdout.send_all(b"no head\r\n\r\n")


@bad
async def bad_status(handler: Handler, request: Request) -> int:
    await hello(handler, request)
    return "0"  # type: ignore[return-value]


@bad
async def swallow(handler: Handler, request: Request) -> None:
    with contextlib.suppress(trio.Cancelled):
        await trio.sleep(0.05)
    await hello(handler, request)


@bad
async def shield(handler: Handler, request: Request) -> None:
    with trio.CancelScope(shield=True):
        await request.stdout.send_all(HEAD)
        for _ in range(10):
            await request.stdout.send_all(bytes(30_000))
            await handler.moment()


@bad
async def cancel_itself(handler: Handler, request: Request) -> None:
    if handler.rng.random() < 0.5:
        await request.stdout.send_all(HEAD)
    request.cancel_scope.cancel()
    await trio.sleep_forever()


@bad
async def deadline(handler: Handler, request: Request) -> None:
    request.cancel_scope.deadline = trio.current_time() + 0.01
    await trio.sleep(0.03)


@bad
async def leave_open(handler: Handler, request: Request) -> None:
    async def numbers() -> AsyncGenerator[int]:
        with trio.move_on_after(0.01):
            while True:
                yield 1

    generator = numbers()
    handler.left_open.append(generator)
    async for _ in generator:
        break
    await hello(handler, request)


@bad
async def complain(handler: Handler, request: Request) -> None:
    for _ in range(20):
        await request.stderr.send_all(b"x" * handler.rng.randrange(5000) + b"\n")
    await hello(handler, request)
    await request.stderr.send_all(b"unended")


DEEDS = GOOD | BAD

# Responses that begin and must never look whole.
CUT = {"fail_after"}
