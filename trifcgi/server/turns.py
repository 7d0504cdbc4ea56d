"""Whose turn it is on a connection: the requests that wait for a task, and the tasks that wait for
requests. Compiled; the tasks themselves stand in :mod:`trifcgi.server.tasks`.
"""

import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

import trio

from trifcgi.server import ending
from trifcgi.server.body import NO_BODY
from trifcgi.server.driver import RETURNED, Returned, awaiting, drive
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase

if TYPE_CHECKING:
    from mypy_extensions import i64

    from trifcgi.server.connection import Connection

__all__ = [
    "BREATHE",
    "FINISH",
    "GO_ON",
    "LEAVE",
    "LEFT_OPEN",
    "PARK",
    "SPENT",
    "SUSPENDED",
    "WOKEN",
    "Beside",
    "Place",
    "Turns",
    "innermost",
]

_log: Final = logging.getLogger("trifcgi.server")

# What is asked of other modules with each request: found once.
_awaiting: Final = awaiting
_copy_context: Final = copy_context
_coroutine_type: Final[Any] = CoroutineType
_reschedule: Final = trio.lowlevel.reschedule
_returned: Final[Any] = Returned
_nothing_returned: Final[Any] = RETURNED

# Drivers that wait for their next handler, at most.
_MOST_DRIVERS: Final = 64

_QUEUED: Final = Phase.QUEUED
_RUNNING: Final = Phase.RUNNING
_RESPONDED: Final = Phase.RESPONDED

# See innermost().
_INNERMOST: Final = "_cancel_status"


# What became of the scope that a handler ran in.
GO_ON: Final = 0  # it serves the next request, too
SPENT: Final = 1  # it was cancelled, or the handler took hold of it
LEFT_OPEN: Final = 2  # the handler has opened another in it and not left that

# What else a task has to do next.
SUSPENDED: Final = 3  # drive the handler that has suspended
PARK: Final = 4  # wait for a request
BREATHE: Final = 5  # let others have their turn, and look again
FINISH: Final = 6  # end the connection
LEAVE: Final = 7  # return: others are enough

# Requests that are taken one after the other before other tasks get their turn.
_SLICE: Final = 64

# Tasks that a connection keeps parked between bursts of multiplexed requests.
_SPARE_TASKS: Final = 4


def innermost(task: trio.lowlevel.Task) -> object:
    """What tells whether a task is inside the same cancel scope as before.

    trio has no public word for it. Without this one a scope that a handler leaves open would
    hold the connection's next requests, and its deadline would end the server.
    """
    return getattr(task, _INNERMOST, None)


class _Woken:
    """What a parked task is woken with: an outcome that can be used again, unlike trio's own."""

    def unwrap(self) -> None:
        """Nothing is handed over."""


WOKEN: Final[Any] = _Woken()


