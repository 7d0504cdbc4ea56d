"""The data plane: listeners, connections, and what they share in one process."""

import logging
import math
import select
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from operator import attrgetter
from types import MethodType, TracebackType
from typing import Any, Self

import trio

from trifcgi.limits import Limits, Timeouts
from trifcgi.observe.instrument import Instrument, StopReason
from trifcgi.observe.trace import Tracer
from trifcgi.protocol import MAX_CONNS, MAX_REQS, MPXS_CONNS, Role
from trifcgi.protocol.pairs import COMPILED
from trifcgi.request import Handler, StopSignal, Taskless
from trifcgi.server.clock import Clock
from trifcgi.server.connection import Connection
from trifcgi.server.ending import describe
from trifcgi.server.exchange import Exchange
from trifcgi.server.handover import Handover
from trifcgi.server.listeners import AllowList, Peer, accept_connections, take_connections
from trifcgi.server.observers import Observers
from trifcgi.server.poller import Poller
from trifcgi.server.reaper import Reaper
from trifcgi.server.share import Share
from trifcgi.server.socket_wire import SocketWire
from trifcgi.server.state import State
from trifcgi.server.stream_wire import StreamWire
from trifcgi.server.tasks import serve

__all__ = ["DataPlane"]

_log = logging.getLogger("trifcgi.server")

HAVE_EPOLL = hasattr(select, "epoll")

# How long requests that a drain has cancelled may take to clean up (seconds).
_CLEAN_UP = 5.0


