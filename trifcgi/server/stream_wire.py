"""A connection's bytes on any trio stream."""

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trifcgi.server.wire import LOW_WATER, POISON, READ, READ_BODY, Chunk, Wire

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.handover import Handover

__all__ = ["StreamWire"]

_BATCH: Final = 64 * 1024


class StreamWire(Wire):
    """Any trio stream: memory, TLS, SSH, or a socket where there is no epoll."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(sees_hangup=False, has_tasks=True)
        self._stream = stream
        self._may_read = trio.Event()
        self._may_read.set()
        self._wake = trio.Event()
        self._chunks: deque[Chunk] = deque()
        self._gone = False
        self._lingering = False
        self._idle = trio.Event()
        self._ended = trio.Event()

    def start(self, connection: "Connection", nursery: trio.Nursery | None) -> None:
        assert nursery is not None
        self._connection = connection
        nursery.start_soon(self._read, name="trifcgi stream reader")
        nursery.start_soon(self._write, name="trifcgi stream writer")

    def watch(self) -> None:
        pass  # a task reads, from the start

    async def _read(self) -> None:
        connection = self._connection
        error: OSError | trio.BrokenResourceError | None = None
        try:
            while True:
                await self._may_read.wait()
                data = await self._stream.receive_some(READ_BODY if connection.in_body else READ)
                if not data:
                    break
                if not self._lingering and not self._gone:
                    connection.bytes_received(bytes(data))
        except (OSError, trio.BrokenResourceError) as broken:
            error = broken
        except trio.ClosedResourceError:
            pass
        self._ended.set()
        if not self._lingering:
            connection.peer_gone(error)

    async def _write(self) -> None:
        try:
            while True:
                if not self._chunks:
                    self.blocked_since = None
                    self._idle.set()
                    self._wake = trio.Event()
                    await self._wake.wait()
                data = self._next_batch()
                self.blocked_since = self._connection.output_blocked()
                await self._stream.send_all(data)
                self.unsent = max(0, self.unsent - len(data))  # it may have been dropped
                if self.unsent <= LOW_WATER:
                    self._connection.output_drained()
        except trio.Cancelled:
            # Nobody sends from here on, and the write timeout sees nothing blocked: a handler that
            # shields itself must not wait for ever.
            self._gone = True
            self._drop_output()
            self._connection.output_drained()
            raise
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self._gone = True
            self._drop_output()
            if not self._lingering:
                self._connection.peer_gone(
                    None if isinstance(broken, trio.ClosedResourceError) else broken
                )

    def _next_batch(self) -> bytes:
        """A batch small enough that the write timeout sees progress."""
        batch: list[Chunk] = []
        size = 0
        while self._chunks and size < _BATCH:
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        return b"".join(batch)

    def flush(self) -> None:
        chunks = self._connection.take_output()
        if not chunks or self._gone:
            return
        self._queue(chunks)

    def flush_last(self) -> None:
        self.flush()

    def hand_over(self, handover: "Handover", multiplexed: bool) -> bool:
        return False  # not every stream has a descriptor

    def input_waiting(self) -> bool:
        return False  # a stream cannot be asked

    def _queue(self, chunks: list[Chunk]) -> None:
        self._chunks.extend(chunks)
        self.unsent += sum(map(len, chunks))
        if self._idle.is_set():
            self._idle = trio.Event()
        self._wake.set()

    def _drop_output(self) -> None:
        self._chunks.clear()
        self.unsent = 0
        self.blocked_since = None
        self._idle.set()

    def pause_reading(self) -> None:
        self._may_read = trio.Event()

    def resume_reading(self) -> None:
        self._may_read.set()

    def cut(self) -> None:
        # No stream has a reset to send: that it closes without END_REQUEST has to do.
        self._gone = True
        self._drop_output()

    async def drain(self) -> None:
        self.flush()
        while self.unsent:
            await self._idle.wait()

    async def poison(self) -> None:
        if not self._gone:
            self._queue([POISON])
            await self._idle.wait()

    def must_linger(self) -> bool:
        return (
            not self._gone
            and not self._ended.is_set()
            and isinstance(self._stream, trio.abc.HalfCloseableStream)
        )

    async def half_close(self) -> None:
        if not self.must_linger():
            return
        assert isinstance(self._stream, trio.abc.HalfCloseableStream)
        self._lingering = True
        self.resume_reading()
        try:
            await self._stream.send_eof()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await self._ended.wait()

    def close_now(self, poison: bool) -> bool:
        return False

    async def aclose(self) -> None:
        self._gone = True
        self._drop_output()
        await trio.aclose_forcefully(self._stream)
