"""The tasks of one connection: what is a coroutine between ``recv`` and ``send``.

A task takes a request from the queue, calls the handler and drives its coroutine itself, inside
the request's cancel scope. A handler that never suspends has then made no trio call at all.
While one is suspended, its task is inside it, and another task of the same nursery takes the
next request.
"""

import logging
import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.failure import divide
from trifcgi.observe.instrument import StopReason
from trifcgi.server import ending
from trifcgi.server.connection import Connection
from trifcgi.server.driver import Returned
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase
from trifcgi.server.turns import (
    BREATHE,
    FINISH,
    GO_ON,
    LEAVE,
    LEFT_OPEN,
    PARK,
    SUSPENDED,
    WOKEN,
    Beside,
    Place,
    Turns,
    innermost,
)
from trifcgi.server.wire import Wire

if TYPE_CHECKING:
    from trifcgi.server.plane import DataPlane

__all__ = ["serve"]

_log = logging.getLogger("trifcgi.server")

# Whether parked tasks use one message over and over; see _place.
REUSE_PARKING = True

# The half-close at the end: how long the peer may take to close its own half (seconds).
_LINGER = 2.0

# How long to try to hand a connection over while very many wait to be taken, and how often
# (seconds).
_HAND_OVER = 1.0
_TRY_AGAIN = 0.01


async def serve(plane: "DataPlane", wire: Wire, peer: str, *, multiplexed: bool = False) -> None:
    """Serve one connection until it ends; a cancel closes it at once.

    A task that is woken is entered through every coroutine on its way: there are two, this and
    :func:`_work`.
    """
    connection = Connection(plane, wire, peer)
    turns = connection.turns
    if multiplexed:
        connection.window.expect_others()
    plane.opened(connection)
    try:
        try:
            connection.arm(connection.idle_since + connection.timeouts.keep_alive)
            if wire.has_tasks:
                await _serve_stream(connection)
            else:
                parent = trio.lowlevel.current_task().parent_nursery
                assert parent is not None
                turns.open_lazily(parent, _work_beside)
                wire.start(connection, None)
                try:
                    await _work(connection, stays=True)
                except BaseException:
                    if turns.beside is not None:
                        turns.beside.scope.cancel(reason="the connection's own task has failed")
                    raise
                finally:
                    turns.close()
                    if turns.beside is not None:
                        await _join(turns.beside)  # noqa: ASYNC102 - bounded as that is
        finally:
            await _leave(connection)  # noqa: ASYNC102 - it shields and bounds what waits in it
    except* Exception as faults:  # noqa: BLE001 - logged, at one of the three borders
        _log_fault(connection, faults)
    finally:
        plane.closed(connection)


def _log_fault(connection: Connection, faults: BaseException) -> None:
    # A fault of the server's own, or of a stream: loud, and one connection's end.
    _log.error(
        "%s: the connection failed in the server itself; it is closed",
        connection.peer, exc_info=faults,
    )  # fmt: skip


async def _serve_stream(connection: Connection) -> None:
    """A stream's own tasks need a nursery, which serves for everything."""
    async with trio.open_nursery() as nursery:
        connection.nursery = nursery
        connection.wire.start(connection, nursery)
        connection.turns.open(nursery, _work_more)
        connection.settle()
        try:
            await _work(connection, stays=True)
        finally:
            connection.turns.close()


async def _work_more(connection: Connection) -> None:
    """A task that comes and goes."""
    await _work(connection)


async def _work_beside(connection: Connection) -> None:
    """The first task beside a socket connection's own: it keeps the nursery for all others.

    Most connections never need it, and a nursery takes as much time and memory as all the rest of
    a connection. It cannot be opened later in the connection's own task, which is inside a
    handler when another request comes.
    """
    turns = connection.turns
    beside = turns.beside
    assert beside is not None
    try:
        with beside.scope:
            async with trio.open_nursery() as nursery:
                connection.nursery = nursery
                turns.open(nursery, _work_more)
                try:
                    await _work(connection, stays=True)
                finally:
                    turns.shut()
    except* Exception as faults:  # noqa: BLE001 - logged, at one of the three borders
        _log_fault(connection, faults)
        connection.fail()
        connection.end_tasks()
    finally:
        connection.nursery = None
        beside.ended.set()


async def _join(beside: Beside) -> None:
    """Wait for what runs beside the connection's own task, as a nursery does at its end."""
    try:
        await beside.ended.wait()
    finally:
        beside.scope.cancel(reason="the connection's own task has ended")
        with trio.CancelScope(shield=True):  # bounded as its handlers' clean-up is
            await beside.ended.wait()


async def _leave(connection: Connection) -> None:
    """Let go of everything, whatever has ended the connection."""
    plane = connection.plane
    connection.nursery = None
    if connection.settled:
        plane.reaper.forget(connection)
    if plane.tracer is not None:
        plane.tracer.closed(connection)
    poison = connection.ends_in_nginx()
    for exchange in connection.exchanges.values():
        connection.turns.stop_aside(exchange)
        exchange.stop(StopReason.DRAINED)
        connection.forget(exchange, 1)
    for exchange in list(connection.trailing):
        connection.release(exchange)
    if not connection.wire.close_now(poison):
        with trio.move_on_after(1, shield=True):
            if poison:
                await connection.wire.poison()
            await connection.wire.aclose()
    connection.wake_blocked()  # a task that is not of this connection may wait, too


