"""What workers write down for each other and for the supervisor, without a message."""

import mmap
import os
import tempfile
from typing import Final, Self

from trifcgi.server.share import SLOT, Share

__all__ = ["Board", "anonymous_file"]

_ITEM: Final = 4  # bytes of a SLOT


class Board:
    """A page of memory that the supervisor and all workers share.

    Each worker has a slot: how many connections it has (see :class:`~trifcgi.server.share.Share`),
    and in the end how many requests its stop has cut.

    Args:
        fd: the file behind the memory, which the board owns from now on.
        slots: how many workers have room.
    """

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._map = mmap.mmap(fd, 2 * slots * _ITEM)
        everything = memoryview(self._map).cast(SLOT)
        self.connections: memoryview[int] = everything[:slots]
        self.cut: memoryview[int] = everything[slots:]
        self._free: list[int] = []

    @classmethod
    def create(cls, slots: int) -> Self:
        """A new board, with all slots free.

        Raises:
            OSError: there is no memory for it.
        """
        fd = anonymous_file("trifcgi board")
        os.ftruncate(fd, 2 * slots * _ITEM)
        board = cls(fd, slots)
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

    def close(self) -> None:
        """Close the file. The memory goes with the last process that uses it."""
        os.close(self.fd)


def anonymous_file(name: str) -> int:
    """A file in memory, where the system has such a thing, that no path leads to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
