"""WSGI applications as handlers (PEP 3333).

The app runs in a thread of a bounded pool; the request's own task stands in for it in the
event loop, so an abort, a lost connection or a timeout cancels that task at once, whatever
the thread is doing. The thread learns of it at its next move: reading ``wsgi.input``,
``write()``, ``start_response()`` and the sending of the next block raise
:class:`RequestGone`, also when it waits there already. A thread that makes no move keeps
its place in the pool until it returns, and counts as abandoned; what it still gives goes
nowhere.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trifcgi.apps.threads import Crew, ThreadPool
from trifcgi.apps.wsgi_conversation import Conversation, RequestGone
from trifcgi.apps.wsgi_response import Response, WSGIApp
from trifcgi.apps.wsgi_streams import ErrorLog, FileWrapper, Input
from trifcgi.cgi import BadParams, Meaning, error_response
from trifcgi.protocol.constants import Role
from trifcgi.request import Request

__all__ = ["RequestGone", "WSGIApp", "WSGIHandler", "wsgi"]

logger = logging.getLogger(__name__)

_ROLES: Final = frozenset({Role.RESPONDER})

# A body that is said to be no longer than this is awaited before a thread is taken: a slow
# client then keeps none busy, and the app reads without waking the event loop.
_READ_AHEAD: Final = 64 * 1024

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

    __slots__ = ("_mount", "app", "pool")

    roles = _ROLES

    def __init__(
        self, app: WSGIApp, threads: int | ThreadPool = 40, *, mount: str | None = None
    ) -> None:
        if not callable(app):
            raise TypeError(f"a WSGI application is a callable, not {app!r}")
        self.app = app
        self.pool = threads if isinstance(threads, ThreadPool) else ThreadPool(threads)
        self._mount = mount

    def __repr__(self) -> str:
        return f"<trifcgi.wsgi {self.app!r}>"

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
        try:
            meaning = Meaning(request.block or request.pairs, mount=self._mount, wsgi=True)
            environ: dict[str, Any] = meaning.wsgi_environ()
        except BadParams as error:
            logger.warning("request refused with 400: %s", error)
            await request.stdout.send_all(error_response(400, str(error)))
            return
        try:
            start, whole = await _read_ahead(request, environ)
        except trio.BrokenResourceError:
            return  # the client left in the middle of its body, before the app was called
        call = _Call(self.app, environ, Conversation(crew, request))
        call.complete_environ(meaning.scheme, start, whole)
        await call.make(crew)


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


class _Call:
    """One call of the app: what the pool runs. Its text is what the log calls it."""

    __slots__ = ("_app", "_conversation", "_environ", "_errors", "_label", "_response")

    def __init__(self, app: WSGIApp, environ: dict[str, Any], conversation: Conversation) -> None:
        self._app = app
        self._environ = environ
        self._conversation = conversation
        self._response = Response(conversation, environ["REQUEST_METHOD"])
        self._errors = ErrorLog(conversation)
        self._label = (environ["REQUEST_METHOD"], environ["SCRIPT_NAME"], environ["PATH_INFO"])

    def __str__(self) -> str:
        # Not out of the environ: that is the app's to change.
        method, script_name, path_info = self._label
        return f"{method} {script_name}{path_info}"

    def complete_environ(self, scheme: str, start: bytes, whole: bool) -> None:
        """Add the ``wsgi.`` keys.

        Args:
            scheme: ``http`` or ``https``.
            start: the first bytes of the body.
            whole: whether they are all of it.
        """
        environ = self._environ
        environ["wsgi.version"] = (1, 0)
        environ["wsgi.url_scheme"] = scheme
        environ["wsgi.input"] = Input(self._conversation, start, whole)
        environ["wsgi.input_terminated"] = True
        environ["wsgi.errors"] = self._errors
        environ["wsgi.multithread"] = True
        environ["wsgi.multiprocess"] = False
        environ["wsgi.run_once"] = False
        environ["wsgi.file_wrapper"] = FileWrapper
        environ["trifcgi.stopping"] = self._conversation.request.stop_signal.for_threads

    def _run(self) -> None:
        """In the thread."""
        try:
            self._response.run(self._app, self._environ)
        except Exception as error:
            if not self._conversation.told:
                raise
            # Its own fault or a framework's word for RequestGone: nobody is left to answer,
            # yet a mistake made in clean-up must not be lost.
            if not isinstance(error, RequestGone):
                logger.info("%s: the app gave up as its request was over: %r", self, error)
        finally:
            self._errors.finish()

    async def make(self, crew: Crew) -> None:
        """Have a thread run it, and serve that thread; see :meth:`WSGIHandler.__call__`."""
        conversation = self._conversation
        job = crew.submit(self._run, conversation.finished, self)
        try:
            await conversation.serve()
        finally:
            conversation.give_up()
            crew.abandon(job)
        error, job.error = job.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error, job  # the traceback refers to this frame
