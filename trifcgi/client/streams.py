"""The streams of one exchange, as the front end holds them."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from trifcgi.cgi import end_of_head
from trifcgi.client.head import MAX_HEAD
from trifcgi.errors import Error, ResponseError

__all__ = ["InputStream", "OutputStream"]

CHUNK = 32 * 1024
"""Bytes that one exchange queues before others have their turn: half a full record, so
that a long upload cannot hold a short request up for long."""


class _Turn:
    """One user at a time, as trio's own streams demand."""

    __slots__ = ("_taken", "_what")

    def __init__(self, what: str) -> None:
        self._taken = False
        self._what = what

    @contextmanager
    def take(self) -> Iterator[None]:
        if self._taken:
            raise trio.BusyResourceError(f"another task is already {self._what} this stream")
        self._taken = True
        try:
            yield
        finally:
            self._taken = False


class OutputStream(trio.abc.ReceiveStream):
    """FCGI_STDOUT or FCGI_STDERR of one exchange, from the application server.

    Ends with ``b""`` once FCGI_END_REQUEST has come, so an end means that the response is
    whole. Raises :class:`~trifcgi.ConnectionLost` or :class:`~trifcgi.ProtocolError`,
    after what had arrived before, when the connection ended first.

    Attributes:
        dropped: bytes that were thrown away, because the stream was closed or had
            reached its limit.
    """

    def __init__(self, *, limit: int | None, resized: Callable[[], None]) -> None:
        """Make an empty stream.

        Args:
            limit: bytes kept unread; what comes past them is dropped. ``None``: no end,
                because whoever feeds it watches :attr:`size`.
            resized: called whenever :attr:`size` has changed.
        """
        self.dropped = 0
        self.size = 0
        self._chunks: deque[bytes] = deque()
        self._limit = limit
        self._resized = resized
        self._turn = _Turn("receiving from")
        self._changed = trio.Event()
        self._closed = False
        self._ended = False
        self._failure: Error | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return at least one byte, or ``b""`` at the end. A cancel loses nothing.

        Args:
            max_bytes: the most to return, 1 or more; ``None``: what there is in one piece.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be 1 or more")
        with self._turn.take():
            if self._chunks or self._ended:
                await trio.lowlevel.checkpoint()
            chunk = await self._next_chunk()
            if max_bytes is not None and len(chunk) > max_bytes:
                self._put_back(chunk[max_bytes:])
                chunk = chunk[:max_bytes]
            return chunk

    async def __anext__(self) -> bytes:
        if chunk := await self.receive_some():
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Drop what is unread and whatever comes."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As :meth:`aclose`, without a checkpoint."""
        self._closed = True
        self.dropped += self.size
        self.size = 0
        self._chunks.clear()
        self._wake()
        self._resized()

    async def receive_head(self) -> bytes:
        """Return the response head through its blank line; what follows stays unread.

        When it fails or is cancelled all bytes stay unread.

        Raises:
            ResponseError: the output ended, or went past ``MAX_HEAD`` bytes, without a head.
        """
        with self._turn.take():
            await trio.lowlevel.checkpoint()
            gathered = bytearray()
            searched = 0
            try:
                while (end := end_of_head(gathered, max(0, searched - 3))) < 0:
                    searched = len(gathered)
                    if searched > MAX_HEAD:
                        raise ResponseError(f"no response head within {MAX_HEAD} bytes")
                    chunk = await self._next_chunk()
                    if not chunk:
                        raise ResponseError(
                            f"the output ended after {searched} bytes, without a response head"
                        )
                    gathered += chunk
            except BaseException:
                self._put_back(bytes(gathered))
                raise
            self._put_back(bytes(gathered[end:]))
            return bytes(gathered[:end])

    async def _next_chunk(self) -> bytes:
        while not self._chunks:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._ended:
                return b""
            if self._failure is not None:
                # A copy, since several tasks may each add their traceback to theirs.
                raise copy.copy(self._failure) from self._failure
            await self._changed.wait()
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        self._resized()
        return chunk

    def _put_back(self, data: bytes) -> None:
        if data and not self._closed:
            self._chunks.appendleft(data)
            self.size += len(data)
            self._resized()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def feed(self, data: bytes) -> None:
        """Data has arrived."""
        room = len(data) if self._limit is None else self._limit - self.size
        if self._closed:
            room = 0
        self.dropped += max(0, len(data) - room)
        data = data[:room]
        if data:
            self._chunks.append(data)
            self.size += len(data)
            self._resized()
            self._wake()

    def feed_end(self, failure: Error | None = None) -> None:
        """Nothing more will arrive: the request ended, or ``failure`` cut it."""
        if failure is None:
            self._ended = True
        else:
            self._failure = failure
        self._wake()


class Outlet(Protocol):
    """What an :class:`InputStream` needs of its exchange."""

    async def wait_for_room(self) -> None:
        """Wait while the connection has too much unsent."""

    def check_sendable(self) -> None:
        """Raise when the exchange is over."""


class InputStream(trio.abc.SendStream):
    """FCGI_STDIN or FCGI_DATA of one exchange, to the application server.

    ``send_all`` raises ``trio.BrokenResourceError`` once the request has ended (an early
    answer, §6.2), and :class:`~trifcgi.ConnectionLost` when its connection has. A cancelled
    ``send_all`` leaves whole records on the wire, never part of one, but not all data.
    ``aclose`` sends the empty record that ends the stream.
    """

    def __init__(
        self, outlet: Outlet, send: Callable[[bytes], None], end: Callable[[], None]
    ) -> None:
        self._outlet = outlet
        self._send = send
        self._end = end
        self._turn = _Turn("sending to")
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue the data for the wire, waiting whenever too much is unsent."""
        with self._turn.take():
            await trio.lowlevel.checkpoint()
            self._check()
            # Queued slices outlive this call, and a caller may reuse its buffer after it.
            whole = data if isinstance(data, bytes) else bytes(data)
            for start in range(0, len(whole), CHUNK):
                await self._outlet.wait_for_room()
                self._check()
                self._send(whole[start : start + CHUNK])

    async def wait_send_all_might_not_block(self) -> None:
        """Return when the connection has room."""
        with self._turn.take():
            await trio.lowlevel.checkpoint()
            self._check()
            await self._outlet.wait_for_room()

    async def aclose(self) -> None:
        """End the stream: the application reads ``b""`` after what was sent."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As :meth:`aclose`, without a checkpoint."""
        if not self.closed:
            self.closed = True
            self._end()

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this stream has ended")
        self._outlet.check_sendable()
