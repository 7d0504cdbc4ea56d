"""What a handler is given: the request, in trio's abstract streams only."""

import abc
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from trifcgi.protocol.constants import Role

__all__ = [
    "Handler",
    "Params",
    "Request",
    "RequestStream",
    "ResponseStream",
    "StopSignal",
    "Taskless",
    "ThreadStopSignal",
]


class Params(Mapping[str, str]):
    """A request's params by name.

    Lossless: UTF-8 with surrogateescape, so ``os.fsencode(value)`` gives the bytes
    back. Where a front end sends a name twice the last one counts;
    ``Request.pairs`` has them all. Decoded on first use.
    """

    __slots__ = ("_decoded", "_pairs")

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs
        self._decoded: dict[str, str] | None = None

    def _values(self) -> dict[str, str]:
        decoded = self._decoded
        if decoded is None:
            decoded = self._decoded = {
                name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
                for name, value in self._pairs
            }
        return decoded

    def __getitem__(self, name: str) -> str:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        return f"<Params {len(self)} names>"


class RequestStream(trio.abc.ReceiveStream):
    """``Request.stdin`` and ``Request.data``."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def ended(self) -> bool:
        """Whether the body is whole and all of it has been received: the next
        ``receive_some`` returns ``b""``.
        """


class ResponseStream(trio.abc.SendStream):
    """``Request.stdout``: the response, as CGI writes it (RFC 3875 §6), head first.

    For a responder, bytes given to :meth:`send_all` are held back until the blank line
    that ends the head has been seen, so that the head leaves as one record (front ends
    break on less); a missing ``Status`` is added. Whoever builds the head itself uses
    :meth:`send_head` and saves that second look.
    """

    __slots__ = ()

    @property
    @abc.abstractmethod
    def begun(self) -> bool:
        """Whether a head has been handed over; from then on no other response can be
        made for this request.
        """

    @abc.abstractmethod
    def send_head(self, head: bytes, *, bodyless: bool = False) -> None:
        """Queue a finished response head; never waits and is no checkpoint.

        It leaves together with the first body bytes, or at the latest when the handler
        next waits for something or returns.

        Args:
            head: status and header lines and the blank line after them, as
                :func:`trifcgi.cgi.encode_head` makes it.
            bodyless: body bytes that follow are dropped (HEAD, 204, 304).

        Raises:
            ResponseError: a head has been sent before.
        """

    @abc.abstractmethod
    def end(self) -> None:
        """The response is whole: end the request for the front end, and go on.

        FCGI_END_REQUEST leaves when the handler next waits for something or returns. From
        here on the request has no streams, and nothing that the front end does stops the
        handler: an abort or a lost connection comes too late. Timeouts, a drain and an
        operator still do. Never waits and is no checkpoint; without a head, or called again, it
        does nothing.
        """


class ThreadStopSignal:
    """What threads see of a :class:`StopSignal`; any of them may ask at any time.

    A server that is cancelled without a drain sets it too, before it waits for its threads.
    """

    __slots__ = ("_event",)

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Whether the server has begun to stop."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block the calling thread until the server begins to stop.

        Nothing but that and the timeout ends the wait: that the request's client has left
        shows when the application next reads or sends.

        Args:
            timeout: seconds; ``None``: however long it takes.

        Returns:
            Whether the server has begun to stop.
        """
        return self._event.wait(timeout)


class StopSignal:
    """Tells every request of one server that the server has begun to stop.

    Set once, at the start of a drain, and never unset: there is one for all requests, so
    that being told costs a request nothing before it asks.

    Attributes:
        for_threads: the same for threads.
    """

    __slots__ = ("_event", "_scopes", "_thread_event", "for_threads")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._thread_event = threading.Event()
        self._scopes: set[trio.CancelScope] = set()
        self.for_threads = ThreadStopSignal(self._thread_event)

    def __repr__(self) -> str:
        return f"<StopSignal {'set' if self.is_set() else 'not set'}>"

    def is_set(self) -> bool:
        """Whether the server has begun to stop. May be asked in any thread."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once the server has begun to stop. Always a checkpoint."""
        await self._event.wait()

    def set(self) -> None:
        """Say that the server begins to stop; the server does."""
        self._event.set()
        self._thread_event.set()
        scopes, self._scopes = self._scopes, set()
        for scope in scopes:
            scope.cancel(reason="the server is stopping")

    def add_scope(self, scope: trio.CancelScope) -> None:
        """Have a scope cancelled when the server begins to stop: for a task that waits for
        something else too. At once, if it has begun.
        """
        if self.is_set():
            scope.cancel(reason="the server is stopping")
        else:
            self._scopes.add(scope)

    def discard_scope(self, scope: trio.CancelScope) -> None:
        """Leave a scope alone from now on."""
        self._scopes.discard(scope)


