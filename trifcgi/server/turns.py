"""Whose turn it is on a connection: the requests that wait for a task, and the tasks that wait for
requests. Compiled; the tasks themselves stand in :mod:`trifcgi.server.tasks`.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import trio

from trifcgi.server import ending
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection

__all__ = ["GO_ON", "LEFT_OPEN", "SPENT", "WOKEN", "Turns", "innermost"]

_QUEUED: Final = Phase.QUEUED
_RUNNING: Final = Phase.RUNNING


# What became of the scope that a handler ran in.
GO_ON: Final = 0  # it serves the next request, too
SPENT: Final = 1  # it was cancelled, or the handler took hold of it
LEFT_OPEN: Final = 2  # the handler has opened another in it and not left that

# Requests that are taken one after the other before other tasks get their turn.
_SLICE: Final = 64


def innermost(task: trio.lowlevel.Task) -> object:
    """What tells whether a task is inside the same cancel scope as before.

    trio has no public word for it. Without this one a scope that a handler leaves open would
    hold the connection's next requests, and its deadline would end the server.
    """
    return getattr(task, "_cancel_status", None)


class _Woken:
    """What a parked task is woken with: an outcome that can be used again, unlike trio's own."""

    def unwrap(self) -> None:
        """Nothing is handed over."""


WOKEN: Final[Any] = _Woken()


class Turns:
    """The queue of a connection's requests and its parked tasks.

    Attributes:
        queue: requests whose params are whole, in the order in which they came.
        parked: the tasks that wait, the one that is woken next at the end.
        waking: whether a task was woken and has not looked yet.
        driving: whether a handler is being stepped at this very moment. What it sends then is
            flushed when it suspends or returns.
        stepping: whose.
    """

    __slots__ = (
        "_connection",
        "_nursery",
        "_taken",
        "_work",
        "driving",
        "parked",
        "queue",
        "stepping",
        "waking",
    )

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._nursery: trio.Nursery | None = None
        self._work: Callable[[Connection], Coroutine[Any, Any, None]] | None = None
        # Mostly short, and an empty deque takes 600 bytes.
        self.queue: list[Exchange] = []
        self.parked: list[trio.lowlevel.Task] = []
        self._taken = 0
        self.waking = False
        self.driving = False
        self.stepping: Exchange | None = None

    def open(
        self,
        nursery: trio.Nursery,
        work: "Callable[[Connection], Coroutine[Any, Any, None]]",
    ) -> None:
        """From now on further tasks that ``work`` go to ``nursery``."""
        self._nursery = nursery
        self._work = work

    def close(self) -> None:
        """The nursery takes no more tasks."""
        self._nursery = None
        self.queue.clear()

    def add(self, exchange: Exchange) -> None:
        """Queue a request whose params are whole; :meth:`wake` comes after the batch."""
        exchange.phase = _QUEUED
        self.queue.append(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Take a request back out, if it is still queued."""
        if exchange in self.queue:
            self.queue.remove(exchange)

    def wake(self) -> None:
        """See to it that one task looks at the queue, or at the end of the connection.

        Only one: it wakes the next if its handler suspends while more is queued.
        """
        if self.waking or self.driving:
            return
        if self.parked:
            self.waking = True
            trio.lowlevel.reschedule(self.parked.pop(), WOKEN)
        elif self._nursery is not None and (self.queue or self._connection.over):
            self.waking = True
            assert self._work is not None
            self._nursery.start_soon(self._work, self._connection, name="trifcgi request")

    def next(self, scope: trio.CancelScope, task: trio.lowlevel.Task) -> Exchange | None:
        """Take the next request: ``task`` is about to call its handler within ``scope``.

        ``None`` where none is queued, or so many were taken since the last :meth:`rested` that
        others have to have their turn.
        """
        queue = self.queue
        while queue and self._taken < _SLICE:
            self._taken += 1
            exchange = queue.pop(0)
            if exchange.reason is None:
                exchange.scope = scope
                exchange.task = task
                exchange.phase = _RUNNING
                self._connection.state.observers.request_started(exchange)
                return exchange
            ending.stopped(exchange)
        return None

    def rested(self) -> None:
        """A task of the connection has let others have their turn."""
        self._taken = 0

    def woken(self) -> None:
        """A task that was woken, or is new, looks at the queue."""
        self.waking = False
        self._taken = 0

    def step(self, exchange: Exchange) -> None:
        """The handler's next step begins."""
        self.driving = True
        self.stepping = exchange

    def first_step(self, exchange: Exchange, coroutine: Coroutine[Any, Any, Any]) -> None:
        """The first step of the handler's coroutine begins.

        Tools that walk trio's tasks do not see one that is stepped by hand: hence a note of it.
        """
        exchange.coroutine = coroutine
        self.driving = True
        self.stepping = exchange

    def stepped(self) -> None:
        """That step is over, however it ended."""
        self.driving = False
        self.stepping = None

    def returned(
        self, exchange: Exchange, app_status: Any, task: trio.lowlevel.Task, within: object
    ) -> int:
        """It was the last one, and the handler has returned.

        Returns:
            :data:`GO_ON`, :data:`SPENT` or :data:`LEFT_OPEN`: what became of the cancel scope
            that the task was in, whose :func:`innermost` was ``within``.
        """
        self.driving = False
        self.stepping = None
        ending.returned(exchange, app_status)
        if innermost(task) is not within:
            return LEFT_OPEN
        return SPENT if exchange.scope_spent else GO_ON

    def suspended(self) -> None:
        """The handler is about to wait: what it has sent leaves, and others have their turn."""
        connection = self._connection
        connection.flush()
        # A response that ended early may have been the last one of the connection.
        if self.queue or (connection.closing and not connection.exchanges and not connection.lost):
            self.wake()
