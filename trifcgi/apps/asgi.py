"""ASGI 3 applications as handlers (HTTP message format 2.5, lifespan 2.0).

The adapter stands on the request's trio streams alone. It starts no task and opens no
nursery for a request, and where neither the body nor the front end has to be waited for
it makes no checkpoint: a small answer costs the application's own time and little more.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trifcgi.apps import asgi_messages
from trifcgi.apps.asgi_exchange import Exchanges
from trifcgi.apps.disconnected import ClientDisconnected
from trifcgi.apps.lifespan import SHUTDOWN_TIMEOUT, run_lifespan
from trifcgi.cgi import BadParams, Meaning, error_response
from trifcgi.protocol.constants import Role
from trifcgi.protocol.pairs import COMPILED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trifcgi.request import Request

__all__ = ["ASGIApp", "ASGIHandler", "ClientDisconnected", "asgi"]

# Applications annotate the three with plain dicts, Starlette's mappings or asgiref's typed
# dicts. Each is right, and no type but Any takes them all.
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

logger = logging.getLogger(__name__)

_ROLES: Final = frozenset({Role.RESPONDER})


def asgi(
    app: ASGIApp, *, mount: str | None = None, shutdown_timeout: float = SHUTDOWN_TIMEOUT
) -> "ASGIHandler":
    """Turn an ASGI 3 application into a handler.

    Args:
        app: an async callable that takes scope, receive and send.
        mount: the URL prefix that the application lives under, ``/app`` say: ``root_path``
            ends there. Without it the front end's cut between SCRIPT_NAME and PATH_INFO counts.
        shutdown_timeout: seconds that the application has for its ``lifespan.shutdown``;
            then it is cancelled.

    Raises:
        TypeError: ``app`` cannot be called.
        ValueError: ``mount`` does not begin with a slash.
    """
    return ASGIHandler(app, mount=mount, shutdown_timeout=shutdown_timeout)


class ASGIHandler:
    """An ASGI application in a handler's place; made by :func:`asgi`.

    Attributes:
        app: the application.
        roles: the responder only, since ASGI knows no other.
    """

    __slots__ = ("_exchanges", "_shutdown_timeout", "_states", "app")

    roles = _ROLES

    def __init__(
        self,
        app: ASGIApp,
        *,
        mount: str | None = None,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    ) -> None:
        if not callable(app):
            raise TypeError(f"an ASGI application is a callable, not {app!r}")
        Meaning([(b"REQUEST_METHOD", b"GET")], mount=mount)  # a bad mount is to be told now
        self.app = app
        self._exchanges = Exchanges(mount)
        self._shutdown_timeout = shutdown_timeout
        self._states: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return f"<trifcgi.asgi {self.app!r}>"

    @property
    def reader(self) -> "ASGIHandler":
        """It takes params as they are read: see :data:`trifcgi.request.Handler`."""
        return self

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Run the application's lifespan around the requests of one server.

        Entered, the application's startup is complete (or it has no lifespan); requests get a
        copy of the state that it left. Leaving tells it to shut down, waits for that at most
        ``shutdown_timeout`` seconds even when cancelled, and leaves no task behind.

        Servers that share one handler each run a lifespan of their own, as two servers of
        any other kind would; requests see the state of the one that started last.

        Raises:
            AppLoadError: the application's startup failed; see :func:`run_lifespan`.
        """
        return self._run_lifespan()

    @asynccontextmanager
    async def _run_lifespan(self) -> "AsyncIterator[None]":
        state: dict[str, Any] = {}
        async with run_lifespan(self.app, state, shutdown_timeout=self._shutdown_timeout):
            self._set_states([*self._states, state])
            try:
                yield
            finally:
                # By identity: two states may well be equal.
                self._set_states([other for other in self._states if other is not state])

    def _set_states(self, states: list[dict[str, Any]]) -> None:
        self._states = states
        self._exchanges.state = states[-1] if states else None

    async def __call__(self, request: "Request") -> None:
        """Serve one request.

        Raises:
            ResponseError: the application returned without a complete response.
            Exception: whatever the application raised, unless it did so because its client
                had gone.
        """
        try:
            exchange = self._exchanges.begin(request)
        except BadParams as error:
            logger.warning("request refused with 400: %s", error)
            await request.stdout.send_all(error_response(400, str(error)))
            return
        try:
            # Not kept: an application may have ``send`` in it, and two that hold each other would
            # be left to the garbage collector.
            scope, exchange.scope = exchange.scope, None
            send = exchange if COMPILED else MethodType(asgi_messages.send, exchange)
            await self.app(scope, exchange.receive, send)
        except Exception as error:
            # A framework turns the disconnect into an exception of its own and lets it
            # pass (Starlette's ClientDisconnect): routine, yet a mistake made in clean-up
            # must not be lost.
            if exchange.told and request.aborted:
                why = "its client had gone"
            elif exchange.ends_as_it_is:
                why = "the server is stopping"
            else:
                raise
            logger.info("the app gave up as %s: %r", why, error)
            logger.debug("the app gave up as %s", why, exc_info=True)
        if exchange.complete or request.aborted:
            return
        if not exchange.ends_as_it_is:
            raise exchange.unfinished()
        await asgi_messages.end(exchange)
