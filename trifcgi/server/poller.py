"""One task that waits for all of a data plane's sockets at once.

trio's own ``wait_readable`` costs a task switch and an ``epoll_ctl`` per socket and wait. The
poller keeps the sockets in an epoll set of its own, which never changes while connections
are merely used, and waits for that set: one trio wake-up for a whole batch of sockets.
"""

import select

import trio

from trifcgi.server.reports import Watcher, report
from trifcgi.server.state import State

__all__ = ["Poller"]

# Sockets handled in one go: a bound on how long other tasks wait for their turn.
_BATCH = 256


class Poller:
    """An epoll set and the task that waits for it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}

    def watch(self, fd: int, interest: int, watcher: Watcher) -> None:
        """Report ``interest`` (epoll bits, level-triggered) on ``fd`` to ``watcher``.

        0 keeps the place without reporting anything: a hang-up, which epoll reports
        unasked, would otherwise come up in every batch.
        """
        if fd in self._watchers:
            if interest:
                self._epoll.modify(fd, interest)
            else:
                self.unwatch(fd)
        elif interest:
            self._epoll.register(fd, interest)
            self._watchers[fd] = watcher

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; nothing happens where it is not watched."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Wait and report until cancelled."""
        epoll = self._epoll
        fd = epoll.fileno()
        watchers = self._watchers
        while True:
            await trio.lowlevel.wait_readable(fd)
            report(epoll.poll(0, _BATCH), watchers, self._state)

    def close(self) -> None:
        """Give the epoll set back, once no connection is left that could use it."""
        self._epoll.close()
