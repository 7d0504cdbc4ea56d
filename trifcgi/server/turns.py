"""Whose turn it is on a connection: the tasks that drive its handlers.

A task of the connection takes a request from the queue, calls the handler and drives its
coroutine itself, inside the request's cancel scope. A handler that never suspends has then made
no trio call at all. While one is suspended, its task is inside it, and another task of the
same nursery takes the next request.
"""

import contextvars
import logging
import math
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.server import ending
from trifcgi.server.exchange import Exchange, Phase

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection

__all__ = ["Turns"]

_log = logging.getLogger("trifcgi.server")

# Tasks that a connection keeps parked between bursts of multiplexed requests.
_SPARE_TASKS = 4

# Whether parked tasks use one message over and over; see _Place.
REUSE_PARKING = True

# Requests that a task handles without having suspended, before other tasks get their turn.
_SLICE = 64


class Turns:
    """The queue of requests that wait for a task, and the tasks that wait for requests.

    Attributes:
        driving: whether a handler is being stepped at this very moment. What it sends then is
            flushed when it suspends or returns.
    """

    __slots__ = ("_connection", "_nursery", "_parked", "_queue", "_waking", "driving")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._nursery: trio.Nursery | None = None
        self._queue: deque[Exchange] = deque()
        self._parked: list[trio.lowlevel.Task] = []
        self._waking = False
        self.driving = False

    def __bool__(self) -> bool:
        """Whether a request waits for its turn."""
        return bool(self._queue)

    def add(self, exchange: Exchange) -> None:
        """Queue a request whose params are whole; :meth:`wake` comes after the batch."""
        exchange.phase = Phase.QUEUED
        self._queue.append(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Take a request back out, if it is still queued."""
        if exchange in self._queue:
            self._queue.remove(exchange)

    def wake(self) -> None:
        """See to it that one task looks at the queue, or at the end of the connection.

        Only one: it wakes the next if its handler suspends while more is queued.
        """
        if self._waking or self.driving:
            return
        if self._parked:
            self._waking = True
            trio.lowlevel.reschedule(self._parked.pop())
        elif self._nursery is not None and (self._queue or self._connection.over):
            self._waking = True
            self._nursery.start_soon(self._work, name="trifcgi request")

    async def run(self, nursery: trio.Nursery) -> None:
        """Handle requests until the connection is over; more tasks go to ``nursery``."""
        self._nursery = nursery
        try:
            await self._work(stays=True)
        finally:
            # From here on the nursery takes no more tasks.
            self._nursery = None
            self._queue.clear()

    async def _work(self, stays: bool = False) -> None:
        """Take requests from the queue and handle them, one after the other.

        The task that ``stays`` keeps the connection's nursery open until the connection is
        over; the others leave when enough are parked.

        A cancel scope serves one request after the other until something has spent it: a
        cancel, or a handler that took hold of it. Making a scope costs more than the rest of
        this loop.
        """
        self._waking = False
        connection = self._connection
        plane = connection.plane
        queue = self._queue
        task = trio.lowlevel.current_task()
        place = _Place(self._parked, task)
        depth = len(task.child_nurseries)
        handled = 0
        # No checkpoint is certain in here: a request that need not wait takes none, and _SLICE
        # bounds how many of them follow each other.
        while True:  # noqa: ASYNC913
            exchange: Exchange | None = None
            left_open = False
            try:
                with trio.CancelScope() as scope:  # noqa: ASYNC912
                    within = _innermost(task)
                    while True:
                        if not queue:
                            connection.flush()
                            if connection.over:
                                await connection.finish()
                                return
                            if not stays and len(self._parked) >= _SPARE_TASKS:
                                return
                            await place.park()
                            self._waking = False
                            handled = 0
                            continue
                        handled += 1
                        if handled % _SLICE == 0:
                            connection.flush()
                            await trio.lowlevel.checkpoint()
                            continue
                        exchange = queue.popleft()
                        if exchange.reason is None:
                            exchange.scope = scope
                            exchange.task = task
                            exchange.phase = Phase.RUNNING
                            plane.observers.request_started(exchange)
                            app_status = await self._drive(exchange, plane.handler(exchange))
                            ending.returned(exchange, app_status)
                            if _innermost(task) is not within:
                                left_open = True
                                break
                        else:
                            ending.stopped(exchange)
                        if exchange.scope_spent:
                            break
                        exchange = None
            except BaseException as error:  # noqa: ASYNC103 - what passes through is raised
                own, passing = _divide(error)
                if left_open and exchange is not None:
                    _abandon_nurseries(task, depth)
                    _log.error(
                        "%s: the handler left a cancel scope or nursery open, as `break` out of"
                        " an async generator does; what runs in it is cancelled",
                        ending.describe(exchange),
                    )
                elif own is not None:
                    if exchange is None or exchange.phase is Phase.ENDED:
                        raise
                    _abandon_nurseries(task, depth)
                    ending.failed(exchange, own)
                if passing is error:
                    raise
                if passing is not None:
                    raise passing from None  # noqa: ASYNC104 - Cancelled is in it
            else:
                if exchange is not None and exchange.phase is not Phase.ENDED:
                    ending.stopped(exchange)

    @types.coroutine
    def _drive(self, exchange: Exchange, awaitable: Awaitable[Any]) -> Generator[Any, Any, Any]:
        """Run a handler to its end, in a context of its own.

        The same as awaiting it, with two differences: context variables that it sets do not
        reach the connection's next request, and whenever it suspends, what it has sent goes
        out first.
        """
        coroutine: Coroutine[Any, Any, Any] = (
            awaitable if isinstance(awaitable, types.CoroutineType) else _awaiting(awaitable)
        )
        # Tools that walk trio's tasks do not see a coroutine that is stepped by hand.
        exchange.coroutine = coroutine
        connection = self._connection
        plane = connection.plane
        run = contextvars.copy_context().run
        step: Any = coroutine.send
        value: Any = None
        try:
            while True:
                self.driving = True
                plane.stepping = exchange
                try:
                    trap = run(step, value)
                finally:
                    self.driving = False
                    plane.stepping = None
                connection.flush()
                # A response that ended early may have been the last one of the connection.
                if self._queue or (
                    connection.closing and not connection.exchanges and not connection.lost
                ):
                    self.wake()
                try:
                    value = yield trap
                except BaseException as error:  # noqa: BLE001, ASYNC103 - thrown into the handler
                    step, value = coroutine.throw, error
                else:
                    step = coroutine.send
        except StopIteration as done:
            return done.value


def _innermost(task: trio.lowlevel.Task) -> object:
    """What tells whether a task is inside the same cancel scope as before.

    trio has no public word for it. Without this one a scope that a handler leaves open would
    hold the connection's next requests, and its deadline would end the server.
    """
    return getattr(task, "_cancel_status", None)


def _abandon_nurseries(task: trio.lowlevel.Task, depth: int) -> None:
    """Make a task forget the nurseries that a handler has opened in it and not left.

    trio takes it for certain that a task leaves the last nursery that it has opened.
    """
    for nursery in task.child_nurseries[depth:]:
        nursery.cancel_scope.cancel(reason="the handler has left this nursery open")
    del task._child_nurseries[depth:]


_Part = BaseException | None


def _divide(error: BaseException) -> tuple[_Part, _Part]:
    """Tell a handler's own failure from what only passes through it.

    Cancelled and KeyboardInterrupt are not the handler's, alone or in a group. Everything else is
    and ends its request, not the server: SystemExit, and what libraries derive from
    BaseException (the panics of those written in Rust, asyncio's own CancelledError).
    """
    passing: _Part = None
    own: _Part = error
    if isinstance(error, BaseExceptionGroup):
        passing, own = error.split((trio.Cancelled, KeyboardInterrupt))
    elif isinstance(error, (trio.Cancelled, KeyboardInterrupt)):
        passing, own = error, None
    if passing is not None and _is_stray(passing):
        return error, None
    return own, passing


def _is_stray(error: BaseException) -> bool:
    """Whether a Cancelled was kept and raised where nothing is cancelled."""
    if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
        return False
    return (
        not isinstance(error, KeyboardInterrupt) and trio.current_effective_deadline() != -math.inf
    )


class _Place:
    """Where one task waits for its next request, again and again.

    Making the message that parks a task costs more than parking it. It is the same each time, so
    it is made once, by trio's own ``wait_task_rescheduled``; that trio takes it more than once is
    not promised, and :data:`REUSE_PARKING` goes back to the plain call.
    """

    __slots__ = ("_message", "_parked", "_task")

    def __init__(self, parked: list[trio.lowlevel.Task], task: trio.lowlevel.Task) -> None:
        self._parked = parked
        self._task = task
        self._message = _message(self._leave) if REUSE_PARKING else None

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._parked.remove(self._task)
        return trio.lowlevel.Abort.SUCCEEDED

    async def park(self) -> None:
        """Wait until rescheduled; a cancel takes the task out of the list."""
        self._parked.append(self._task)
        if self._message is None:
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        else:
            (await _send(self._message)).unwrap()


def _message(abort: Callable[[Any], trio.lowlevel.Abort]) -> Any:  # Any: trio's own secret
    waiting = trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - stepped by hand
    try:
        return waiting.send(None)
    finally:
        waiting.close()


@types.coroutine
def _send(message: Any) -> Generator[Any, Any, Any]:
    return (yield message)


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
