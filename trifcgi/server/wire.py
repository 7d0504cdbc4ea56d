"""How a connection's bytes come and go: the one seam between sockets and other streams.

:class:`SocketWire` works on a raw non-blocking socket that the poller watches.
:class:`StreamWire` works on any ``trio.abc.Stream`` with a task to read and one to write.
The connection above them is the same code.
"""

import abc
import contextlib
import select
import socket
import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.handover import Handover
    from trifcgi.server.poller import Poller

__all__ = ["HIGH_WATER", "LOW_WATER", "SocketWire", "StreamWire", "Wire"]

HIGH_WATER = 64 * 1024
"""Unsent bytes of a connection past which a handler that sends has to wait."""

LOW_WATER = 16 * 1024
"""Unsent bytes at which those that wait go on."""

_READ = 64 * 1024
_READ_BODY = 256 * 1024
_JOIN = 16 * 1024  # below it one join and send costs less than sendmsg's list of buffers
_IOV_MAX = 1024

# A record of a version that does not exist. It makes nginx give up a response that has no
# length, and on a Unix socket, which has no reset, nothing else does. For nginx only: HAProxy
# 2.6.12 may die of it, and every other front end either sees a cut in the missing END_REQUEST
# or takes any end for the end.
_POISON = b"\0" * 8

_IN = getattr(select, "EPOLLIN", 1)
_OUT = getattr(select, "EPOLLOUT", 4)
_ERR = getattr(select, "EPOLLERR", 8)
_HUP = getattr(select, "EPOLLHUP", 16)
_RDHUP = getattr(select, "EPOLLRDHUP", 0x2000)
_GONE = _RDHUP | _HUP | _ERR

_CORK = getattr(socket, "TCP_CORK", socket.TCP_NODELAY)  # there is epoll only on Linux

Chunk = bytes | memoryview


class Wire(abc.ABC):
    """The bytes' side of a connection.

    Attributes:
        sees_hangup: whether a peer that goes away is noticed while nothing is read.
        unsent: bytes handed over by the protocol that the peer's side has not taken.
        blocked_since: when output stopped moving (trio clock), or ``None``.
    """

    sees_hangup: bool
    unsent: int
    blocked_since: float | None

    @abc.abstractmethod
    def start(self, connection: "Connection", nursery: trio.Nursery) -> None:
        """Begin to read for ``connection``; tasks, where there are any, go to its nursery."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Send what the protocol has queued, as far as it goes at once; never waits."""

    @abc.abstractmethod
    def flush_last(self) -> None:
        """Flush, and close our half with the last byte where a front end could otherwise see the
        end of the response first and take the connection for one that it can use again.
        """

    @abc.abstractmethod
    def hand_over(self, handover: "Handover", multiplexed: bool) -> bool:
        """Pass the connection on to another process, if that is possible; then only
        :meth:`aclose` is left to do here.
        """

    @abc.abstractmethod
    def input_waiting(self) -> bool:
        """Whether the peer is known to have sent what has not been read yet."""

    @abc.abstractmethod
    def pause_reading(self) -> None:
        """Read no more until told; a hang-up is still noticed where ``sees_hangup``."""

    @abc.abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abc.abstractmethod
    def cut(self) -> None:
        """Close at once, in a way that tells the peer that its last response is not whole."""

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until all that is queued has been sent, or cannot be any more. A peer that takes
        nothing is the write timeout's.
        """

    @abc.abstractmethod
    async def poison(self) -> None:
        """Send what makes nginx give its last response up; after :meth:`drain`."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close at once and for good. Calling it again does nothing."""

    @abc.abstractmethod
    async def half_close(self) -> None:
        """Close our half and wait for the peer to close its own, so that no reset overtakes the
        last bytes; after :meth:`drain`. Takes as long as the peer: the caller bounds it.
        """


