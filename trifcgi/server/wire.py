"""How a connection's bytes come and go: the one seam between sockets and other streams.

:class:`~trifcgi.server.socket_wire.SocketWire` works on a raw non-blocking socket that the
poller watches. :class:`~trifcgi.server.stream_wire.StreamWire` works on any ``trio.abc.Stream``
with a task to read and one to write. The connection above them is the same code.
"""

from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from trifcgi._compiled import mypyc_attr

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.handover import Handover

__all__ = [
    "HIGH_WATER",
    "LOW_WATER",
    "POISON",
    "READ",
    "READ_BODY",
    "SEND_BUFFER",
    "Chunk",
    "Wire",
]

HIGH_WATER: Final = 256 * 1024
"""Unsent bytes of a connection past which a handler that sends has to wait."""

LOW_WATER: Final = 64 * 1024
"""Unsent bytes at which those that wait go on."""

SEND_BUFFER: Final = 512 * 1024
"""Bytes that the kernel is asked to hold for a Unix socket on which a long answer leaves."""

READ: Final = 64 * 1024
"""Bytes to read at once."""

READ_BODY: Final = 256 * 1024
"""Bytes to read at once within a body."""

POISON: Final = b"\0" * 8
"""A record of a version that does not exist. It makes nginx give up a response that has no
length, and on a Unix socket, which has no reset, nothing else does. For nginx only: HAProxy
2.6.12 may die of it, and every other front end either sees a cut in the missing END_REQUEST or
takes any end for the end."""

Chunk: TypeAlias = bytes | memoryview


@mypyc_attr(allow_interpreted_subclasses=True)
class Wire:
    """The bytes' side of a connection. Compiled, as one of its kinds is; the other need not be.

    Attributes:
        sees_hangup: whether a peer that goes away is noticed while nothing is read.
        has_tasks: whether it has tasks of its own.
        unsent: bytes handed over by the protocol that the peer's side has not taken.
        blocked_since: when output stopped moving (trio clock), or ``None``.
    """

    __slots__ = ("blocked_since", "has_tasks", "sees_hangup", "unsent")

    def __init__(self, *, sees_hangup: bool, has_tasks: bool) -> None:
        self.sees_hangup = sees_hangup
        self.has_tasks = has_tasks
        self.unsent = 0
        self.blocked_since: float | None = None

    def start(self, connection: "Connection", nursery: trio.Nursery | None) -> None:
        """Begin to read for ``connection``; tasks, where there are any, go to its nursery."""
        raise NotImplementedError

    def watch(self) -> None:
        """Report from now on what happens to the peer while nobody reads or sends."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what the protocol has queued, as far as it goes at once; never waits."""
        raise NotImplementedError

    def flush_last(self) -> None:
        """Flush, and close our half with the last byte where a front end could otherwise see the
        end of the response first and take the connection for one that it can use again.
        """
        raise NotImplementedError

    def hand_over(self, handover: "Handover", multiplexed: bool) -> bool:
        """Pass the connection on to another process, if that is possible; then only
        :meth:`aclose` is left to do here.
        """
        raise NotImplementedError

    def input_waiting(self) -> bool:
        """Whether the peer is known to have sent what has not been read yet."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Read no more until told; a hang-up is still noticed where ``sees_hangup``."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Read on."""
        raise NotImplementedError

    def cut(self) -> None:
        """Close at once, in a way that tells the peer that its last response is not whole."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until all that is queued has been sent, or cannot be any more. A peer that takes
        nothing is the write timeout's.
        """
        raise NotImplementedError

    async def poison(self) -> None:
        """Send what makes nginx give its last response up; after :meth:`drain`."""
        raise NotImplementedError

    def close_now(self, poison: bool) -> bool:
        """:meth:`poison`, if asked for, and :meth:`aclose`, unless they have to wait.

        Returns:
            whether it is done.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close at once and for good. Calling it again does nothing."""
        raise NotImplementedError

    def must_linger(self) -> bool:
        """Whether :meth:`half_close` has anything to do."""
        raise NotImplementedError

    async def half_close(self) -> None:
        """Close our half and wait for the peer to close its own, so that no reset overtakes the
        last bytes; after :meth:`drain`. Takes as long as the peer: the caller bounds it.
        """
        raise NotImplementedError
