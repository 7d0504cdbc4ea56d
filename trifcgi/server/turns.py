"""Whose turn it is on a connection: the tasks that drive its handlers.

A task of the connection takes a request from the queue, calls the handler and drives its
coroutine itself, inside the request's cancel scope. A handler that never suspends has then made
no trio call at all. While one is suspended, its task is inside it, and another task of the
same nursery takes the next request.
"""

import contextvars
import types
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.server import ending
from trifcgi.server.exchange import Exchange, Phase

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection

__all__ = ["Turns"]

# Tasks that a connection keeps parked between bursts of multiplexed requests.
_SPARE_TASKS = 4

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
        task = trio.lowlevel.current_task()
        # No checkpoint is certain in here: a request that need not wait takes none, and _SLICE
        # bounds how many of them follow each other.
        while True:  # noqa: ASYNC913
            exchange: Exchange | None = None
            try:
                with trio.CancelScope() as scope:  # noqa: ASYNC912
                    handled = 0
                    while True:
                        if not self._queue:
                            if not await self._wait(stays):
                                return
                            handled = 0
                            continue
                        handled += 1
                        if handled % _SLICE == 0:
                            self._connection.flush()
                            await trio.lowlevel.checkpoint()
                            continue
                        exchange = self._queue.popleft()
                        if exchange.reason is None:
                            await self._handle(exchange, scope, task)
                        else:
                            ending.stopped(exchange)
                        if exchange.scope_spent:
                            break
                        exchange = None
            except (Exception, SystemExit) as error:
                # SystemExit: an application that calls sys.exit() ends its request, not
                # the server.
                if exchange is None or exchange.phase is Phase.ENDED:
                    raise
                ending.failed(exchange, error)
            else:
                if exchange is not None and exchange.phase is not Phase.ENDED:
                    ending.stopped(exchange)

    async def _wait(self, stays: bool) -> bool:
        """Wait for a request; ``False`` when this task is not needed any more."""
        connection = self._connection
        connection.flush()
        if connection.over:
            await connection.finish()
            return False
        if len(self._parked) >= _SPARE_TASKS and not stays:
            return False
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def unpark(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(unpark)
        self._waking = False
        return True

    async def _handle(
        self, exchange: Exchange, scope: trio.CancelScope, task: trio.lowlevel.Task
    ) -> None:
        plane = self._connection.plane
        exchange.scope = scope
        exchange.task = task
        exchange.phase = Phase.RUNNING
        plane.observers.request_started(exchange)
        ending.returned(exchange, await self._drive(exchange, plane.handler(exchange)))

    @types.coroutine
    def _drive(self, exchange: Exchange, awaitable: Awaitable[Any]) -> Generator[Any, Any, Any]:
        """Run a handler to its end, in a context of its own.

        The same as awaiting it, with two differences: context variables that it sets do not
        reach the connection's next request, and whenever it suspends, what it has sent goes
        out first.
        """
        coroutine = awaitable if isinstance(awaitable, Coroutine) else _awaiting(awaitable)
        # Tools that walk trio's tasks do not see a coroutine that is stepped by hand.
        exchange.coroutine = coroutine
        plane = self._connection.plane
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
                self._connection.flush()
                if self._queue:
                    self.wake()
                try:
                    value = yield trap
                except BaseException as error:  # noqa: BLE001, ASYNC103 - thrown into the handler
                    step, value = coroutine.throw, error
                else:
                    step = coroutine.send
        except StopIteration as done:
            return done.value


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
