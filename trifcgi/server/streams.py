"""The four streams of a request, as its handler sees them."""

from typing import TYPE_CHECKING

import trio

from trifcgi.cgi import complete_head, end_of_head, is_bodyless
from trifcgi.errors import ResponseError
from trifcgi.request import RequestStream, ResponseStream

if TYPE_CHECKING:
    from trifcgi.server.body import Body
    from trifcgi.server.exchange import Exchange

__all__ = ["ErrorStream", "Input", "Stdout"]

_Buffer = bytes | bytearray | memoryview

# A head that has not ended by then is not one: the largest that any front end takes is below
# 66,000 bytes (Caddy 2.6).
_MAX_HEAD = 128 * 1024

# What one pass of send_all frames at most before it looks whether it must wait, so that a
# huge answer to a peer that does not read stays unframed.
_STRIDE = 256 * 1024


class Input(RequestStream):
    """``Request.stdin`` and ``Request.data``: a body, with the window that bounds it."""

    __slots__ = ("_body", "_exchange")

    def __init__(self, exchange: "Exchange", body: "Body") -> None:
        self._exchange = exchange
        self._body = body

    @property
    def ended(self) -> bool:
        return self._body.ended and not self._body

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, or ``b""`` after the last.

        Bytes that are here already are returned without a checkpoint, even inside a
        cancelled scope. A cancel while waiting loses nothing.

        Args:
            max_bytes: at most so many, 1 or more; ``None``: as many as came in one piece.

        Raises:
            trio.BrokenResourceError: the request was aborted or its connection is lost, and
                the body is not whole.
            trio.BusyResourceError: another task waits here.
            trio.ClosedResourceError: the stream was closed.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        body = self._body
        while not body:
            if body.closed:
                raise trio.ClosedResourceError("this request stream is closed")
            if body.ended:
                return b""
            if self._exchange.aborted:
                raise trio.BrokenResourceError("the front end went away before the body ended")
            await self._exchange.wait_for_input()
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


class Stdout(ResponseStream):
    """``Request.stdout``; see :class:`trifcgi.request.ResponseStream`."""

    __slots__ = ("_exchange", "_held")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._held: bytearray | None = None

    @property
    def begun(self) -> bool:
        return self._exchange.head is not None

    @property
    def held(self) -> int:
        """Bytes of a head that has not ended."""
        return 0 if self._held is None else len(self._held)

    def send_head(self, head: bytes, *, bodyless: bool = False) -> None:
        exchange = self._exchange
        if exchange.head is not None or self._held:
            raise ResponseError("the response head has been sent already")
        exchange.check_writable()
        exchange.begin_response(head, bodyless)

    async def send_all(self, data: _Buffer) -> None:
        """Send response bytes; wait while too much is unsent.

        A cancel while waiting leaves a whole number of records on the wire: other requests
        on the connection do not notice.

        Raises:
            ResponseError: what came before the first blank line is no response head.
            trio.BrokenResourceError: the request was aborted or its connection is lost.
            trio.ClosedResourceError: the stream was closed.
        """
        exchange = self._exchange
        if exchange.must_pause():
            await exchange.pause()
        exchange.check_writable()
        if exchange.head is None:
            data = self._take_head(data)
        if exchange.bodyless or not data:
            return
        size = len(data) if isinstance(data, (bytes, bytearray)) else data.nbytes
        if size <= _STRIDE:
            exchange.write(data if isinstance(data, bytes) else bytes(data))
            if exchange.must_wait():
                await exchange.wait_writable()
            return
        view = memoryview(data).cast("B")
        for start in range(0, size, _STRIDE):
            piece = view[start : start + _STRIDE]
            # What is queued outlives this call, and only bytes cannot change meanwhile.
            exchange.write(piece if isinstance(data, bytes) else bytes(piece))
            if exchange.must_wait():
                await exchange.wait_writable()

    def _take_head(self, data: _Buffer) -> bytes:
        """Hold ``data`` back until the head is whole; return the body bytes behind it."""
        held = self._held
        if held is None:
            whole: bytes | bytearray = bytes(data)
            start = 0
        else:
            start = max(0, len(held) - 3)
            held += data
            whole = held
        end = end_of_head(whole, start)
        if end < 0:
            if len(whole) > _MAX_HEAD:
                raise ResponseError(
                    f"no blank line ends the response head within {_MAX_HEAD} bytes"
                )
            if held is None:
                self._held = bytearray(whole)
            return b""
        self._held = None
        head, status = complete_head(bytes(whole[:end]))
        self._exchange.begin_response(head, is_bodyless(self._exchange.method, status), status)
        return bytes(whole[end:])

    async def wait_send_all_might_not_block(self) -> None:
        """Return once a small ``send_all`` would not wait."""
        exchange = self._exchange
        exchange.check_writable()
        if exchange.must_wait():
            await exchange.wait_writable()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """End the response. The handler may go on; what it sends from here on is refused.

        For a responder whose head is not whole this changes nothing: the server's own
        answer is still to come.
        """
        self._exchange.close_stdout()
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        self._exchange.end_early()


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
            await exchange.pause()
        exchange.check_writable()
        exchange.write_stderr(bytes(data))
        if exchange.must_wait():
            await exchange.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Return once a small ``send_all`` would not wait."""
        await self._exchange.stdout.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """A checkpoint and nothing else: the request's end closes the stream."""
        await trio.lowlevel.checkpoint()