@types.coroutine
def _work(connection: Connection, stays: bool = False) -> Generator[Any, Any, None]:
    """Take requests from the queue and handle them, one after the other.

    A task that ``stays`` does so until the connection is over; the others leave when enough
    are parked.

    A cancel scope serves one request after the other until something has spent it: a
    cancel, or a handler that took hold of it. Making a scope costs more than the rest of
    this loop.

    A coroutine all the same, if one that yields: a task that is woken passes one less.
    """
    turns = connection.turns
    handler = connection.plane.call
    task = trio.lowlevel.current_task()
    place: Place | None = None
    depth = len(task.child_nurseries)
    # No checkpoint is certain in here: a request that need not wait takes none, and the turns
    # bound how many of them follow each other.
    while True:
        exchange: Exchange | None = None
        own = passing = None  # nor anything of what the last one raised
        what = GO_ON
        try:
            with trio.CancelScope() as scope:
                within = innermost(task)
                while True:
                    what = turns.handle(handler, scope, task, within, stays)
                    if what == PARK:
                        if place is None:
                            place = _place(turns, task)
                        turns.park(place)
                        if place.message is None:
                            yield from _wait(place)  # noqa: ASYNC101
                        else:
                            outcome = yield place.message  # noqa: ASYNC101
                            if outcome is not WOKEN:
                                outcome.unwrap()
                    elif what == SUSPENDED:
                        exchange = turns.current
                        assert exchange is not None
                        status = yield from _drive(connection, exchange)  # noqa: ASYNC101
                        what = turns.returned(exchange, status, task, within)
                        if what != GO_ON:
                            break
                        exchange = status = None  # nothing of the last request stays
                    elif what == BREATHE:
                        yield from trio.lowlevel.checkpoint()  # noqa: ASYNC101, ASYNC105
                        turns.rested()
                    elif what == FINISH:
                        yield from _finish(connection)  # noqa: ASYNC101
                        return
                    elif what == LEAVE:
                        return
                    else:
                        break
        except BaseException as error:  # noqa: ASYNC103 - what passes through is raised
            turns.stepped()
            exchange = exchange or turns.let_go()
            own, passing = divide(error)
            if what == LEFT_OPEN and exchange is not None:
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
                # Unless it ends, this very task sees what comes of it.
                turns.waking = passing is None
                ending.failed(exchange, own)
            if passing is error:
                raise
            if passing is not None:
                raise passing from None  # noqa: ASYNC104 - Cancelled is in it
        else:
            turns.stepped()  # a handler's first step may end in the scope that is left here
            exchange = exchange or turns.let_go()
            if exchange is not None and exchange.phase is not Phase.ENDED:
                turns.stopped(exchange)


@types.coroutine
def _drive(connection: Connection, exchange: Exchange) -> Generator[Any, Any, Any]:
    """Run a handler that has suspended to its end.

    The same as awaiting it, but in its own context, and whenever it suspends, what it has sent
    goes out first.
    """
    turns = connection.turns
    driver = turns.driver
    run = turns.run
    trap = turns.trap
    step: Any
    value: Any
    while True:
        turns.suspended()
        try:
            value = yield trap
        except BaseException as error:  # noqa: BLE001, ASYNC103 - thrown into the handler
            step, value = driver.throw, error
        else:
            step = driver.send
        turns.step(exchange)
        try:
            trap = run(step, value)
        finally:
            turns.stepped()
        if type(trap) is Returned:
            turns.keep(driver)
            return trap.status


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
        wire.flush()
        if wire.unsent:
            await wire.drain()
    if not connection.lost and (connection.must_cut or wire.must_linger()):
        with trio.move_on_after(_LINGER):  # noqa: ASYNC912 - nothing to wait for is fine
            if not connection.must_cut:
                await wire.half_close()
            elif connection.from_nginx:
                await wire.poison()
    connection.lost = True
    if connection.trailing:
        await wire.aclose()
    if connection.trailing:
        connection.drop_requests()
        # Their own tasks, or the next one that looks, end what is left.
        connection.finishing = False
        return
    connection.end_tasks()
    if wire.has_tasks and connection.nursery is not None:
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


# Making the message that parks a task costs more than parking it. It is the same each time, so
# each task makes it once, by trio's own ``wait_task_rescheduled``; that trio takes it more than
# once is not promised, and REUSE_PARKING goes back to the plain call.


async def _wait(place: Place) -> None:
    await trio.lowlevel.wait_task_rescheduled(place)


def _place(turns: Turns, task: trio.lowlevel.Task) -> Place:
    place = Place(turns, task)
    if REUSE_PARKING:
        waiting = trio.lowlevel.wait_task_rescheduled(place)  # noqa: ASYNC105 - stepped by hand
        try:
            place.message = waiting.send(None)
        finally:
            waiting.close()
    return place
