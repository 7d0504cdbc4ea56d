"""Test an application without sockets, front ends or waiting.

:func:`open_client` runs the real server over memory streams, in the trio run of the test, so
``trio.testing.MockClock`` drives every timeout::

    async def test_hello(autojump_clock):
        async with trifcgi.testing.open_client(app) as client:
            response = await client.request(trifcgi.testing.params("/hello"))
            assert response.status == 200
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import unquote

import trio
import trio.testing

from trifcgi.apps.interface import find_interface
from trifcgi.apps.loader import as_handler
from trifcgi.client import Client
from trifcgi.limits import Limits, Timeouts
from trifcgi.observe.instrument import Instrument
from trifcgi.server import DataPlane

__all__ = ["App", "MemoryServer", "open_client", "params"]

App: TypeAlias = Callable[..., Any]
"""A native handler, an ASGI 3 app or a WSGI app; which one, its arguments tell. What
``trifcgi.asgi`` and ``trifcgi.wsgi`` make are handlers."""


class MemoryServer:
    """A server without listeners, for tests that need more than one connection.

    An async context manager: entering enters the application's lifespan, leaving cancels
    what still runs, then leaves the lifespan. An exception of the block passes unchanged.

    Attributes:
        plane: the ``DataPlane`` that serves, for ``drain()`` and its counts.
    """

    def __init__(
        self,
        app: App,
        *,
        interface: str = "auto",
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        """Nothing runs before the block is entered.

        Args:
            app: a handler, an ASGI or a WSGI app.
            interface: which of them: ``handler``, ``asgi``, ``wsgi``, or ``auto``.
            limits: as for :func:`trifcgi.serve_stream`.
            timeouts: the same.
            instruments: the same.

        Raises:
            AppLoadError: ``app`` is none of them, or cannot be told apart.
        """
        handler = as_handler(app, find_interface(app, "app", interface))
        self.plane = DataPlane(handler, limits=limits, timeouts=timeouts, instruments=instruments)
        self._nursery: trio.Nursery | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.plane)
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self._stack = stack.pop_all()
        return self

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        # The nursery is not shown the block's own exception, which it would put in a group.
        return self._stack.aclose()

    def connect(
        self,
        pair: Callable[
            [], tuple[trio.abc.Stream, trio.abc.Stream]
        ] = trio.testing.memory_stream_pair,
    ) -> trio.abc.Stream:
        """Open a connection; return the front end's end of it.

        Args:
            pair: makes the two ends: ``memory_stream_pair``, whose buffer has no limit, or
                ``lockstep_stream_pair``, where every send waits for its reader.
        """
        if self._nursery is None:
            raise RuntimeError("enter the MemoryServer first")
        near, far = pair()
        self._nursery.start_soon(self.plane.serve_stream, far)
        return near

    def client(self) -> Client:
        """Return a client on a connection of its own, to be entered with ``async with``."""
        return Client(self.connect())


@asynccontextmanager
async def open_client(
    app: App,
    *,
    interface: str = "auto",
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    instruments: Sequence[Instrument] = (),
) -> AsyncGenerator[Client]:
    """Run ``app`` in a server over memory streams, and give a client that is connected to it.

    An application's lifespan is entered before the block and left after it. What the block
    raises comes out unchanged. Cancelling it leaves nothing behind.

    Args:
        app: a handler, an ASGI app, or a WSGI app. WSGI runs in threads, and a mock clock does
            not know that they are busy: leave it out there.
        interface: which of them: ``handler``, ``asgi``, ``wsgi``, or ``auto``.
        limits: sizes and counts.
        timeouts: in seconds; a ``MockClock`` drives them.
        instruments: observers.

    Raises:
        AppLoadError: ``app`` is none of them, or cannot be told apart.
    """
    server = MemoryServer(
        app, interface=interface, limits=limits, timeouts=timeouts, instruments=instruments
    )
    async with server, server.client() as client:
        yield client


def params(
    path: str = "/",
    *,
    method: str = "GET",
    query: str = "",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body_length: int | None = None,
    **more: str,
) -> list[tuple[str, str]]:
    """Return params as nginx 1.22 sends them with the ``fastcgi_params`` it comes with.

    Args:
        path: the URL's path as a client writes it. ``REQUEST_URI`` has it so, ``SCRIPT_NAME``
            decoded; that dots and double slashes are resolved there too is left to nginx.
        method: the HTTP method.
        query: what follows the question mark.
        headers: the HTTP headers; a name may repeat.
        body_length: bytes of body, or ``None`` for none (or an unknown length): "".
        more: further params, in capitals. They come last, so they win over those above.
    """
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    named = {name.lower(): value for name, value in fields}
    decoded = unquote(path, errors="surrogateescape")
    uri = f"{path}?{query}" if query else path
    pairs = [
        ("QUERY_STRING", query),
        ("REQUEST_METHOD", method),
        ("CONTENT_TYPE", named.get("content-type", "")),
        ("CONTENT_LENGTH", "" if body_length is None else str(body_length)),
        ("SCRIPT_NAME", decoded),
        ("REQUEST_URI", uri),
        ("DOCUMENT_URI", decoded),
        ("DOCUMENT_ROOT", "/var/www/html"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "nginx/1.22.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "50000"),
        ("REMOTE_USER", ""),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "example.test"),
        ("REDIRECT_STATUS", "200"),
        ("HTTP_HOST", named.get("host", "example.test")),
    ]
    pairs += [
        (f"HTTP_{name.upper().replace('-', '_')}", value)
        for name, value in fields
        if name.lower() != "host"
    ]
    return [*pairs, *more.items()]
