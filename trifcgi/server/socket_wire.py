"""A connection's bytes on a socket; compiled."""

import contextlib
import os
import select
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trifcgi.server.wire import LOW_WATER, POISON, READ, READ_BODY, SEND_BUFFER, Chunk, Wire

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.handover import Handover
    from trifcgi.server.poller import Poller

__all__ = ["SocketWire"]

_read: Final = os.read
_write: Final = os.write

_JOIN: Final = 16 * 1024  # below it one join and send costs less than sendmsg's list of buffers
_IOV_MAX: Final = 1024

# There is epoll only on Linux, but everybody imports this.
_IN: Final[int] = getattr(select, "EPOLLIN", 1)
_OUT: Final[int] = getattr(select, "EPOLLOUT", 4)
_ERR: Final[int] = getattr(select, "EPOLLERR", 8)
_HUP: Final[int] = getattr(select, "EPOLLHUP", 16)
_RDHUP: Final[int] = getattr(select, "EPOLLRDHUP", 0x2000)
_GONE: Final[int] = _RDHUP | _HUP | _ERR
_INPUT: Final[int] = _IN | _GONE  # what a read tells more about
_CORK: Final[int] = getattr(socket, "TCP_CORK", socket.TCP_NODELAY)


class SocketWire(Wire):
    """A raw socket under the poller's eyes: no task of its own, no trio call to read or send."""

    __slots__ = (
        "_backlog",
        "_connection",
        "_fd",
        "_half_closed",
        "_interest",
        "_last",
        "_lingering",
        "_paused",
        "_poller",
        "_sent_all",
        "_socket",
        "_watched",
        "_widened",
    )

    def __init__(self, sock: socket.socket, poller: "Poller") -> None:
        super().__init__(sees_hangup=True, has_tasks=False)
        self._socket = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._backlog: list[Chunk] = []
        self._interest = 0
        self._paused = False
        self._watched = False
        self._widened = False
        self._last = False
        self._half_closed = False
        self._lingering: trio.Event | None = None
        self._sent_all: trio.Event | None = None

    def start(self, connection: "Connection", nursery: trio.Nursery | None) -> None:
        self._connection = connection
        self._interest = _IN | _RDHUP
        # A front end sends as soon as it has connected: mostly the first request is here, and
        # one that is alone on its connection is over before there was anything to wait for.
        self.ready(_IN)

    def watch(self) -> None:
        if not self._watched and self._fd >= 0:
            self._watched = True
            if self._interest:
                self._poller.watch(self._fd, self._interest, self)

    def _watch(self, interest: int) -> None:
        if self._fd < 0 or interest == self._interest:
            return
        if self._watched:
            self._poller.watch(self._fd, interest, self)
        self._interest = interest

    def ready(self, events: int) -> None:
        """The poller has seen ``events`` on the socket."""
        if self._paused and self._interest & _IN:
            self._watch(self._interest & ~_IN)
        if self._interest & _IN and events & _INPUT:
            connection = self._connection
            try:
                data = _read(self._fd, READ_BODY if connection.in_body else READ)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._hung_up(error)
            else:
                if not data:
                    self._hung_up(None)
                elif self._lingering is None and not self._half_closed:
                    connection.bytes_received(data)
        elif events & _GONE:
            self._hung_up(None)
        if events & _OUT and self._fd >= 0 and self._interest & _OUT:
            self._continue()

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
            data = chunks[0]
            size = len(data)
            many = False
        else:
            size = 0
            for chunk in chunks:
                size += len(chunk)
            many = size > _JOIN
            data = b"" if many else b"".join(chunks)
        if many and len(chunks) > _IOV_MAX:
            self._backlog = chunks
            self.unsent = size
            self._send_first()
            return
        try:
            sent = self._socket.sendmsg(chunks) if many else _write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        if sent != size:
            self._backlog = chunks
            self.unsent = size
            self._drop_sent(sent)
            if self._widen():
                self._send_first()
            else:
                self._block()

    def _send_first(self) -> None:
        # Nobody waits for what is just being flushed, so that there is nobody to wake.
        if self._send_on() and self._backlog:
            self._block()

    def _widen(self) -> bool:
        """Give a Unix socket more room when it is full for the first time: one of the usual size
        holds less than one flush of a long answer. A TCP socket's grows by itself.
        """
        if self._widened or self._socket.family != socket.AF_UNIX:
            return False
        self._widened = True
        room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        if room >= SEND_BUFFER:
            return False
        # Linux doubles what it is told, and caps it at what the administrator allows.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER // 2)
        return True

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
        """Send the backlog, as far as it goes, and let those go on that wait for it."""
        before = self.unsent
        if not self._send_on():
            return
        if self._backlog:
            if self.unsent != before:
                self.blocked_since = None
            self._block()
        else:
            self._unblock()
            if self._last:
                self._close_half()
        if self.unsent <= LOW_WATER:
            self._connection.output_drained()

    def _send_on(self) -> bool:
        """Send the backlog, as far as it goes; ``False`` if it fails."""
        backlog = self._backlog
        while backlog:
            try:
                chunks = backlog[:_IOV_MAX]
                sent = self._socket.sendmsg(chunks)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._send_failed(error)
                return False
            part = len(chunks) < len(backlog)
            self._drop_sent(sent)
            if not part and backlog:
                break  # the rest would only be refused
        return True

    def _drop_sent(self, sent: int) -> None:
        """Take the first ``sent`` bytes off the backlog."""
        backlog = self._backlog
        self.unsent -= sent
        whole = 0
        for chunk in backlog:
            if sent < len(chunk):
                break
            sent -= len(chunk)
            whole += 1
        del backlog[:whole]
        if sent:
            backlog[0] = memoryview(backlog[0])[sent:]

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
        # The poller is told only once more has come: most pauses are over before that.
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
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
        self._poison()

    def _poison(self) -> None:
        if self._backlog:
            self.cut()  # in the middle of a record there is no place for another
        elif self._fd >= 0:
            with contextlib.suppress(OSError):  # gone already, which says the same
                self._socket.send(POISON)

    def fail(self) -> None:
        """The server itself has failed on this connection: nothing more can be sent."""
        self._drop_output()
        self._watch(0)
        self._connection.peer_gone(None)

    def close_now(self, poison: bool) -> bool:
        if poison:
            self._poison()
        self._close()
        return True

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._watched:
            self._poller.unwatch(self._fd)
        self._fd = -1
        self._drop_output()
        self._socket.close()

    def must_linger(self) -> bool:
        if self._fd < 0 or not self._interest & _RDHUP:
            return False
        # A peer that has nothing more to say leaves nothing unread that could turn our close into
        # a reset: the short connections of most front ends end without a wait.
        return self._last or self._connection.input_pending()

    async def half_close(self) -> None:
        if not self.must_linger():
            return
        self._lingering = trio.Event()
        self.watch()
        self.resume_reading()
        self._close_half()
        await self._lingering.wait()