class SocketWire(Wire):
    """A raw socket under the poller's eyes: no task of its own, no trio call to read or send."""

    sees_hangup = True

    __slots__ = (
        "_backlog",
        "_connection",
        "_fd",
        "_half_closed",
        "_interest",
        "_last",
        "_lingering",
        "_poller",
        "_sent_all",
        "_socket",
        "blocked_since",
        "unsent",
    )

    def __init__(self, sock: socket.socket, poller: "Poller") -> None:
        self._socket = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._backlog: deque[Chunk] = deque()
        self._interest = 0
        self._last = False
        self._half_closed = False
        self._lingering: trio.Event | None = None
        self._sent_all: trio.Event | None = None
        self.unsent = 0
        self.blocked_since: float | None = None

    def start(self, connection: "Connection", nursery: trio.Nursery) -> None:
        self._connection = connection
        self._watch(_IN | _RDHUP)

    def _watch(self, interest: int) -> None:
        if self._fd < 0 or interest == self._interest:
            return
        self._poller.watch(self._fd, interest, self)
        self._interest = interest

    def ready(self, events: int) -> None:
        """The poller has seen ``events`` on the socket."""
        if self._interest & _IN and events & (_IN | _GONE):
            self._receive(events)
        elif events & _GONE:
            self._hung_up(None)
        if events & _OUT and self._fd >= 0 and self._interest & _OUT:
            self._continue()

    def _receive(self, events: int) -> None:
        connection = self._connection
        try:
            data = self._socket.recv(_READ_BODY if connection.in_body else _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._hung_up(error)
            return
        if not data:
            self._hung_up(None)
        elif self._lingering is None and not self._half_closed:
            connection.data_received(data)

    def _hung_up(self, error: OSError | None) -> None:
        # A level-triggered hang-up would be reported for ever.
        self._watch(0)
        if self._lingering is not None:
            self._lingering.set()
            return
        if self.unsent:
            self._drop_output()
        self._connection.peer_gone(error)

    def flush(self) -> None:
        chunks = self._connection.take_output()
        if not chunks or self._fd < 0:
            return
        if self._backlog:
            self._backlog.extend(chunks)
            self.unsent += sum(map(len, chunks))
            return
        if len(chunks) == 1:
            data: Chunk = chunks[0]
        else:
            size = sum(map(len, chunks))
            if size > _JOIN:
                self._backlog.extend(chunks)
                self.unsent = size
                self._continue()
                return
            data = b"".join(chunks)
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        if sent != len(data):
            self._backlog.append(memoryview(data)[sent:])
            self.unsent = len(data) - sent
            self._block()

    def flush_last(self) -> None:
        self._last = True
        if self._socket.family != socket.AF_UNIX and self._fd >= 0:
            # The end of the stream goes out in the segment of the last bytes. A Unix socket has
            # no such thing: there it follows at once.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        self.flush()
        if not self._backlog:
            self._close_half()

    def _close_half(self) -> None:
        if self._fd >= 0 and not self._half_closed:
            self._half_closed = True
            with contextlib.suppress(OSError):  # gone already
                self._socket.shutdown(socket.SHUT_WR)

    def hand_over(self, handover: "Handover", multiplexed: bool) -> bool:
        return self._fd >= 0 and handover.give(self._socket, multiplexed)

    def input_waiting(self) -> bool:
        if self._fd < 0:
            return False
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # BlockingIOError as a rule
            return False

    def _continue(self) -> None:
        """Send the backlog, as far as it goes."""
        backlog = self._backlog
        before = self.unsent
        while backlog:
            chunks = [backlog[i] for i in range(min(len(backlog), _IOV_MAX))]
            try:
                sent = self._socket.sendmsg(chunks)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._send_failed(error)
                return
            self.unsent -= sent
            while backlog and sent >= len(backlog[0]):
                sent -= len(backlog.popleft())
            if sent:
                backlog[0] = memoryview(backlog[0])[sent:]
        if backlog:
            if self.unsent != before:
                self.blocked_since = None
            self._block()
        else:
            self._unblock()
            if self._last:
                self._close_half()
        if self.unsent <= LOW_WATER:
            self._connection.output_drained()

    def _block(self) -> None:
        if self.blocked_since is None:
            self.blocked_since = self._connection.output_blocked()
        self._watch(self._interest | _OUT)

    def _unblock(self) -> None:
        self.blocked_since = None
        if self._interest & _OUT:
            self._watch(self._interest & ~_OUT)
        if self._sent_all is not None:
            self._sent_all.set()

    def _send_failed(self, error: OSError) -> None:
        self._drop_output()
        self._watch(0)
        # Later, never here: a task that is about to suspend flushes when it is on its waiting list
        # already and not yet asleep. To wake it then breaks trio's run.
        gone = partial(self._connection.peer_gone, error)
        trio.lowlevel.current_trio_token().run_sync_soon(gone)

    def _drop_output(self) -> None:
        self._backlog.clear()
        self.unsent = 0
        self._unblock()

    def pause_reading(self) -> None:
        self._watch(self._interest & ~_IN)

    def resume_reading(self) -> None:
        if self._interest & _RDHUP:
            self._watch(self._interest | _IN)

    def cut(self) -> None:
        if self._fd < 0:
            return
        if self._backlog and self._socket.family != socket.AF_UNIX:
            # A reset: what the peer has not read yet would be read as an end.
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._close()

    async def drain(self) -> None:
        self.flush()
        if self._backlog:
            self._sent_all = trio.Event()
            await self._sent_all.wait()

    async def poison(self) -> None:
        if self._backlog:
            self.cut()  # in the middle of a record there is no place for another
        elif self._fd >= 0:
            with contextlib.suppress(OSError):  # gone already, which says the same
                self._socket.send(_POISON)

    def fail(self) -> None:
        """The server itself has failed on this connection: nothing more can be sent."""
        self._drop_output()
        self._watch(0)
        self._connection.peer_gone(None)

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._poller.unwatch(self._fd)
        self._fd = -1
        self._drop_output()
        self._socket.close()

    async def half_close(self) -> None:
        if self._fd < 0 or not self._interest & _RDHUP:
            return
        if not self._last and not self._connection.input_pending():
            # The peer has nothing more to say, so nothing unread can turn our close into a
            # reset: the short connections of most front ends end here, without a wait.
            return
        self._lingering = trio.Event()
        self.resume_reading()
        self._close_half()
        await self._lingering.wait()


class StreamWire(Wire):
    """Any trio stream: memory, TLS, SSH, or a socket where there is no epoll."""

    sees_hangup = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._may_read = trio.Event()
        self._may_read.set()
        self._wake = trio.Event()
        self._chunks: deque[Chunk] = deque()
        self._gone = False
        self._lingering = False
        self._idle = trio.Event()
        self._ended = trio.Event()
        self.unsent = 0
        self.blocked_since: float | None = None

    def start(self, connection: "Connection", nursery: trio.Nursery) -> None:
        self._connection = connection
        nursery.start_soon(self._read, name="trifcgi stream reader")
        nursery.start_soon(self._write, name="trifcgi stream writer")

    async def _read(self) -> None:
        connection = self._connection
        error: OSError | trio.BrokenResourceError | None = None
        try:
            while True:
                await self._may_read.wait()
                data = await self._stream.receive_some(_READ_BODY if connection.in_body else _READ)
                if not data:
                    break
                if not self._lingering and not self._gone:
                    connection.data_received(bytes(data))
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
        while self._chunks and size < HIGH_WATER:
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
            self._queue([_POISON])
            await self._idle.wait()

    async def half_close(self) -> None:
        if (
            self._gone
            or self._ended.is_set()
            or not isinstance(self._stream, trio.abc.HalfCloseableStream)
        ):
            return
        self._lingering = True
        self.resume_reading()
        try:
            await self._stream.send_eof()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await self._ended.wait()

    async def aclose(self) -> None:
        self._gone = True
        self._drop_output()
        await trio.aclose_forcefully(self._stream)
