"""Every deadline of a data plane, kept by one task.

A deadline per scope would cost each request some microseconds of trio's own book-keeping.
Here a connection says when it next wants to be looked at; nearly always it already has an
earlier appointment, and the call is one comparison.
"""

import heapq
import itertools
import logging
import math
from typing import Protocol

import trio

__all__ = ["Reaper", "Watched"]

_log = logging.getLogger("trifcgi.server")


class Watched(Protocol):
    """Something with deadlines of its own."""

    appointment: float
    """When the reaper will look next (trio clock); ``math.inf``: not at all. Written by
    the reaper only."""

    def check(self, now: float) -> float:
        """Act on whatever has expired by ``now`` and return the next deadline."""

    def fail(self) -> None:
        """End: :meth:`check` has raised."""


class Reaper:
    """Calls ``check`` of each watched object when its appointment has come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watched]] = []
        self._order = itertools.count()
        self._sleep_until = math.inf
        self._sleep: trio.CancelScope | None = None
        self._watched = 0

    def arm(self, watched: Watched, when: float) -> None:
        """Look at ``watched`` at ``when`` at the latest."""
        if when >= watched.appointment:
            return
        watched.appointment = when
        heapq.heappush(self._heap, (when, next(self._order), watched))
        self._sweep()
        if when < self._sleep_until and self._sleep is not None:
            self._sleep.deadline = self._sleep_until = when

    def forget(self, watched: Watched) -> None:
        """Drop every appointment of ``watched`` and the references to it in time."""
        watched.appointment = math.inf
        self._sweep()

    def _sweep(self) -> None:
        # An entry whose time is not its object's appointment is stale. They are dropped as
        # they come up; where they would pile up (many short connections, or many short deadlines,
        # under a long keep-alive), the heap is rebuilt once it is mostly stale.
        if len(self._heap) > 64 and len(self._heap) > 2 * self._watched:
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].appointment == entry[0]]
        heapq.heapify(self._heap)
        self._watched = len(self._heap) + 32

    async def run(self) -> None:
        """Keep the appointments until cancelled."""
        while True:
            self._sleep_until = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=self._sleep_until) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            heap = self._heap
            while heap and heap[0][0] <= now:
                when, _, watched = heapq.heappop(heap)
                if watched.appointment != when:
                    continue
                watched.appointment = math.inf
                try:
                    self.arm(watched, watched.check(now))
                except Exception:  # noqa: BLE001 - logged, at one of the three borders
                    _log.exception("a connection failed in the server itself; it is closed")
                    watched.fail()
                heap = self._heap
