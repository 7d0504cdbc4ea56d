"""A bounded pool of threads, for apps that block.

``trio.to_thread.run_sync`` costs 160 µs a call (trio 0.35): each call has its own task
switch into trio's entry queue and a wake-up of its own. Here the threads are kept, take
their next job without asking the event loop, and tell it that something is done through
one eventfd that is written only when the loop has not been told already.
"""

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from trifcgi.apps.bells import Bell, EventfdBell, TokenBell, best_bell
from trifcgi.apps.crew import Crew, Job

__all__ = ["Crew", "EventfdBell", "Job", "ThreadPool", "TokenBell", "threads_of"]

logger = logging.getLogger(__name__)

# Those that run, for whoever wants to know which threads work for a request.
_crews: set[Crew] = set()


def threads_of(owner: Any) -> list[threading.Thread]:
    """The threads of all pools that run a job which a task, or a request that no task serves,
    waits for; from any thread.
    """
    return [thread for crew in list(_crews) for thread in crew.working_for(owner)]


class ThreadPool:
    """A bounded pool of threads that run only while somebody is inside :meth:`running`.

    Several handlers and several servers may share one: whoever enters first starts it, who
    leaves last ends it. After that it can be entered again.

    Args:
        size: threads at the most, at least 1.
        name: what the threads' names begin with.
        join_timeout: seconds that running jobs have once the pool ends. A thread that is
            stuck beyond that is named on the log, with its stack, and left behind; it is a
            daemon thread, so it does not hold the process up.
        bell: makes what threads wake the event loop with; by itself the best there is.
    """

    def __init__(
        self,
        size: int = 40,
        *,
        name: str = "trifcgi",
        join_timeout: float = 2.0,
        bell: Callable[[], Bell] = best_bell,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"threads must be an int, not {size!r}")
        if size < 1:
            raise ValueError(f"threads must be at least 1, not {size}")
        self.size = size
        self._name = name
        self._join_timeout = join_timeout
        self._bell = bell
        self._life: _Life | None = None

    @property
    def crew(self) -> Crew | None:
        """The threads; ``None`` while nobody is inside :meth:`running`."""
        return None if self._life is None else self._life.crew

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Crew]:
        """Have threads for as long as the ``async with`` block lasts.

        Leaving it last, cancelled or not, takes no more jobs, waits for the running ones as
        ``join_timeout`` says, and joins the threads.
        """
        life = self._life
        if life is None:
            life = self._life = _Life(self.size, self._name, self._bell())
        life.users += 1
        # Shielded, for threads have to be heard while a cancelled pool waits for them; the end
        # of this function bounds it.
        hearing = trio.CancelScope(shield=True)

        async def hear() -> None:
            with hearing:
                await life.listen()

        async with contextlib.AsyncExitStack() as stack:
            stack.callback(life.hang_up)
            nursery_manager = trio.open_nursery()
            nursery = await nursery_manager.__aenter__()
            # Not shown the block's own exception, which it would put in a group.
            stack.push_async_callback(nursery_manager.__aexit__, None, None, None)
            nursery.start_soon(hear)
            stack.callback(hearing.cancel)
            stack.push_async_callback(self._leave, life)
            yield life.crew

    async def _leave(self, life: "_Life") -> None:
        life.users -= 1
        if not life.users:
            self._life = None
            await life.end(self._join_timeout)


class _Life:
    """A pool's crew from who enters first to who leaves last.

    Attributes:
        crew: the threads.
        users: those inside.
    """

    def __init__(self, size: int, name: str, bell: Bell) -> None:
        self.crew = Crew(size, name, bell, self._left)
        self.users = 0
        self._bell = bell
        self._empty = trio.Event()
        # Whose turn it is to listen to the bell, where several servers share the crew.
        self._ear = trio.Lock()
        _crews.add(self.crew)

    async def listen(self) -> None:
        """Hear the threads, until cancelled."""
        async with self._ear:
            await self._bell.listen(self.crew.answer)

    async def end(self, join_timeout: float) -> None:
        """Take no more jobs, fail those that wait, and see the threads off."""
        # These have nothing to do but leave. Joined here and now, so that a mock clock, which
        # jumps while threads work, does not take them for stuck.
        for thread in self.crew.close():
            thread.join(join_timeout)
        if self.crew.empty:
            return
        with trio.move_on_after(join_timeout, shield=True):
            await self._empty.wait()
            return
        self._report_stuck(join_timeout)

    def hang_up(self) -> None:
        """Hear no more of a crew that is closed."""
        if self.crew.closed:  # else others use it still
            self.crew.hang_up()
            _crews.discard(self.crew)

    def _left(self, thread: threading.Thread) -> None:
        """A thread has made its last step."""
        thread.join()
        if self.crew.closed and self.crew.empty:
            self._empty.set()

    def _report_stuck(self, waited: float) -> None:
        frames = sys._current_frames()
        for thread, job in self.crew.at_work().items():
            frame = frames.get(thread.ident or 0)
            logger.error(
                "thread %s still runs %s %g s after it was to stop; it is left behind\n%s",
                thread.name,
                "nothing" if job is None else job,
                waited,
                "".join(traceback.format_stack(frame)) if frame else "",
            )