class Place:
    """Where one task waits for its turn: the abort function of its wait.

    Attributes:
        task: who waits here.
        message: what makes trio park it; see :mod:`trifcgi.server.tasks`.
    """

    __slots__ = ("_turns", "message", "task")

    def __init__(self, turns: "Turns", task: trio.lowlevel.Task) -> None:
        self._turns = turns
        self.task = task
        self.message: Any = None

    def __call__(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        """The parked task is cancelled."""
        self._turns.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED


class Beside:
    """What runs beside a connection's own task, on a socket.

    Attributes:
        scope: all of it.
        ended: whether it has.
    """

    __slots__ = ("ended", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()


def _is_without_body(exchange: Exchange) -> bool:
    return not exchange.awaits_input and not exchange.unread


def new_driver() -> Any:
    """A driver that waits for its first handler."""
    driver = drive()
    driver.send(None)
    return driver


class Turns:
    """The queue of a connection's requests and its parked tasks.

    Attributes:
        queue: requests whose params are whole, in the order in which they came.
        waking: whether a task is about to look at the queue: it was woken, or begins, or its
            handler has just returned.
        ended: whether all of them have to leave.
        beside: what runs beside the connection's own task, once anything did.
        driving: whether a handler is being stepped at this very moment. What it sends then is
            flushed when it suspends or returns.
        stepping: whose.
        current: the request that :meth:`handle` was at when it returned or raised; ``None`` when
            it was at none.
        driver: what steps the handler that has just suspended.
        run: calls a function in that one's context.
        trap: what it waits for.
    """

    __slots__ = (
        "_begin",
        "_connection",
        "_nursery",
        "_others",
        "_parent",
        "_parked",
        "_taken",
        "beside",
        "current",
        "driver",
        "driving",
        "ended",
        "queue",
        "run",
        "stepping",
        "trap",
        "waking",
    )

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._nursery: trio.Nursery | None = None
        self._parent: trio.Nursery | None = None
        self._begin: Callable[[Connection], Coroutine[Any, Any, None]] | None = None
        self.beside: Beside | None = None
        # Mostly short, and an empty deque takes 600 bytes.
        self.queue: list[Exchange] = []
        self._parked: Place | None = None
        self._others: list[Place] | None = None
        self._taken: i64 = 0
        self.waking = True
        self.ended = False
        self.driving = False
        self.stepping: Exchange | None = None
        self.current: Exchange | None = None
        self.driver: Any = None
        self.run: Any = None
        self.trap: Any = None

    def open(
        self,
        nursery: trio.Nursery,
        begin: "Callable[[Connection], Coroutine[Any, Any, None]]",
    ) -> None:
        """From now on further tasks ``begin`` in ``nursery``."""
        self._nursery = nursery
        self._begin = begin

    def open_lazily(
        self,
        parent: trio.Nursery,
        begin: "Callable[[Connection], Coroutine[Any, Any, None]]",
    ) -> None:
        """The first of further tasks will ``begin`` in ``parent``, and open a nursery for the
        others.
        """
        self._parent = parent
        self._begin = begin

    def shut(self) -> None:
        """From now on there are no further tasks."""
        self._nursery = self._parent = self._begin = None

    def close(self) -> None:
        """The connection's own task is about to end."""
        self.shut()
        self.queue.clear()

    def add(self, exchange: Exchange) -> None:
        """Queue a request whose params are whole; :meth:`wake` comes after the batch."""
        exchange.phase = _QUEUED
        if not self.ended:
            self.queue.append(exchange)

    def offer(self) -> None:
        """Let the handler take requests without a task, those that have come whole."""
        state = self._connection.state
        taskless = state.taskless
        queue = self.queue
        offered = list(queue)
        queue.clear()
        for exchange in offered:
            if (
                exchange.phase is _QUEUED  # and not one that has asked for a task
                and exchange.reason is None
                and (exchange.body is NO_BODY or _is_without_body(exchange))
            ):
                exchange.phase = _RUNNING
                try:
                    begun = taskless.begin(exchange)
                except Exception:  # noqa: BLE001 - logged; the handler itself fails for all to see
                    _log.exception("a request could not be begun without a task")
                    begun = False
                if begun:
                    exchange.reading = None
                    state.observers.request_started(exchange)
                    continue
                exchange.phase = _QUEUED
            queue.append(exchange)
        if len(queue) < len(offered) and not state.reading:
            taskless.begun()

    def recall(self, exchange: Exchange) -> None:
        """A request that is served without a task is cancelled."""
        self.remove(exchange)  # it may have asked for one
        self.stop_aside(exchange)
        ending.stopped(exchange)
        if not self.driving:
            self._connection.flush()

    def stop_aside(self, exchange: Exchange) -> None:
        """Whatever the handler does for it without a task comes to nothing."""
        aside = exchange.aside
        if aside is not None:
            exchange.aside = None
            aside.leave()

    def remove(self, exchange: Exchange) -> None:
        """Take a request back out, if it is still queued."""
        if exchange in self.queue:
            self.queue.remove(exchange)

    def fail(self) -> None:
        """The server's own code has failed here."""
        self._connection.fail()

    def wake(self) -> None:
        """See to it that one task looks at the queue, or at the end of the connection.

        Only one: it wakes the next if its handler suspends while more is queued.
        """
        if self.waking or self.driving or self.ended:
            return
        place = self._parked
        if place is not None:
            self.waking = True
            self._parked = self._others.pop() if self._others else None
            _reschedule(place.task, WOKEN)
        elif self._begin is not None and (self.queue or self._connection.over):
            nursery = self._nursery
            if nursery is None and self.beside is None:
                nursery = self._parent
                self.beside = Beside()
            if nursery is not None:
                self.waking = True
                nursery.start_soon(self._begin, self._connection, name="trifcgi request")

    def end(self) -> None:
        """The connection is over: no request has its turn any more, and no task waits for one."""
        self.ended = True
        self.queue.clear()
        while self._parked is not None:
            place = self._parked
            self._parked = self._others.pop() if self._others else None
            _reschedule(place.task, WOKEN)

    def spare(self) -> int:
        """Number of tasks that wait."""
        if self._parked is None:
            return 0
        return 1 if self._others is None else 1 + len(self._others)

    def park(self, place: Place) -> None:
        """A task is about to wait."""
        self.waking = False
        self._taken = 0
        connection = self._connection
        if not connection.settled:
            connection.settle()
        if self._parked is not None:
            if self._others is None:
                self._others = []
            self._others.append(self._parked)
        self._parked = place

    def leave(self, place: Place) -> None:
        """A task waits no more, without having been woken."""
        if self._parked is place:
            self._parked = self._others.pop() if self._others else None
        elif self._others is not None:
            self._others.remove(place)

    def handle(
        self,
        handler: Any,
        scope: trio.CancelScope,
        task: trio.lowlevel.Task,
        within: object,
        stays: bool,
    ) -> int:
        """Take requests and call their handler, until one suspends or there are none; then flush.

        Args:
            handler: what answers them.
            scope: the cancel scope that ``task`` is in.
            task: the one that runs.
            within: its :func:`innermost`.
            stays: whether it is to stay until the connection is over.

        Returns:
            What the task is to do next, and above all: :data:`PARK`. :data:`SPENT` and
            :data:`LEFT_OPEN` tell that the scope can serve no longer.

        Raises:
            BaseException: what the handler of :attr:`current` has raised.
        """
        state = self._connection.state
        drivers = state.drivers
        queue = self.queue
        while True:
            if not queue or self._taken >= _SLICE:
                self.current = None
                return self._after_all(stays)
            self._taken += 1
            exchange = queue.pop(0)
            # One that was begun without a task and is stopped is no longer here.
            if exchange.reason is not None and exchange.aside is None:
                self.stopped(exchange)
                continue
            self.current = exchange
            # This task looks at the queue again when the handler has returned.
            self.waking = False
            exchange.scope = scope
            exchange.task = task
            if exchange.phase is _QUEUED:
                exchange.phase = _RUNNING
                if state.observers.started:
                    state.observers.request_started(exchange)
            coroutine = handler(exchange)
            if type(coroutine) is not _coroutine_type:
                coroutine = _awaiting(coroutine)
            # Of its own, so that context variables that the handler sets do not reach the
            # connection's next request.
            run = _copy_context().run
            driver = drivers.pop() if drivers else new_driver()
            # Tools that walk trio's tasks do not see a coroutine that is stepped by hand: hence
            # a note of it.
            exchange.coroutine = coroutine
            self.driving = True
            self.stepping = exchange
            trap = run(driver.send, coroutine)
            if trap is _nothing_returned:
                app_status = None
            elif type(trap) is _returned:
                app_status = trap.status
            else:
                self.stepped()
                exchange.reading = None  # read by now, and the wait may be long
                self.driver = driver
                self.run = run
                self.trap = trap
                return SUSPENDED
            if len(drivers) < _MOST_DRIVERS:
                drivers.append(driver)
            coroutine = trap = None
            # As returned() does it, without the call.
            self.driving = False
            self.stepping = None
            self.waking = True
            if exchange.phase is _RESPONDED:
                self._connection.release(exchange)
            else:
                ending.returned(exchange, app_status)
            if getattr(task, _INNERMOST, None) is not within:
                return LEFT_OPEN
            if exchange.scope_spent:
                return SPENT

    def keep(self, driver: Any) -> None:
        """A driver's handler has returned: it can drive another."""
        drivers = self._connection.state.drivers
        if len(drivers) < _MOST_DRIVERS:
            drivers.append(driver)

    def _after_all(self, stays: bool) -> int:
        """No further request is to be taken now: send what there is, and say what comes next."""
        connection = self._connection
        connection.flush()
        if self.queue:
            what = BREATHE
        elif (connection.closing or connection.lost or self.ended) and connection.over:
            what = FINISH
        elif not stays and self.spare() >= _SPARE_TASKS:
            what = LEAVE
        else:
            return PARK
        # What it has found, if anything, is left to others for a moment.
        self.waking = False
        return what

    def let_go(self) -> Exchange | None:
        """Give :attr:`current` and forget it."""
        exchange = self.current
        self.current = None
        return exchange

    def stopped(self, exchange: Exchange) -> None:
        """A request was stopped, and a task looks what comes next."""
        self.waking = True
        ending.stopped(exchange)

    def rested(self) -> None:
        """A task of the connection has let others have their turn."""
        self._taken = 0

    def step(self, exchange: Exchange) -> None:
        """The handler's next step begins."""
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
        self.waking = True
        if exchange.phase is _RESPONDED:
            self._connection.release(exchange)
        else:
            ending.returned(exchange, app_status)
        if getattr(task, _INNERMOST, None) is not within:
            return LEFT_OPEN
        return SPENT if exchange.scope_spent else GO_ON

    def suspended(self) -> None:
        """The handler is about to wait: what it has sent leaves, and others have their turn."""
        self.current = self.driver = self.run = self.trap = None
        connection = self._connection
        if not connection.settled:
            connection.settle()
        connection.flush()
        # A response that ended early may have been the last one of the connection.
        if self.queue or (connection.closing and not connection.exchanges and not connection.lost):
            self.wake()