class DataPlane:
    """Serves one handler on any number of listeners and streams.

    An async context manager: entering it enters the handler's lifespan and starts the poller
    and the reaper; leaving it cancels whatever still runs. Nothing is left behind.

    Args:
        handler: answers the requests.
        limits: how much is taken on at once.
        timeouts: how long things may take.
        instruments: observers, called synchronously.
        allow: TCP peers that may connect; ``None``: all.
        share: fair sharing of the listeners with other processes; ``None``: nobody else accepts
            from them.
        handover: takes over the kept connections of other processes, and passes ours on when
            this one stops; ``None``: they are closed.

    Attributes:
        state: what all connections look at for each request.
        call: calls the handler.
        connections: connections open now.
        patient: whether it drains without a limit, for as long as its requests take.
        cut_by_drain: requests that the drain's grace was too short for.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        instruments: Iterable[Instrument] = (),
        allow: AllowList | None = None,
        share: Share | None = None,
        handover: Handover | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be an async callable, not {handler!r}")
        self.handler: Any = handler
        # A method is called for less than the object whose call it is.
        call = getattr(handler, "__call__", None)  # noqa: B004 - not whether it can be called
        self.call: Any = call if isinstance(call, MethodType) else handler
        limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        served = getattr(handler, "roles", Role)
        roles = {int(role): role for role in Role if role in served}
        self.state = State(Observers(instruments), roles, limits, self.timeouts)
        self.values = {
            MAX_CONNS: b"%d" % limits.max_connections,
            MAX_REQS: b"%d" % limits.max_requests,
            MPXS_CONNS: b"1",
        }
        # In Python itself pairs are made for less of what has been read than of the block.
        self.state.reads = not COMPILED or getattr(handler, "reader", None) is handler
        taskless = getattr(handler, "taskless", None)
        if isinstance(taskless, Taskless) and taskless.handler is handler:
            self.state.taskless = taskless
        self.reaper = Reaper()
        self.patient = False
        self.cut_by_drain = 0
        self.share = share
        self.handover = handover
        self._allow = allow
        self._poller: Poller | None = None
        self._open: set[Connection] = set()
        # Accepted, by any listener, and not among those yet: their tasks have still to begin.
        self._arriving = 0
        self._room = trio.lowlevel.ParkingLot()
        self._empty = trio.lowlevel.ParkingLot()
        self._accepting: list[trio.CancelScope] = []
        self._waiting: list[trio.CancelScope] = []
        self._stack: AsyncExitStack | None = None

    @property
    def limits(self) -> Limits:
        """How much is taken on at once; :meth:`change_limits` changes it."""
        return self.state.limits

    @property
    def running(self) -> int:
        """Requests running or queued now."""
        return self.state.running

    @property
    def begun(self) -> int:
        """Requests begun so far."""
        return self.state.begun

    @property
    def stopping(self) -> StopSignal:
        """The same for requests, told to those that wait for it."""
        return self.state.stopping

    @property
    def draining(self) -> bool:
        """Whether :meth:`drain` was called."""
        return self.state.draining

    @property
    def tracer(self) -> Tracer | None:
        """Is told all bytes that come and go, while there is one."""
        return self.state.tracer

    @tracer.setter
    def tracer(self, tracer: Tracer | None) -> None:
        self.state.tracer = tracer

    @property
    def polls(self) -> bool:
        """Whether sockets are served by the poller."""
        return self._poller is not None

    def now(self) -> float:
        """The trio clock, in seconds."""
        return self.state.now()

    @property
    def room(self) -> int:
        """Connections that may still be opened."""
        return self.limits.max_connections - len(self._open) - self._arriving

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        self.state.clock = Clock(trio.lowlevel.current_clock())
        async with AsyncExitStack() as stack:
            lifespan = getattr(self.handler, "lifespan", None)
            if lifespan is not None:
                await stack.enter_async_context(lifespan())
            # After a cancel it is news to threads only, for which the lifespan is about to wait.
            stack.callback(self.stopping.set)
            await stack.enter_async_context(self._background())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._stack is not None
        # What is on the stack shields and bounds its own clean-up.
        return await self._stack.__aexit__(kind, error, trace)  # noqa: ASYNC102

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.reaper.run, name="trifcgi reaper")
                if HAVE_EPOLL:
                    self._poller = Poller(self.state)
                    nursery.start_soon(self._poller.run, name="trifcgi poller")
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel(reason="the data plane has ended")
        finally:
            if self._poller is not None:
                self._poller.close()

    @property
    def stepping(self) -> Exchange | None:
        """The request whose handler runs at this very moment; for other threads, which see by it
        what holds the event loop up.
        """
        for connection in list(self._open):
            if connection.turns.stepping is not None:
                return connection.turns.stepping
        return None

    def open_connections(self) -> list[Connection]:
        """The connections that are open now."""
        return list(self._open)

    def exchanges(self) -> list[Exchange]:
        """The requests that have begun and whose handlers have not ended, oldest first; for other
        threads, too.
        """
        connections = list(self._open)
        found = [e for c in connections for e in (*c.exchanges.values(), *c.trailing)]
        return sorted(found, key=attrgetter("number"))

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled, or until a :meth:`drain` has ended.

        The listeners are closed on the way out, as in ``trio.serve_listeners``.

        Args:
            listeners: any trio listeners; those on sockets are served by the poller.
            handler_nursery: where the connections' tasks run; its owner ends them. ``None``:
                a nursery in here.
            task_status: gets the list of listeners once they are being accepted from.
        """
        async with AsyncExitStack() as stack:
            for listener in listeners:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            async with trio.open_nursery() as own:
                connections = own if handler_nursery is None else handler_nursery
                async with trio.open_nursery() as accepting:
                    self._accepting.append(accepting.cancel_scope)
                    for listener in listeners:
                        accepting.start_soon(
                            accept_connections, listener, self, connections, self._allow
                        )
                    if self.handover is not None and self.polls:
                        accepting.start_soon(take_connections, self.handover, self, connections)
                    if self.share is not None and not self.draining:
                        self.share.open()
                    task_status.started(list(listeners))
                    if self.draining:
                        accepting.cancel_scope.cancel(reason="the server is stopping")
                # Closed first, so that the front end takes its next request elsewhere.
                for listener in listeners:
                    await trio.aclose_forcefully(listener)
                await self._drain()
                own.cancel_scope.cancel(reason="the server has stopped")

    async def serve_stream(self, stream: trio.abc.Stream, *, peer: str = "stream") -> None:
        """Serve one connection until it ends, and close the stream."""
        await serve(self, StreamWire(stream), peer)

    def serve_socket(
        self, sock: socket.socket, peer: Peer, multiplexed: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Serve one accepted, non-blocking socket until it ends, and close it."""
        assert self._poller is not None
        self._arriving += 1
        return serve(self, SocketWire(sock, self._poller), str(peer), multiplexed=multiplexed)

    def opened(self, connection: Connection) -> None:
        """A connection begins: it is counted, and drained like any other."""
        self._open.add(connection)
        if isinstance(connection.wire, SocketWire):
            self._arriving -= 1
        self.state.observers.connection_opened(connection.peer)
        if self.draining:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        """A connection has ended, and nothing is left of it."""
        self.state.observers.connection_closed(connection.peer, connection.cause)
        self._open.discard(connection)
        if self.share is not None and isinstance(connection.wire, SocketWire):
            self.share.left()
        # All, for who waits for a listener that is silent must not keep the room from others. To
        # look costs much less than to wake nobody.
        if self._room:
            self._room.unpark_all()
        if self._empty and not self._open:
            self._empty.unpark_all()

    def change_limits(self, limits: Limits) -> None:
        """Take other limits from now on. ``max_params`` counts for connections that open from now
        on; what runs already is never cut short.
        """
        self.state.limit(limits)
        self.values[MAX_CONNS] = b"%d" % limits.max_connections
        self.values[MAX_REQS] = b"%d" % limits.max_requests
        self._room.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until another connection may be accepted."""
        while self.room <= 0:
            await self._room.park()

    # A graceful stop

    def drain(self, *, patient: bool = False) -> None:
        """Begin a graceful stop: :meth:`serve` closes its listeners and the idle connections,
        tells the requests that run, lets them run on for the grace, cancels the rest, and returns.

        A connection that was used a moment ago is not idle: the front end may be sending its
        next request on it. It closes with the next response, or after half a second.

        Args:
            patient: the grace has no end, until this is called once more without it: then it
                begins. Later calls do not put it off.
        """
        self.patient = patient and (self.patient or not self.draining)
        if not self.patient:
            for scope in self._waiting:
                scope.deadline = min(scope.deadline, self.now() + self.timeouts.grace)
        self.state.draining = True
        if self.share is not None:
            self.share.close()
        for scope in self._accepting:
            scope.cancel(reason="the server is stopping")
        for connection in list(self._open):
            connection.drain()
        # Last: whoever ends a stream now comes back on a new connection, which is another's.
        self.stopping.set()

    async def _drain(self) -> None:
        with trio.move_on_after(math.inf if self.patient else self.timeouts.grace) as scope:
            self._waiting.append(scope)
            await self._wait_empty()
        late = self.exchanges()
        self.cut_by_drain = len(late)
        for exchange in late:
            _log.warning(
                "%s: still running after %g s; cancelled", describe(exchange), self.timeouts.grace
            )
            exchange.stop(StopReason.DRAINED)
        with trio.move_on_after(_CLEAN_UP):
            await self._wait_empty()

    async def wait_drained(self) -> None:
        """Wait until a drain has begun and the last connection has ended."""
        await self.stopping.wait()
        await self._wait_empty()

    async def _wait_empty(self) -> None:
        while self._open:
            await self._empty.park()
