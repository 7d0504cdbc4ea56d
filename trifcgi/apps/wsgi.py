"""WSGI applications as handlers (PEP 3333).

The app runs in a thread of a bounded pool; the request's own task stands in for it in the
event loop, so an abort, a lost connection or a timeout cancels that task at once, whatever
the thread is doing. A request without a body has no task before there is something to await: its
answer is mostly whole when the app returns. The thread learns of an early end at its next move:
reading ``wsgi.input``, ``write()``, ``start_response()`` and the sending of the next block raise
:class:`RequestGone`, also when it waits there already. A thread that makes no move keeps
its place in the pool until it returns, and counts as abandoned; what it still gives goes
nowhere.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trifcgi.apps.crew import Crew
from trifcgi.apps.request_gone import RequestGone
from trifcgi.apps.thread_calls import Seat
from trifcgi.apps.threads import ThreadPool
from trifcgi.apps.wsgi_call import Call, Direct
from trifcgi.apps.wsgi_conversation import Conversation
from trifcgi.apps.wsgi_response import WSGIApp
from trifcgi.cgi import BadParams, error_response
from trifcgi.cgi.target import mount_bytes
from trifcgi.protocol.constants import Role
from trifcgi.request import Request, ResponseStream

__all__ = ["RequestGone", "WSGIApp", "WSGIHandler", "wsgi"]

logger = logging.getLogger(__name__)

_ROLES: Final = frozenset({Role.RESPONDER})

# A body that is said to be no longer than this is awaited before a thread is taken: a slow
# client then keeps none busy, and the app reads without waking the event loop.
_READ_AHEAD: Final = 64 * 1024

# Pieces are joined into one when they are not more than this together: copying costs less
# than the records do.
_JOIN: Final = 64 * 1024

# Methods whose requests have no body unless something says so. Their stdin ends at once.
_BODYLESS_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})


def wsgi(
    app: WSGIApp, threads: int | ThreadPool = 40, *, mount: str | None = None
) -> "WSGIHandler":
    """Turn a WSGI application into a handler.

    Args:
        app: a PEP 3333 callable.
        threads: requests that run at once, at least 1; more wait their turn, and are never
            begun when their client leaves meanwhile. Or a pool that several handlers share.
        mount: the URL prefix that the application lives under, ``/app`` say: SCRIPT_NAME
            ends there. Without it the front end's cut between SCRIPT_NAME and PATH_INFO counts.

    Raises:
        TypeError, ValueError: ``app`` cannot be called; ``threads`` is no such number.
    """
    return WSGIHandler(app, threads, mount=mount)


class WSGIHandler:
    """A WSGI application in a handler's place; made by :func:`wsgi`.

    Attributes:
        app: the application.
        pool: its threads.
        roles: the responder only, since WSGI knows no other.
    """

    __slots__ = ("_direct", "_mount", "_seats", "app", "pool")

    roles = _ROLES

    def __init__(
        self, app: WSGIApp, threads: int | ThreadPool = 40, *, mount: str | None = None
    ) -> None:
        if not callable(app):
            raise TypeError(f"a WSGI application is a callable, not {app!r}")
        self.app = app
        self.pool = threads if isinstance(threads, ThreadPool) else ThreadPool(threads)
        if mount is not None:
            mount_bytes(mount)  # a bad one is to be told now
        self._mount = mount
        self._seats: list[Seat] = []
        self._direct = Direct(self, mount)

    def __repr__(self) -> str:
        return f"<trifcgi.wsgi {self.app!r}>"

    @property
    def reader(self) -> "WSGIHandler":
        """It takes params as they are read: see :data:`trifcgi.request.Handler`."""
        return self

    @property
    def taskless(self) -> Direct | None:
        """Answers requests while no task waits for them: see :data:`trifcgi.request.Handler`. What
        is derived from this has its own way of being called.
        """
        return self._direct if type(self) is WSGIHandler else None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Have the threads: they are started when requests need them, and joined on leaving
        (see :meth:`ThreadPool.running`). Servers that share one handler share its threads.
        """
        async with self.pool.running():
            yield

    async def __call__(self, request: Request) -> None:
        """Serve one request.

        A cancel leaves at once. When no thread has begun the request the app is never
        called; otherwise see above.

        Raises:
            RuntimeError: nobody has entered :meth:`lifespan`; servers do so by themselves.
            ResponseError: the app gave a response that cannot be sent, or none.
            Exception: whatever the app raised. ``SystemExit`` comes as a ``RuntimeError``.
        """
        crew = self.pool.crew
        if crew is None:
            raise RuntimeError(
                "a WSGI app needs its threads: enter `async with handler.lifespan():` around"
                " whatever calls the handler"
            )
        seats = self._seats
        aside: Call | None = getattr(request, "aside", None)
        if aside is not None:
            seat = seats.pop() if seats else Seat()
            await self._see_off(
                crew, aside, aside.have_task(trio.lowlevel.current_task(), seat), seat
            )
            return
        try:
            call = Call(self.app, request, self._mount, trio.lowlevel.current_task())
        except BadParams as error:
            logger.warning("request refused with 400: %s", error)
            await request.stdout.send_all(error_response(400, str(error)))
            return
        start, whole = b"", True
        if not request.stdin.ended:
            try:
                start, whole = await _read_ahead(request, call.environ or {})
            except trio.BrokenResourceError:
                return  # the client left in the middle of its body, before the app was called
        seat = seats.pop() if seats else Seat()
        conversation = call.complete(crew, request, seat, start, whole)
        crew.put(call)
        await self._see_off(crew, call, conversation, seat)

    async def _see_off(
        self, crew: Crew, call: Call, conversation: Conversation, seat: Seat
    ) -> None:
        """Wait for the thread, send what it leaves and fetch what it asks for."""
        try:
            while True:
                if not conversation.news:
                    await seat.wait(call.owner)
                if conversation.done:
                    break
                await _transfer(conversation)
            if call.error is not None or not conversation.respond():
                await _transfer(conversation)
        finally:
            conversation.leave()
            crew.abandon(call)
            self._seats.append(seat)
        failure, call.error = call.error, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure, call  # the traceback refers to this frame


