"""A request's streams, as its handler sees them, and all that a handler waits for.

What they do at once is the exchange's; here stand the coroutines around it.
"""

from typing import TYPE_CHECKING, Final, TypeVar

import trio

from trifcgi.request import RequestStream

if TYPE_CHECKING:
    from trifcgi.server.body import Body
    from trifcgi.server.exchange import Exchange

__all__ = [
    "FULL",
    "NOT_TAKEN",
    "SENT",
    "STRIDE",
    "ErrorStream",
    "Input",
    "close_stdout",
    "enter",
    "put_or_send",
    "send_all",
    "wait_aborted",
    "wait_for_room",
    "wait_to_send",
]

_Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")

STRIDE: Final = 256 * 1024
"""What is framed at most before a look whether to wait, so that a huge answer to a peer that
does not read stays unframed."""

# What became of a piece of the response that was put.
SENT: Final = 0  # it is queued
FULL: Final = 1  # it is queued, and there has to be room before the next
NOT_TAKEN: Final = 2  # nothing is done: it is long, or others have to have their turn first


async def wait_aborted(exchange: "Exchange") -> None:
    """See :meth:`trifcgi.Request.wait_aborted`."""
    if exchange.aborted_:
        return
    if exchange.abort_event is None:
        exchange.abort_event = trio.Event()
    await exchange.abort_event.wait()


async def _wait_for_input(exchange: "Exchange") -> None:
    """Wait until input, its end or an abort has arrived."""
    exchange.begin_reading(trio.lowlevel.current_task())

    def forget(_: object) -> trio.lowlevel.Abort:
        exchange.reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(forget)


async def wait_for_room(exchange: "Exchange") -> None:
    """Wait until output has drained below the low-water mark, or the request is aborted."""
    connection = exchange.connection
    began = connection.now()
    try:
        while not connection.has_room:
            exchange.check_writable()
            await connection.writers.park()
        exchange.check_writable()
    finally:
        exchange.blocked += connection.now() - began


async def _pause(exchange: "Exchange") -> None:
    """Let what is framed leave, and others run."""
    exchange.connection.flush()
    await trio.lowlevel.checkpoint()


class Input(RequestStream):
    """``Request.stdin`` and ``Request.data``: a body, with the window that bounds it."""

    __slots__ = ("_body", "_exchange")

    def __init__(self, exchange: "Exchange", body: "Body") -> None:
        self._exchange = exchange
        self._body = body

    @property
    def ended(self) -> bool:
        body = self._body
        return body.ended and not body.broken and not body

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, or ``b""`` after the last.

        Bytes that are here already are returned without a checkpoint, even inside a
        cancelled scope. A cancel while waiting loses nothing.

        Args:
            max_bytes: at most so many, 1 or more; ``None``: as many as came in one piece.

        Raises:
            trio.BrokenResourceError: the body is not whole, and never will be: the request was
                aborted, its connection is lost, or it was stopped and the rest thrown away.
            trio.BusyResourceError: another task waits here.
            trio.ClosedResourceError: the stream was closed.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        body = self._body
        while not body:
            if body.closed:
                raise trio.ClosedResourceError("this request stream is closed")
            if body.ended and not body.broken:
                return b""
            if self._exchange.aborted:
                raise trio.BrokenResourceError("the front end went away before the body ended")
            if body.broken:
                await trio.lowlevel.checkpoint()  # cancelled, unless the handler has a shield
                raise trio.BrokenResourceError("the request was stopped before its body was read")
            await _wait_for_input(self._exchange)
        data = body.take(max_bytes)
        self._exchange.body_taken()
        return data

    async def aclose(self) -> None:
        """Stop reading: what is here and what still comes is thrown away.

        A task that waits in :meth:`receive_some` gets ``trio.ClosedResourceError``.
        """
        self._body.close()
        self._exchange.input_arrived()
        self._exchange.body_taken()
        await trio.lowlevel.checkpoint()


async def put_or_send(exchange: "Exchange", data: _Buffer) -> None:
    """What ``Request.stdout.send_all`` does: in pure Python, where a coroutine takes less than
    what is none.
    """
    outcome = exchange.put(data) if type(data) is bytes else NOT_TAKEN
    if outcome == NOT_TAKEN:
        await send_all(exchange, data)
    elif outcome == FULL:
        await wait_for_room(exchange)


# What Python and trio say of one that is not awaited names what was called.
put_or_send.__name__ = "send_all"
put_or_send.__qualname__ = "stdout.send_all"


async def send_all(exchange: "Exchange", data: _Buffer) -> None:
    """Send what is long, may change, or comes after so much else that others are due."""
    if exchange.must_pause():
        await _pause(exchange)
    exchange.check_writable()
    if exchange.sending:
        raise trio.BusyResourceError("another task is sending a piece of this response")
    if exchange.head is None:
        data = exchange.take_head(bytes(data))
    if exchange.bodyless:
        return
    view = memoryview(data).cast("B")
    long = len(view) > STRIDE
    if long:
        exchange.sending = True  # what another task sent meanwhile would come in the middle
    try:
        for start in range(0, len(view), STRIDE):
            piece = view[start : start + STRIDE]
            # What is queued outlives this call, and only bytes cannot change meanwhile.
            exchange.write(piece if isinstance(data, bytes) else bytes(piece))
            if exchange.must_wait():
                await wait_for_room(exchange)
    finally:
        if long:
            exchange.sending = False


async def wait_to_send(exchange: "Exchange") -> None:
    """Return once a small piece would not have to wait."""
    exchange.check_writable()
    if exchange.must_wait():
        await wait_for_room(exchange)
    else:
        await trio.lowlevel.checkpoint()


async def close_stdout(exchange: "Exchange") -> None:
    """End the response, as far as it can be ended."""
    exchange.close_stdout()
    await trio.lowlevel.checkpoint()


async def enter(stream: _T) -> _T:
    """Give what an ``async with`` is to give."""
    return stream


class ErrorStream(trio.abc.SendStream):
    """``Request.stderr``: lines for the front end's log, whole ones in a record each."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange

    async def send_all(self, data: _Buffer) -> None:
        """Send text to the front end's error log.

        Held back until the response head has left, and a line that is not ended until it is
        (or the request is over).

        Raises:
            trio.BrokenResourceError: the request was aborted or its connection is lost.
        """
        exchange = self._exchange
        if exchange.must_pause():
            await _pause(exchange)
        exchange.check_writable()
        exchange.write_stderr(bytes(data))
        if exchange.must_wait():
            await wait_for_room(exchange)

    async def wait_send_all_might_not_block(self) -> None:
        """Return once a small ``send_all`` would not wait."""
        await wait_to_send(self._exchange)

    async def aclose(self) -> None:
        """A checkpoint and nothing else: the request's end closes the stream."""
        await trio.lowlevel.checkpoint()
