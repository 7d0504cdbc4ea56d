"""The tasks of one connection: what is a coroutine between ``recv`` and ``send``.

A task takes a request from the queue, calls the handler and drives its coroutine itself, inside
the request's cancel scope. A handler that never suspends has then made no trio call at all.
While one is suspended, its task is inside it, and another task of the same nursery takes the
next request.
"""

import logging
import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.observe.instrument import StopReason
from trifcgi.server import ending
from trifcgi.server.connection import Connection
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase
from trifcgi.server.turns import GO_ON, LEFT_OPEN, WOKEN, innermost
from trifcgi.server.wire import Wire

if TYPE_CHECKING:
    from trifcgi.server.plane import DataPlane

__all__ = ["serve"]

_log = logging.getLogger("trifcgi.server")

# Tasks that a connection keeps parked between bursts of multiplexed requests.
_SPARE_TASKS = 4

# Whether parked tasks use one message over and over; see _message.
REUSE_PARKING = True

# The half-close at the end: how long the peer may take to close its own half (seconds).
_LINGER = 2.0

# How long to try to hand a connection over while very many wait to be taken, and how often
# (seconds).
_HAND_OVER = 1.0
_TRY_AGAIN = 0.01


async def serve(plane: "DataPlane", wire: Wire, peer: str, *, multiplexed: bool = False) -> None:
    """Serve one connection until it ends; a cancel closes it at once.

    All in one function, and not one for each concern: a task that is woken is entered through
    every coroutine on its way.
    """
    connection = Connection(plane, wire, peer)
    if multiplexed:
        connection.window.expect_others()
    plane.opened(connection)
    try:
        try:
            connection.arm(connection.idle_since + connection.timeouts.keep_alive)
            async with trio.open_nursery() as nursery:
                connection.nursery = nursery
                wire.start(connection, nursery)
                connection.turns.open(nursery, _work)
                try:
                    await _work(connection, stays=True)
                finally:
                    connection.turns.close()
        finally:
            await _leave(connection)  # noqa: ASYNC102 - it shields and bounds what waits in it
    except* Exception as faults:  # noqa: BLE001 - logged, at one of the three borders
        # A fault of the server's own, or of a stream: loud, and one connection's end.
        _log.error(
            "%s: the connection failed in the server itself; it is closed",
            peer, exc_info=faults,
        )  # fmt: skip
    finally:
        plane.closed(connection)


async def _leave(connection: Connection) -> None:
    """Let go of everything, whatever has ended the connection."""
    plane = connection.plane
    connection.nursery = None
    plane.reaper.forget(connection)
    if plane.tracer is not None:
        plane.tracer.closed(connection)
    poison = connection.ends_in_nginx()
    for exchange in list(connection.exchanges.values()):
        exchange.stop(StopReason.DRAINED)
        connection.forget(exchange, 1)
    for exchange in list(connection.trailing):
        connection.release(exchange)
    with trio.move_on_after(1, shield=True):
        if poison:
            await connection.wire.poison()
        await connection.wire.aclose()
    connection.wake_blocked()  # a task that is not of this connection may wait, too


