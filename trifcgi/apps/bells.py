"""How threads of the pool tell the event loop that something waits for it."""

import os
from collections.abc import Callable
from typing import Protocol

import trio

__all__ = ["Bell", "Door", "EventfdBell", "TokenBell", "best_bell"]


class Bell(Protocol):
    """Rung by threads, listened to by one task."""

    def ring(self) -> None: ...

    async def listen(self, answer: Callable[[], None]) -> None: ...

    def close(self) -> None: ...

    def door(self) -> "Door | None":
        """A door to wait behind, where this system has them."""
        ...


class Door:
    """Where one thread waits to be called by another that lets go of the interpreter meanwhile.

    Where both share a core, the one that is called has run until it waits for something before
    the other goes on. A thread that waits for a lock is woken while the interpreter is held: it
    wakes, waits for that, and is woken again.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC)

    def wait(self) -> None:
        while True:
            try:
                os.eventfd_read(self._fd)
            except InterruptedError:  # by a signal, and this call is not made again by itself
                continue
            return

    def knock(self) -> None:
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        os.close(self._fd)


class EventfdBell:
    """Linux: one descriptor, one write to ring it, one read to answer."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self._fd, 1)

    async def listen(self, answer: Callable[[], None]) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            # Read first: a thread that rings between the two rings for nothing; the other way
            # round its ring would be eaten, and the pool would be told nothing ever after.
            os.eventfd_read(self._fd)
            answer()

    def close(self) -> None:
        os.close(self._fd)

    def door(self) -> Door:
        return Door()


class TokenBell:
    """Wherever there is no eventfd: trio's own entry queue, 20 µs dearer."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._answer: Callable[[], None] | None = None

    def ring(self) -> None:
        self._token.run_sync_soon(self._answered)

    def _answered(self) -> None:
        if self._answer is not None:
            self._answer()

    async def listen(self, answer: Callable[[], None]) -> None:
        self._answer = answer
        answer()  # what was rung for before anybody listened
        try:
            await trio.sleep_forever()
        finally:
            self._answer = None

    def close(self) -> None:
        """Nothing of its own to close: the entry queue is the run's."""

    def door(self) -> None:
        """Without an eventfd there is none."""


def best_bell() -> Bell:
    """The cheapest that this system has. Called in the event loop."""
    return EventfdBell() if hasattr(os, "eventfd") else TokenBell()
