"""The supervisor: carries out what the policy decides about the worker processes."""

import contextlib
import logging
import math
import random
import signal
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final

import trio

from trifcgi.errors import Error
from trifcgi.supervisor.board import Board
from trifcgi.supervisor.policy import (
    Abort,
    Action,
    Crew,
    Kill,
    Retire,
    Say,
    Severity,
    Start,
    State,
    Terms,
)
from trifcgi.supervisor.process import (
    FAREWELL,
    READY,
    REOPEN_LOGS,
    RETIRE,
    STATE,
    Ending,
    Prepare,
    WorkerProcess,
)

__all__ = ["Supervisor"]

_log: Final = logging.getLogger("trifcgi.supervisor")

_LEVELS: Final = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
}

# How often a worker is asked how it is (seconds): where it is to be replaced when it is worn, soon
# after that; otherwise, and while it has nothing to do, seldom, as each time wakes a process up.
_EAGER: Final = 1.0
_SELDOM: Final = 5.0

# How long a worker may take to open its log files anew (seconds).
_REOPEN: Final = 10.0


class Supervisor:
    """Worker processes under one roof.

    Every event (a worker is ready, a signal came) goes to the :class:`Crew`, and what it answers
    is done at once; nothing here decides.

    Args:
        terms: what the workers are held to.
        prepare: says how to start a worker process.
        board: shared memory, with a slot for each worker.
        hang_timeout: seconds in which a worker's event loop has to answer.
        on_ready: called once, with what the first worker that serves says of itself.

    Attributes:
        greet: called with each worker that is ready, before it counts as such; ``None``: nothing
            is left to be told to one. An async function.
        part: called with each worker that has stopped by itself, and with all that it has counted.
        crew: the decisions.
        restarts: workers that have ended without having been told to.
        cut: requests that the stop has cut, as far as is known.
        cut_before: requests that were cut before, where a worker was replaced or taken away.
        killed: requests among both that ran in workers which did not stop and were killed, as far
            as is known.
        stopping: is set when the stop begins.
        tell_reload: called with ``True`` when a reload begins, with ``False`` when it has ended,
            whichever way.
    """

    def __init__(
        self,
        terms: Terms,
        prepare: Prepare,
        board: Board,
        *,
        hang_timeout: float = math.inf,
        on_ready: Callable[[dict[str, Any]], None],
    ) -> None:
        self.crew = Crew(terms, random.random)
        self.greet: Callable[[WorkerProcess], Awaitable[None]] | None = None
        self.part: Callable[[WorkerProcess, dict[str, Any]], None] | None = None
        self.restarts = 0
        self.cut = 0
        self.cut_before = 0
        self.killed = 0
        self.stopping = trio.Event()
        self.tell_reload: Callable[[bool], None] | None = None
        self._reloading = False
        self._prepare = prepare
        self._board = board
        self._hang_timeout = hang_timeout
        worn = terms.max_requests is not None or terms.max_rss is not None
        self._seldom = min(_SELDOM, max(0.1, hang_timeout / 4))
        self._eager = min(_EAGER, self._seldom) if worn else self._seldom
        self._on_ready: Callable[[dict[str, Any]], None] | None = on_ready
        self._workers: dict[int, WorkerProcess] = {}
        self._nursery: trio.Nursery | None = None
        self._sleep = trio.CancelScope()
        self._clean = True

    @property
    def members(self) -> list[WorkerProcess]:
        """The workers that are alive, those that drain included, the oldest first."""
        return list(self._workers.values())

    @property
    def draining(self) -> bool:
        """Whether all are told to stop."""
        return self.crew.stopping

    async def run(self) -> int:
        """Start the workers, and keep them until :meth:`stop`.

        Returns:
            the exit status: 0 after a clean stop; 1 where the stop has cut a request or killed a
            worker, or the first worker could not start; 2 where it has told a usage mistake.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._do(self.crew.begin(trio.current_time()))
            while not self.crew.done:
                with trio.CancelScope(deadline=self.crew.next_tick) as self._sleep:
                    await trio.sleep_forever()
                if not self.crew.done:
                    self._do(self.crew.tick(trio.current_time()))
        self._nursery = None
        if self.cut_before:
            _log.warning("requests cut before, in workers replaced: %d", self.cut_before)
        if self.cut:
            _log.error("requests cut: %d", self.cut)
        if self.crew.failed is not None:
            return self.crew.failed
        return 0 if self._clean and not self.cut else 1

    # What people want

    def stop(self) -> None:
        """Stop all workers gracefully; called a second time, at once."""
        if self.crew.stopping:
            _log.info("stopping at once")
        else:
            _log.info("stopping %d workers", len(self._workers))
        self.stopping.set()
        self._board.stop()
        self._do(self.crew.stop(trio.current_time()))

    def reload(self) -> None:
        """Begin to replace the workers one by one."""
        self._do(self.crew.reload(trio.current_time()))

    def add(self) -> None:
        """Add a worker."""
        self._do(self.crew.add(trio.current_time()))

    def remove(self) -> None:
        """Take a worker away; the last one stays."""
        self._do(self.crew.remove(trio.current_time()))

    def reopen_logs(self) -> None:
        """Have all workers open their log files anew."""
        if self._nursery is not None:
            for worker in self.members:
                self._nursery.start_soon(self._reopen_logs, worker)

    async def _reopen_logs(self, worker: WorkerProcess) -> None:
        # By a request and not by a signal, which would end a worker that is still starting.
        try:
            with trio.fail_after(_REOPEN):
                await worker.ask("POST", REOPEN_LOGS)
        except (Error, trio.ClosedResourceError, trio.TooSlowError) as error:
            reason = str(error) or "it does not answer"
            _log.error("worker %d has not reopened its logs: %s", worker.number, reason)

    # Doing

    def _do(self, actions: Iterable[Action]) -> None:
        # All decisions first: what is done may bring the next event.
        for action in list(actions):
            match action:
                case Start(member):
                    assert self._nursery is not None
                    worker = WorkerProcess(member, self._board.take())
                    self._workers[member.number] = worker
                    self._nursery.start_soon(
                        self._tend, worker, name=f"trifcgi worker {member.number}"
                    )
                case Retire(member, patient=True):
                    assert self._nursery is not None
                    self._nursery.start_soon(self._retire, self._workers[member.number])
                case Retire(member):
                    self._workers[member.number].send_signal(signal.SIGTERM)
                case Abort(member):
                    self._workers[member.number].send_signal(signal.SIGABRT)
                case Kill(member):
                    self._workers[member.number].send_signal(signal.SIGKILL)
                case Say(severity, text):
                    _log.log(_LEVELS[severity], "%s", text)
        if self.crew.reloading is not self._reloading:
            self._reloading = self.crew.reloading
            if self.tell_reload is not None:
                self.tell_reload(self._reloading)
        self._sleep.deadline = self.crew.next_tick
        if self.crew.done:
            self._sleep.cancel(reason="no worker is left")

    async def _retire(self, worker: WorkerProcess) -> None:
        # By a request: a signal of its own might be one that the application uses. A SIGTERM that
        # overtakes it stands. A worker that cannot be asked ends, or is found to hang.
        with contextlib.suppress(Error, trio.ClosedResourceError):
            await worker.ask("POST", RETIRE)

    async def _tend(self, worker: WorkerProcess) -> None:
        """Keep one worker process from its start to its end."""
        if self.crew.stopping:
            ending = Ending(None, "not started any more")  # the listeners may be closed by now
        else:
            ending = await worker.run(self._prepare, partial(self._talk, worker))
        member, slot = worker.member, worker.slot
        cut = self._board.cut[slot] if slot >= 0 else 0
        self._board.give_back(slot)
        del self._workers[member.number]
        self._count(worker, ending, cut)
        now = trio.current_time()
        self._do(self.crew.has_ended(member, ending.text, ending.status, now))

    def _count(self, worker: WorkerProcess, ending: Ending, cut: int) -> None:
        member = worker.member
        number, pid = worker.number, worker.pid
        _log.info("worker %d (pid %d) has ended: %s", number, pid, ending.text)
        killed = ending.status is None and member.ready_at is not None
        if member.state is State.RETIRING and killed and worker.running:
            _log.error("worker %d had about %d requests running", number, worker.running)
            cut += worker.running
            self.killed += worker.running
        if self.crew.stopping:
            self.cut += cut
            if killed or ending.status not in (0, None):
                self._clean = False
        else:
            self.cut_before += cut
            if member.state is State.SERVING:
                self.restarts += 1
        if cut:
            _log.warning("worker %d: requests cut: %d", number, cut)

    async def _talk(self, worker: WorkerProcess) -> None:
        """Wait until a worker is ready, then look after it until it has stopped."""
        _, facts = await worker.ask("GET", READY)
        _log.info("worker %d (pid %d) is ready", worker.number, worker.pid)
        if self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready(facts)
        if self.greet is not None:
            await self.greet(worker)
        self._do(self.crew.is_ready(worker.member, trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after, worker, name="trifcgi worker state")
            _, counted = await worker.ask("GET", FAREWELL)
            if self.part is not None:
                self.part(worker, counted)
            nursery.cancel_scope.cancel(reason="the worker has stopped")

    async def _look_after(self, worker: WorkerProcess) -> None:
        """Ask a worker how it is, now and then; until it hangs."""
        begun, interval = 0, self._eager
        while True:
            # All workers are asked at one time, so that this process wakes up once for them.
            await trio.sleep(interval - trio.current_time() % interval)
            with trio.move_on_after(self._hang_timeout) as patience:
                _, state = await worker.ask("GET", STATE)
            now = trio.current_time()
            if patience.cancelled_caught:
                self._do(self.crew.is_hung(worker.member, self._hang_timeout, now))
                return
            worker.running = state["running"]
            idle = state["begun"] == begun and not state["running"]
            begun, interval = state["begun"], self._seldom if idle else self._eager
            if state["draining"]:
                self._do(self.crew.is_leaving(worker.member, now))
            self._do(self.crew.reports(worker.member, state["begun"], state["rss"], now))