class Request(abc.ABC):
    """One FastCGI request, as a handler sees it.

    Attributes:
        id: the request ID on its connection, 1 to 65,535. Front ends reuse it.
        role: the role asked for.
        keep_connection: whether the front end asked to keep the connection open.
        pairs: the params as they came: ordered, with duplicates, bytes.
        params: the same as a mapping of str to str.
    """

    __slots__ = ("_named", "_params", "id", "keep_connection", "pairs", "role")

    id: int
    role: Role
    keep_connection: bool
    pairs: Sequence[tuple[bytes, bytes]]
    _params: Params | None
    _named: dict[bytes, bytes] | None

    @property
    def named(self) -> Mapping[bytes, bytes]:
        """The params by name as bytes; the last one of a name counts. Made once."""
        named = getattr(self, "_named", None)
        if named is None:
            named = self._named = dict(self.pairs)
        return named

    @property
    def block(self) -> bytes:
        """The params as they came over the wire (§3.4), for adapters that read them all in
        another form; ``b""`` where there are only :attr:`pairs`.
        """
        return b""

    @property
    def params(self) -> Params:
        """The params by name (see :class:`Params`)."""
        params = getattr(self, "_params", None)
        if params is None:
            params = self._params = Params(self.pairs)
        return params

    @property
    @abc.abstractmethod
    def stdin(self) -> RequestStream:
        """The request body (§5.3). Ends with ``b""`` only when the front end said that
        the body is whole; raises ``trio.BrokenResourceError`` when it went away before, or when
        the rest was thrown away, as the request was stopped.
        """

    @property
    @abc.abstractmethod
    def data(self) -> RequestStream:
        """The filter role's second stream (§6.4); empty for the other roles."""

    @property
    @abc.abstractmethod
    def stdout(self) -> ResponseStream:
        """The response. Sending raises ``trio.BrokenResourceError`` once the front end has
        aborted the request or is gone.
        """

    def respond(self, head: bytes, body: bytes, *, bodyless: bool = False) -> bool:
        """Queue a whole response, head, body and end, if that can be done at once.

        The same as ``stdout.send_head``, ``send_all`` and ``end``, in one step, for a
        response that need not wait for anything; never waits and is no checkpoint.

        Args:
            head: as for :meth:`ResponseStream.send_head`.
            body: all of it.
            bodyless: ``body`` is dropped.

        Returns:
            Whether it was done. If not, nothing was: use the stream.

        Raises:
            trio.BrokenResourceError: the front end has aborted the request or is gone.
        """
        return False

    @property
    @abc.abstractmethod
    def stderr(self) -> trio.abc.SendStream:
        """The front end's error log. What is sent before the response head waits for it
        (a STDERR record ahead of the head kills HAProxy 2.6.12).
        """

    @property
    @abc.abstractmethod
    def cancel_scope(self) -> trio.CancelScope:
        """The scope around the handler: an abort, a lost connection, a passed deadline, a
        drain or an operator cancels it, and so may the handler itself.
        """

    @property
    @abc.abstractmethod
    def aborted(self) -> bool:
        """Whether the front end has aborted this request or its connection is lost."""

    @abc.abstractmethod
    async def wait_aborted(self) -> None:
        """Return as soon as :attr:`aborted` is true.

        A task that waits here when the abort arrives returns normally, even though the
        handler's scope is cancelled in the same moment; its next checkpoint raises
        ``Cancelled``. When it is true already this is no checkpoint.
        """

    @property
    @abc.abstractmethod
    def stop_signal(self) -> StopSignal:
        """What :attr:`stopping` and :meth:`wait_stopping` ask: one for all requests of a server,
        so that adapters need make only once what they make of it.
        """

    @property
    def stopping(self) -> bool:
        """Whether the server that answers this request has begun to stop: it drains, to end, to
        reload or to be replaced by a new worker. May be asked in any thread.

        The request goes on as before, for the server's grace, and is then cancelled; a
        response without an end of its own (an event stream, a long poll) should end here. In
        a server that is cancelled without a drain, as ``serve_stream`` is, the cancel comes
        first.
        """
        return self.stop_signal.is_set()

    async def wait_stopping(self) -> None:
        """Return as soon as :attr:`stopping` is true. Always a checkpoint."""
        await self.stop_signal.wait()


class Taskless(abc.ABC):
    """How a handler serves requests while no task waits for them, where it gives them to threads
    and has nothing else to await.

    It serves so what it can. For every other request, and for one that turns out to need a
    task, the handler itself is called.

    Attributes:
        handler: that one. Whoever wraps it and has the attributes of what it wraps is not, and
            is called for each request.
    """

    __slots__ = ()

    handler: Any

    @abc.abstractmethod
    def begin(self, request: Any) -> bool:
        """Take a request that has come whole and has no body; this never waits.

        What is given is a :class:`Request` with more to it:

        ``aside``
            set here, to something whose ``leave()`` is called when the request is over early.
        ``answer(head, body, bodyless)``
            the same as :meth:`Request.respond`, and the end of it all if that could be done.
        ``want_task()``
            has the handler called with it, for whatever is left to do. It takes ``aside`` over,
            and leaves ``None`` there.

        Returns:
            Whether it is taken.
        """

    @abc.abstractmethod
    def begun(self) -> None:
        """All that came together were offered to :meth:`begin`."""


Handler: TypeAlias = Callable[[Request], Awaitable[int | None]]
"""An async callable that takes a :class:`Request` and returns ``None`` or the FastCGI
application status.

A handler object may also have:

``roles``
    a container of :class:`Role`: the roles that it serves (all three without it).
    Others are refused with FCGI_UNKNOWN_ROLE.
``lifespan``
    a function without arguments that returns an async context manager, entered before the
    first request and left after the last.
``reader``
    the handler itself, where it takes params as :class:`~trifcgi.cgi.Meaning` reads them: the
    server then does so once and for all when they have come. Whoever wraps it and has the
    attributes of what it wraps is not, and reads them itself.
``taskless``
    a :class:`Taskless`, for the server to try first; or ``None``.
"""
