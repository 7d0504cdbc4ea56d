"""What the poller has seen, told to those that it watches for; compiled."""

import logging
from typing import Final, Protocol

from trifcgi.server.socket_wire import SocketWire
from trifcgi.server.state import State
from trifcgi.server.turns import Turns

__all__ = ["Watcher", "report"]

_log: Final = logging.getLogger("trifcgi.server")

_FAILED: Final = "a connection failed in the server itself; it is closed"


class Watcher(Protocol):
    """Somebody who watches a socket."""

    def ready(self, events: int) -> None:
        """Something has happened to it (epoll bits)."""

    def fail(self) -> None:
        """End: :meth:`ready` has raised."""


def report(batch: list[tuple[int, int]], watchers: dict[int, Watcher], state: State) -> None:
    """Tell a batch of descriptors and their events to those who watch them, and then give the
    requests that have come to tasks and threads: one kind of work at a time stays in the
    processor's cache.
    """
    state.reading = True
    state.reading_since = state.now()
    for fd, events in batch:
        watcher = watchers.get(fd)
        if watcher is None:
            continue  # closed by an earlier one of this batch
        try:
            if isinstance(watcher, SocketWire):  # of these calls is the one that costs nothing
                watcher.ready(events)
            else:
                watcher.ready(events)
        except Exception:  # noqa: BLE001 - logged, at one of the three borders
            # A fault of the server's own: loud, and one connection's end.
            _log.exception(_FAILED)
            watcher.fail()
    state.reading = False
    waiting, state.waiting = state.waiting, []
    turns: Turns
    for turns in waiting:
        try:
            turns.wake()
        except Exception:  # noqa: BLE001 - logged, at one of the three borders
            _log.exception(_FAILED)
            turns.fail()
    if state.taskless is not None:
        state.taskless.begun()
