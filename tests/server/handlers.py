"""Small handlers that tests share."""

from collections.abc import Awaitable, Callable

import trio

from trifcgi import Request

HEAD = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n"


async def hello(request: Request) -> None:
    """Answer with one short body."""
    await request.stdout.send_all(HEAD + b"hello")


async def echo(request: Request) -> None:
    """Answer with the body that came."""
    await request.stdout.send_all(HEAD)
    async for chunk in request.stdin:
        await request.stdout.send_all(chunk)


class Recorder:
    """A handler that tells how it went: began, its error, its clean-up.

    Args:
        work: what it does in between.
    """

    def __init__(self, work: Callable[[Request], Awaitable[int | None]]) -> None:
        self._work = work
        self.began = trio.Event()
        self.cleaned_up = trio.Event()
        self.calls = 0
        self.error: BaseException | None = None
        self.request: Request | None = None

    async def __call__(self, request: Request) -> int | None:
        self.calls += 1
        self.request = request
        self.began.set()
        try:
            return await self._work(request)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.cleaned_up.set()


async def sleep(request: Request) -> None:
    """Never answer."""
    await trio.sleep_forever()


async def sleep_begun(request: Request) -> None:
    """Begin an answer that never ends."""
    await request.stdout.send_all(HEAD + b"begun")
    await trio.sleep_forever()


async def read_body(request: Request) -> None:
    """Read the body, then answer with its size."""
    size = 0
    async for chunk in request.stdin:
        size += len(chunk)
    await request.stdout.send_all(HEAD + b"%d" % size)


async def flood(request: Request) -> None:
    """Answer without end."""
    await request.stdout.send_all(HEAD)
    while True:
        await request.stdout.send_all(bytes(65536))
