"""Sharing one listener fairly among processes.

Processes that accept from one listener race for each connection, and the one that is awake wins:
measured with kept connections, all of them landed on one of two workers in 3 runs of 20. So
each process puts its number of connections where all can read it, and one that has more than
another leaves a new connection to that one for a moment. Only for a moment: a process that
hangs takes none, and must not keep the others from it.
"""

import select
import socket
from typing import Final

import trio

__all__ = ["SLOT", "Share"]

_CLOSED: Final = 0xFFFF_FFFF
"""The count of a slot whose process accepts nothing: more than anybody has."""

SLOT: Final = "I"
"""The format of one count, for ``memoryview.cast``."""

# How long a connection is left to others, and how often to look whether one took it (seconds). A
# process that is not hung takes it within its next pass; on a machine with more to run
# than it has cores that can be some tens of milliseconds away.
_PATIENCE: Final = 0.05
_LOOK: Final = 0.001

# Having waited in vain, take whatever comes for so long: who should have it does not answer.
_NO_PATIENCE: Final = 1.0


class Share:
    """One process's part in sharing.

    Args:
        counts: memory that all the processes share, cast to :data:`SLOT`.
        slot: this process's place in it; nobody else's.
    """

    def __init__(self, counts: "memoryview[int]", slot: int) -> None:
        self._counts = counts
        self._slot = slot
        self._open = False
        self._mine = 0
        self._impatient_until = 0.0
        self.close()

    @staticmethod
    def clear(counts: "memoryview[int]", slot: int) -> None:
        """Say for a process that is gone that it accepts nothing."""
        counts[slot] = _CLOSED

    def open(self) -> None:
        """From now on this process accepts connections."""
        self._open = True
        self._counts[self._slot] = self._mine

    def close(self) -> None:
        """It accepts no more: the others need not think of it."""
        self._open = False
        self._counts[self._slot] = _CLOSED

    def taken(self) -> None:
        """It has accepted a connection."""
        self._mine += 1
        if self._open:
            self._counts[self._slot] = self._mine

    def left(self) -> None:
        """One of its connections has ended."""
        self._mine -= 1
        if self._open:
            self._counts[self._slot] = self._mine

    def alone(self) -> bool:
        """Whether no process accepts connections."""
        return min(self._counts) == _CLOSED

    def above(self) -> bool:
        """Whether another process should have the next connection.

        With few connections each counts; with many, an eighth more is nothing to wait for.
        """
        least = min(self._counts)
        return self._mine > least + least // 8

    async def turn(self, sock: socket.socket) -> bool:
        """Leave a waiting connection to the others, if it is theirs.

        Args:
            sock: the listening socket, on which a connection waits.

        Returns:
            whether to accept now; ``False``: somebody else did.
        """
        if not self.above() or trio.current_time() < self._impatient_until:
            return True
        with trio.move_on_after(_PATIENCE):
            while True:
                await trio.sleep(_LOOK)
                if not _waiting(sock):
                    return False
                if not self.above():
                    return True
        self._impatient_until = trio.current_time() + _NO_PATIENCE
        return True


def _waiting(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
