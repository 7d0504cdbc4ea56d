"""How a connection's bytes come and go: the one seam between sockets and other streams.

:class:`~trifcgi.server.socket_wire.SocketWire` works on a raw non-blocking socket that the
poller watches. :class:`~trifcgi.server.stream_wire.StreamWire` works on any ``trio.abc.Stream``
with a task to read and one to write. The connection above them is the same code.
"""

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.handover import Handover

__all__ = ["HIGH_WATER", "LOW_WATER", "POISON", "READ", "READ_BODY", "Chunk", "Wire"]

HIGH_WATER: Final = 256 * 1024
"""Unsent bytes of a connection past which a handler that sends has to wait."""

LOW_WATER: Final = 64 * 1024
"""Unsent bytes at which those that wait go on."""

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


class Wire(Protocol):
    """The bytes' side of a connection.

    An interface only: :mod:`~trifcgi.server.socket_wire` is compiled and the other is not, and a
    compiled class has no base that is not.

    Attributes:
        sees_hangup: whether a peer that goes away is noticed while nothing is read.
        has_tasks: whether it has tasks of its own.
        unsent: bytes handed over by the protocol that the peer's side has not taken.
        blocked_since: when output stopped moving (trio clock), or ``None``.
    """

    @property
    def sees_hangup(self) -> bool: ...
    @property
    def has_tasks(self) -> bool: ...
    @property
    def unsent(self) -> int: ...
    @property
    def blocked_since(self) -> float | None: ...

    def start(self, connection: "Connection", nursery: trio.Nursery | None) -> None:
        """Begin to read for ``connection``; tasks, where there are any, go to its nursery."""

    def watch(self) -> None:
        """Report from now on what happens to the peer while nobody reads or sends."""

    def flush(self) -> None:
        """Send what the protocol has queued, as far as it goes at once; never waits."""

    def flush_last(self) -> None:
        """Flush, and close our half with the last byte where a front end could otherwise see the
        end of the response first and take the connection for one that it can use again.
        """

    def hand_over(self, handover: "Handover", multiplexed: bool) -> bool:
        """Pass the connection on to another process, if that is possible; then only
        :meth:`aclose` is left to do here.
        """

    def input_waiting(self) -> bool:
        """Whether the peer is known to have sent what has not been read yet."""

    def pause_reading(self) -> None:
        """Read no more until told; a hang-up is still noticed where ``sees_hangup``."""

    def resume_reading(self) -> None:
        """Read on."""

    def cut(self) -> None:
        """Close at once, in a way that tells the peer that its last response is not whole."""

    async def drain(self) -> None:
        """Wait until all that is queued has been sent, or cannot be any more. A peer that takes
        nothing is the write timeout's.
        """

    async def poison(self) -> None:
        """Send what makes nginx give its last response up; after :meth:`drain`."""

    def close_now(self, poison: bool) -> bool:
        """:meth:`poison`, if asked for, and :meth:`aclose`, unless they have to wait.

        Returns:
            whether it is done.
        """

    async def aclose(self) -> None:
        """Close at once and for good. Calling it again does nothing."""

    def must_linger(self) -> bool:
        """Whether :meth:`half_close` has anything to do."""

    async def half_close(self) -> None:
        """Close our half and wait for the peer to close its own, so that no reset overtakes the
        last bytes; after :meth:`drain`. Takes as long as the peer: the caller bounds it.
        """