async def _work(connection: Connection, stays: bool = False) -> None:
    """Take requests from the queue and handle them, one after the other.

    The task that ``stays`` keeps the connection's nursery open until the connection is
    over; the others leave when enough are parked.

    A cancel scope serves one request after the other until something has spent it: a
    cancel, or a handler that took hold of it. Making a scope costs more than the rest of
    this loop.
    """
    turns = connection.turns
    handler = connection.plane.handler
    task = trio.lowlevel.current_task()
    parked = turns.parked
    message = _message(partial(_leave_parked, parked, task)) if REUSE_PARKING else None
    depth = len(task.child_nurseries)
    turns.woken()
    # No checkpoint is certain in here: a request that need not wait takes none, and the turns
    # bound how many of them follow each other.
    while True:  # noqa: ASYNC913
        exchange: Exchange | None = None
        scope_is = GO_ON
        try:
            with trio.CancelScope() as scope:  # noqa: ASYNC912
                within = innermost(task)
                while scope_is == GO_ON:
                    exchange = turns.next(scope, task)
                    if exchange is not None:
                        coroutine = handler(exchange)
                        if type(coroutine) is not CoroutineType:
                            coroutine = _awaiting(coroutine)
                        # Of its own, so that context variables that the handler sets do not
                        # reach the connection's next request.
                        run = copy_context().run
                        turns.first_step(exchange, coroutine)
                        try:
                            trap = run(coroutine.send, None)
                        except StopIteration as done:
                            app_status = done.value
                        else:
                            turns.stepped()
                            app_status = await _drive(connection, exchange, coroutine, run, trap)
                        scope_is = turns.returned(exchange, app_status, task, within)
                        continue
                    connection.flush()
                    if turns.queue:
                        await trio.lowlevel.checkpoint()
                        turns.rested()
                    elif connection.over:
                        await _finish(connection)
                        return
                    elif not stays and len(parked) >= _SPARE_TASKS:
                        return
                    else:
                        parked.append(task)
                        if message is None:
                            await _wait(partial(_leave_parked, parked, task))
                        else:
                            outcome = await _send(message)
                            if outcome is not WOKEN:
                                outcome.unwrap()
                        turns.woken()
        except BaseException as error:  # noqa: ASYNC103 - what passes through is raised
            turns.stepped()
            own, passing = _divide(error)
            if scope_is == LEFT_OPEN and exchange is not None:
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
def _drive(
    connection: Connection,
    exchange: Exchange,
    coroutine: Coroutine[Any, Any, Any],
    run: Callable[..., Any],
    trap: Any,
) -> Generator[Any, Any, Any]:
    """Run a handler that has suspended to its end.

    The same as awaiting it, but in its own context, and whenever it suspends, what it has sent
    goes out first.
    """
    turns = connection.turns
    step: Any = coroutine.send
    value: Any
    while True:
        turns.suspended()
        try:
            value = yield trap
        except BaseException as error:  # noqa: BLE001, ASYNC103 - thrown into the handler
            step, value = coroutine.throw, error
        else:
            step = coroutine.send
        turns.step(exchange)
        try:
            trap = run(step, value)
        except StopIteration as done:
            return done.value
        finally:
            turns.stepped()


async def _finish(connection: Connection) -> None:
    """Close with everything sent, and end the connection's tasks.

    A handler that goes on after its response is waited for: only the peer is gone.
    """
    if connection.finishing:
        return
    connection.finishing = True
    wire = connection.wire
    if connection.handing_over:
        await _pass_on(connection)
    if not connection.lost:
        await wire.drain()
    if not connection.lost:
        with trio.move_on_after(_LINGER):  # noqa: ASYNC912 - nothing to wait for is fine
            if not connection.must_cut:
                await wire.half_close()
            elif connection.from_nginx:
                await wire.poison()
    connection.lost = True
    if connection.trailing:
        await wire.aclose()
    if connection.trailing:
        # Their own tasks, or the next one that looks, end what is left.
        connection.finishing = False
    elif connection.nursery is not None:
        connection.nursery.cancel_scope.cancel(reason="the connection has ended")


async def _pass_on(connection: Connection) -> None:
    """Hand the connection over to another process."""
    wire = connection.wire
    # What comes from now on is the other's to read.
    wire.pause_reading()
    await wire.drain()
    handover = connection.plane.handover
    assert handover is not None
    with trio.move_on_after(_HAND_OVER):  # noqa: ASYNC912 - it mostly works at once
        while not connection.lost:
            if wire.hand_over(handover, connection.window.multiplexed):
                connection.lost = True
            else:
                await trio.sleep(_TRY_AGAIN)


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


# Making the message that parks a task costs more than parking it. It is the same each time, so
# each task makes it once, by trio's own ``wait_task_rescheduled``; that trio takes it more than
# once is not promised, and REUSE_PARKING goes back to the plain call.


def _leave_parked(
    parked: list[trio.lowlevel.Task], task: trio.lowlevel.Task, _: object
) -> trio.lowlevel.Abort:
    """A parked task is cancelled."""
    parked.remove(task)
    return trio.lowlevel.Abort.SUCCEEDED


async def _wait(abort: Callable[[Any], trio.lowlevel.Abort]) -> None:
    await trio.lowlevel.wait_task_rescheduled(abort)


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
