"""The ``receive`` and ``send`` that an ASGI application is given: what waits in them."""

import contextlib
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.apps.disconnected import ClientDisconnected

if TYPE_CHECKING:
    from trifcgi.apps.asgi_exchange import Exchange, Message

__all__ = ["end", "finish", "receive", "send"]


async def receive(exchange: "Exchange") -> "Message":
    """The next body chunk; after the last, or a disconnect, ``http.disconnect``.

    To an application that sends an event stream the server's stop is a disconnect too,
    while ``send`` goes on taking what it has to say: it knows no other reason to end, and
    its client will connect again.

    What is there already is given without a checkpoint, even inside a cancelled scope:
    Starlette's ``is_disconnected()`` asks inside one.
    """
    if exchange.complete:
        return {"type": "http.disconnect"}
    request = exchange.request
    if request.aborted:
        return exchange.disconnect()
    if exchange.body_ended:
        return await _wait_for_end(exchange)
    stdin = request.stdin
    exchange.reading = True
    try:
        chunk = await stdin.receive_some()
    except trio.BrokenResourceError:
        return exchange.disconnect()
    except trio.ClosedResourceError:
        # Closed by send(), as the response has become complete meanwhile.
        return {"type": "http.disconnect"}
    finally:
        exchange.reading = False
    # A stream that knows that this was the last chunk saves the application a round,
    # and serves the many that look at one message only.
    ended = not chunk or stdin.ended
    exchange.body_ended = ended
    return {"type": "http.request", "body": chunk, "more_body": not ended}


async def _wait_for_end(exchange: "Exchange") -> "Message":
    """Return once the request is aborted or the response complete, or an event stream has
    to end.

    A nursery would lose the message: when an abort cancels the handler in the same
    moment, its exit raises Cancelled, where ``wait_aborted`` returns.
    """
    request = exchange.request
    signal = request.stop_signal
    streams_events = exchange.streams_events
    if streams_events and signal.is_set():
        exchange.told_to_end = True
        return {"type": "http.disconnect"}
    listening = exchange.listening
    if listening is None:
        listening = exchange.listening = []
    with trio.CancelScope() as scope:
        listening.append(scope)
        if streams_events:
            signal.add_scope(scope)
        try:
            await request.wait_aborted()
        finally:
            listening.remove(scope)
            signal.discard_scope(scope)
    if request.aborted:
        return exchange.disconnect()
    if not exchange.complete:
        exchange.told_to_end = True
    return {"type": "http.disconnect"}


async def send(exchange: "Exchange", message: Any) -> None:
    """Send a message: in pure Python, where a coroutine takes less than what is none, and
    wherever another task is sending, after whose message this one comes.

    Raises:
        ClientDisconnected, ResponseError: see :meth:`Exchange.take`.
    """
    if not exchange.sending:
        if not exchange.take(message):
            await finish(exchange)
        return
    if exchange.turn is None:
        exchange.turn = trio.lowlevel.ParkingLot()
    await exchange.turn.park()
    exchange.sending = False  # it was left set for this task, so that no other comes before
    try:
        if not exchange.take(message):
            await finish(exchange)
    finally:
        if not exchange.sending:
            _pass_on(exchange)


def _pass_on(exchange: "Exchange") -> None:
    """Let the task send that has waited for the longest time, if there is one."""
    exchange.sending = bool(exchange.turn)
    if exchange.turn:
        exchange.turn.unpark()


async def finish(exchange: "Exchange") -> None:
    """What a ``send`` has still to do when its message has been taken.

    Raises:
        ClientDisconnected: see :meth:`Exchange.take`.
    """
    if not exchange.complete:
        exchange.sending = True
        try:
            await exchange.request.stdout.send_all(exchange.pending)
            exchange.sent()
        except trio.BrokenResourceError as error:
            raise exchange.lost() from error
        finally:
            _pass_on(exchange)
    if exchange.complete and (exchange.listening or exchange.reading):
        await _release(exchange)


async def _release(exchange: "Exchange") -> None:
    """Let tasks that wait in ``receive`` go: the response is complete."""
    for scope in exchange.listening or ():
        scope.cancel(reason="the response is complete")
    if exchange.reading:
        # Nobody will want the rest of the body, and closing is what wakes its reader.
        await trio.aclose_forcefully(exchange.request.stdin)


async def end(exchange: "Exchange") -> None:
    """Send what the application has left out: the last, empty piece of the body."""
    with contextlib.suppress(ClientDisconnected):
        await send(exchange, {"type": "http.response.body"})