async def _read_ahead(request: Request, environ: dict[str, Any]) -> tuple[bytes, bool]:
    """Await a short body; of others take nothing.

    Returns:
        The body's start, and whether that is all of it.
    """
    if request.stdin.ended:
        return b"", True
    length = environ.get("CONTENT_LENGTH")
    if length is None:
        # Absent means unknown where the body comes chunked (Apache, unbuffered nginx).
        if (
            "HTTP_TRANSFER_ENCODING" in environ
            or environ["REQUEST_METHOD"] not in _BODYLESS_METHODS
        ):
            return b"", False
    elif int(length) > _READ_AHEAD:
        return b"", False
    pieces: list[bytes | bytearray] = []
    size = 0
    receive = request.stdin.receive_some
    # The length is only what is said; the end of stdin ends a body (§5.3).
    while size <= _READ_AHEAD:
        piece = await receive()
        if not piece:
            return b"".join(pieces), True
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), False


async def _transfer(conversation: Conversation) -> None:
    """Send what the thread has left; then fetch what it has asked for."""
    request = conversation.request
    left = conversation.take()
    try:
        if left.head is not None:
            request.stdout.send_head(left.head, bodyless=left.bodyless)
        if left.stdout:
            await _send(request.stdout, left.stdout)
        if left.stderr is not None:
            await request.stderr.send_all(b"".join(left.stderr))
        if left.asked:
            conversation.give(bytes(await request.stdin.receive_some()))
    except trio.BrokenResourceError:
        # The front end is gone and the server lets the app finish (a grace): it learns of
        # that at its next move.
        conversation.give_up()


async def _send(stdout: ResponseStream, pieces: list[bytes]) -> None:
    if len(pieces) == 1:
        await stdout.send_all(pieces[0])
    elif sum(map(len, pieces)) <= _JOIN:
        await stdout.send_all(b"".join(pieces))
    else:
        for piece in pieces:
            await stdout.send_all(piece)
