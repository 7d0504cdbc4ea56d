"""What workers write down for each other and for the supervisor, without a message."""

import mmap
import os
import socket
import tempfile
from typing import Final, Self

from trifcgi.server.handover import Handover
from trifcgi.server.share import SLOT, Share

__all__ = ["Board", "anonymous_file"]

_ITEM: Final = 4  # bytes of a SLOT


class Board:
    """A page of memory that the supervisor and all workers share.

    Each worker has a slot: how many connections it has (see :class:`~trifcgi.server.share.Share`),
    and in the end how many requests its stop has cut. Beside it lies a pair of sockets through
    which connections change hands (see :class:`~trifcgi.server.handover.Handover`).

    Args:
        fd: the file behind the memory, which the board owns from now on.
        slots: how many workers have room.
        giving: one socket of the pair, which the board owns from now on.
        taking: the other one.
    """

    def __init__(self, fd: int, slots: int, giving: socket.socket, taking: socket.socket) -> None:
        self.fd = fd
        self.slots = slots
        self._giving, self._taking = giving, taking
        self._map = mmap.mmap(fd, (2 * slots + 1) * _ITEM)
        everything = memoryview(self._map).cast(SLOT)
        self.connections: memoryview[int] = everything[:slots]
        self.cut: memoryview[int] = everything[slots:-1]
        self._stopping: memoryview[int] = everything[-1:]
        self._free: list[int] = []

    @property
    def handover_fds(self) -> tuple[int, int]:
        """The descriptors of the pair: giving, taking."""
        return self._giving.fileno(), self._taking.fileno()

    def stop(self) -> None:
        """Let every worker know that all of them stop."""
        self._stopping[0] = 1

    @classmethod
    def create(cls, slots: int) -> Self:
        """A new board, with all slots free.

        Raises:
            OSError: there is no memory for it.
        """
        fd = anonymous_file("trifcgi board")
        os.ftruncate(fd, (2 * slots + 1) * _ITEM)
        board = cls(fd, slots, *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        for slot in reversed(range(slots)):
            board.give_back(slot)
        return board

    def take(self) -> int:
        """Take a free slot, or -1 where there is none: such a worker does not share fairly."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self.cut[slot] = 0
        return slot

    def give_back(self, slot: int) -> None:
        """Its worker is gone."""
        if slot >= 0:
            Share.clear(self.connections, slot)
            self._free.append(slot)

    def share(self, slot: int) -> Share | None:
        """A worker's part in sharing the listeners."""
        return Share(self.connections, slot) if slot >= 0 else None

    def handover(self, share: Share | None) -> Handover:
        """A worker's part in passing connections on."""

        def wanted() -> bool:
            return share is not None and not self._stopping[0] and not share.alone()

        return Handover(self._giving, self._taking, wanted)

    def close(self) -> None:
        """Close the file and the sockets. The memory goes with the last process that uses it."""
        os.close(self.fd)
        self._giving.close()
        self._taking.close()


def anonymous_file(name: str) -> int:
    """A file in memory, where the system has such a thing, that no path leads to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
