"""The threads of a running pool, and the jobs that they are given.

Compiled, and so without a coroutine: what waits for a job stands in
:mod:`trifcgi.apps.thread_calls`, the pool's beginning and end in :mod:`trifcgi.apps.threads`.

Waking a thread costs more than most jobs do. So one thread at a time is called, and it calls
the next before it begins a job while others are left. Where jobs are short, the one that is
at work has done them all before the one that it has called gets hold of the interpreter; where
a job blocks, that one has it at once, and takes the next. The same holds for the event loop: a
thread that goes on with another job leaves it to the one that is coming to ring.

Jobs that come together are put with patience, and a thread is called once all of them wait. The
event loop lets go of the interpreter to do so and looks again when it has it back: on one core
all that is short is done by then, without a bell, and where a job blocks the event loop
calls the next thread.
"""

import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.apps import thread_calls

if TYPE_CHECKING:
    from trifcgi.apps.bells import Bell

__all__ = ["Crew", "Job", "Task"]

logger = logging.getLogger(__name__)


class Job:
    """What a thread of the pool has to do; its ``str()`` is what the log calls it.

    Args:
        owner: who waits for it.

    Attributes:
        owner: a task, or a request that no task serves; ``None`` once that does not care any
            more.
        error: what it raised; ``None`` otherwise. Never a bare ``SystemExit`` or
            ``KeyboardInterrupt``: an app that raises them ends its request, not the server.
        over: whether the event loop knows that no thread will touch it any more.
        abandoned: whether nobody waits for it.
        queued: whether it waits in a :class:`Queue`.
        ahead: the one that was queued before it.
        behind: the one that was queued after it.
    """

    __slots__ = ("_context", "abandoned", "ahead", "behind", "error", "over", "owner", "queued")

    def __init__(self, owner: Any) -> None:
        self._context: Any = copy_context()
        self.abandoned = False
        self.over = False
        self.queued = False
        self.ahead: Job | None = None
        self.behind: Job | None = None
        self.owner: Any = owner
        self.error: Exception | None = None

    def work(self) -> None:
        """The work itself, in a thread, in a copy of the context in which the job was made."""
        raise NotImplementedError

    def finished(self) -> None:
        """In the event loop: a thread has done it. Not called once it is abandoned."""
        raise NotImplementedError

    def run(self) -> None:
        """In a thread: do the work and keep what it raises."""
        try:
            self._context.run(self.work)
        except Exception as error:  # noqa: BLE001 - kept for who waits
            self.error = error
        # In a thread it would end that thread and nothing else, and nobody would hear of it.
        except BaseException as error:  # noqa: BLE001, ASYNC103 - kept for who waits
            failure = RuntimeError(f"{self} raised {type(error).__name__}")
            failure.__cause__ = error
            self.error = failure


class Queue:
    """Jobs in the order in which they came.

    They are chained to each other: of a deque each step is a call, and out of its middle
    nothing is taken quickly.

    Attributes:
        first: the one that waits longest.
        length: how many there are.
    """

    __slots__ = ("_last", "first", "length")

    def __init__(self) -> None:
        self.first: Job | None = None
        self._last: Job | None = None
        self.length = 0

    def add(self, job: Job) -> None:
        last = self._last
        job.ahead = last
        if last is None:
            self.first = job
        else:
            last.behind = job
        self._last = job
        job.queued = True
        self.length += 1

    def take(self) -> Job | None:
        """Remove and return the first."""
        job = self.first
        if job is not None:
            self.remove(job)
        return job

    def remove(self, job: Job) -> None:
        """Take one out that is in here."""
        ahead = job.ahead
        behind = job.behind
        if ahead is None:
            self.first = behind
        else:
            ahead.behind = behind
        if behind is None:
            self._last = ahead
        else:
            behind.ahead = ahead
        job.ahead = job.behind = None
        job.queued = False
        self.length -= 1


class Worker:
    """A thread of the pool.

    Attributes:
        thread: the thread.
        job: what it does now.
        behind_door: whether that is where it waits.
        wait: makes it wait elsewhere, in the thread.
        call: calls it there, once for each time that it is taken from those that are idle.
        started: whether the thread is.
    """

    __slots__ = ("behind_door", "call", "job", "started", "thread", "wait")

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.behind_door = False
        self.started = False
        self.job: Job | None = None
        # A lock of its own, so that a call wakes the one that is meant and no other.
        gate = threading.Lock()
        gate.acquire()
        self.wait: Any = gate.acquire
        self.call: Any = gate.release


class Task(Job):
    """A plain call as a job.

    Args:
        call: made in the thread.
        finished: called in the event loop once the thread has returned from it.
        label: what the log calls it; its ``str()`` is taken only then.
    """

    __slots__ = ("_call", "_finished", "_label")

    def __init__(
        self, call: Callable[[], object], finished: Callable[[], object], label: object
    ) -> None:
        super().__init__(trio.lowlevel.current_task())
        self._call = call
        self._finished = finished
        self._label = label

    def __str__(self) -> str:
        return str(self._label)

    def work(self) -> None:
        self._call()

    def finished(self) -> None:
        self._finished()


class Crew:
    """The threads of a running pool: at most ``size``, started when they are needed.

    Jobs that find no free thread wait in the order in which they came. All methods but
    :meth:`post` and :meth:`working_for` belong to the event loop's thread.

    Attributes:
        size: threads at the most.
        abandoned: jobs that nobody waits for any more and whose thread has not returned.
        closed: whether it takes no more jobs.
        left: called in the event loop when a thread has made its last step.
    """

    __slots__ = (
        "_acquire",
        "_bell",
        "_bell_lock",
        "_calls",
        "_coming",
        "_door",
        "_door_free",
        "_idle",
        "_lock",
        "_name",
        "_next_door",
        "_release",
        "_rung",
        "_silent",
        "_started",
        "_waiting",
        "_watched",
        "_workers",
        "abandoned",
        "closed",
        "left",
        "size",
    )

    def __init__(
        self, size: int, name: str, bell: "Bell", left: Callable[[threading.Thread], object]
    ) -> None:
        self.size = size
        self.abandoned = 0
        self.closed = False
        self.left = left
        self._name = name
        self._bell: Any = bell
        # Guards the hand-over of jobs and what becomes of them; never held across anything that
        # waits. Its two halves are at hand, for each job takes and gives it back three times.
        self._lock = threading.Lock()
        self._acquire: Any = self._lock.acquire
        self._release: Any = self._lock.release
        self._waiting = Queue()
        self._workers: dict[Worker, None] = {}
        self._started = 0
        # The one that was at work last is called first: most of the others need never run.
        self._idle: list[Worker] = []
        # The one that was at work before these, if it waits behind the door.
        self._next_door: Worker | None = None
        self._door: Any = bell.door()
        # Whether nobody is behind it, or has been called from there and not arrived: who comes
        # next must not hear the knock that is meant for another.
        self._door_free = self._door is not None
        # Whether a thread was called, or started, and has not arrived yet.
        self._coming = False
        # Whether the event loop is about to look, as soon as it has the interpreter again.
        self._watched = False
        # Guards the bell: it must not be rung after it is closed, as its descriptor's number
        # may be somebody else's by then.
        self._bell_lock = threading.Lock()
        # What the event loop has to be told: jobs that are done, and calls to make.
        self._calls: list[Any] = []
        self._rung = False
        self._silent = False

    def __repr__(self) -> str:
        return f"<Crew {self._name} {self.busy} of {self.size} busy, {self.waiting} waiting>"

    def working_for(self, owner: Any) -> list[threading.Thread]:
        """The threads that run a job which that one waits for; from any thread."""
        return [
            thread
            for thread, job in self.at_work().items()
            if job is not None and job.owner is owner
        ]

    @property
    def busy(self) -> int:
        """Threads that run a job now or are about to, abandoned ones included."""
        idle = len(self._idle) + (0 if self._next_door is None else 1)
        return len(self._workers) - idle

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread, beside the one for which a thread is coming."""
        waiting = self._waiting.length
        return waiting - 1 if waiting and self._coming else waiting

    # The event loop's side

    def submit(self, call: Any, finished: Any, label: object) -> Job:
        """Have a thread make a call; see :class:`Task` and :meth:`put`."""
        job = Task(call, finished, label)
        self.put(job)
        return job

    def put(self, job: Job, patient: bool = False) -> None:
        """Have a thread do a job.

        Args:
            job: the job.
            patient: whether a thread that is idle is not called before :meth:`call_waiting`.

        Raises:
            RuntimeError: the pool has been left, or no thread can be started.
        """
        worker: Worker | None = None
        self._acquire()
        try:
            if self.closed:
                raise RuntimeError("this thread pool is closed")
            self._waiting.add(job)
            if not self._coming and not (patient and self._next_door is not None):
                worker = self._pick()
        finally:
            self._release()
        if worker is not None:
            try:
                self._bring(worker)
            except Exception:
                if self._withdraw(job):
                    raise
            except BaseException:
                self._withdraw(job)
                raise

    def _withdraw(self, job: Job) -> bool:
        """Take a job back, unless a thread has it already; whether it was taken back."""
        with self._lock:
            if not job.queued:
                return False
            self._waiting.remove(job)
            return True

    def call_waiting(self) -> None:
        """Jobs may have been put with patience, and there are no more of them for now: have them
        done, and see to what has been done by then.
        """
        brought = True
        while brought and self._waiting.first is not None and not self._coming:
            self._acquire()
            worker = self._pick(True)
            self._release()
            if worker is None:
                break
            # Where another is needed after all, it is called here, once this one blocks.
            self._watched = worker.behind_door
            try:
                brought = self._bring_another(worker)
            finally:
                self._watched = False
        if self._calls:
            self.answer()

    def abandon(self, job: Job) -> bool:
        """Stop caring about a job: if it has not finished, :meth:`Job.finished` is not called.

        Returns:
            Whether it is certain that no thread runs it. Otherwise its thread stays taken
            until it is done, and counts as abandoned.
        """
        if job.over:
            return True
        with self._lock:
            withdrawn = job.queued
            if withdrawn:
                self._waiting.remove(job)
        job.abandoned = True
        job.owner = None  # which serves another request by and by
        if not withdrawn:
            self.abandoned += 1
        return withdrawn

    def run_sync(
        self, function: Callable[..., Any], *args: Any, label: object = None
    ) -> Coroutine[Any, Any, Any]:
        """See :func:`trifcgi.apps.thread_calls.run_sync`."""
        return thread_calls.run_sync(self, function, *args, label=label)

    def answer(self) -> None:
        """The bell has rung: see to what threads have done and posted."""
        # Before anything is taken: whoever posts from here on rings again.
        self._rung = False
        self._acquire()
        calls = self._calls
        self._calls = []
        self._release()
        for call in calls:
            if isinstance(call, Job):
                self._done(call)
            else:
                call()

    def _done(self, job: Job) -> None:
        """The thread has returned from a job, or will never take it."""
        job.over = True
        if not job.abandoned:
            job.finished()
            return
        self.abandoned -= 1
        if job.error is not None:
            logger.warning("%s failed after it was given up", job, exc_info=job.error)

    def close(self) -> list[threading.Thread]:
        """Take no more jobs, fail those that wait, and send idle threads off.

        A job for which a thread is coming already is done.

        Returns:
            The threads that have nothing to do but leave, if that is certain of all idle ones.
        """
        failed: list[Job] = []
        with self._lock:
            self.closed = True
            waiting = self._waiting
            job = waiting.first
            if self._coming and job is not None:
                job = job.behind
            while job is not None:
                failed.append(job)
                job = job.behind
            for job in failed:
                waiting.remove(job)
            idle = [worker.thread for worker in self._workers if worker.job is None]
            if waiting.length or self._coming:
                idle = []  # one of them is coming for a job
            called = self._idle
            self._idle = []
            if self._next_door is not None:
                called.append(self._next_door)
                self._next_door = None
        for worker in called:
            self._bring(worker)
        for job in failed:
            job.error = RuntimeError("the thread pool was closed before a thread was free")
            self._done(job)
        return [thread for thread in idle if thread is not None]

    @property
    def empty(self) -> bool:
        """Whether it has no thread any more."""
        return not self._workers

    def hang_up(self) -> None:
        """Close the bell of a closed crew: what threads post from here on goes nowhere."""
        with self._bell_lock:
            self._silent = True
            self._bell.close()
            self._close_door()

    def _close_door(self) -> None:
        # A thread may still wait behind it, or come to, where it was not to be had for so long.
        if self._silent and not self._workers and self._door is not None:
            self._door.close()
            self._door = None

    def at_work(self) -> dict[threading.Thread, Job | None]:
        """All threads and what they do now."""
        with self._lock:
            return {
                worker.thread: worker.job for worker in self._workers if worker.thread is not None
            }

    # The threads' side

    def post(self, call: Callable[[], object]) -> None:
        """Have the event loop make a call soon; from any thread, in order.

        Once the pool has ended it does nothing.
        """
        with self._lock:
            self._calls.append(call)
            # It arrives as soon as this one lets go of the interpreter, which the event loop
            # would have to wait for, too.
            leave_ringing = self._coming or self._watched
        if not leave_ringing:
            self._ring()

    def _ring(self) -> None:
        if self._calls and not self._rung:
            with self._bell_lock:
                if self._silent:
                    self._calls.clear()
                elif not self._rung:
                    self._rung = True
                    self._bell.ring()

    def _pick(self, at_door: bool = False) -> Worker | None:
        """With the lock held: the thread to bring, an idle one or one that has to be started.

        Args:
            at_door: whether rather the one behind the door: whoever knocks there lets it go first.
        """
        worker = self._next_door
        if worker is not None and (at_door or not self._idle):
            self._next_door = None
        elif self._idle:
            worker = self._idle.pop()
        elif len(self._workers) < self.size:
            self._started += 1
            worker = Worker()
            worker.thread = threading.Thread(
                target=self._work,
                args=(worker,),
                name=f"{self._name}-{self._started}",
                daemon=True,
            )
            self._workers[worker] = None
        else:
            return None
        self._coming = True
        return worker

    def _bring(self, worker: Worker) -> None:
        """Call a thread that was picked, or start it."""
        if worker.behind_door:
            self._door.knock()
        elif worker.started:
            worker.call()
        else:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        thread = worker.thread
        assert thread is not None
        worker.started = True
        try:
            thread.start()
        except BaseException:
            with self._lock:
                del self._workers[worker]
                self._coming = False
            self._ring()  # which may have been left to it
            raise

    def _work(self, worker: Worker) -> None:
        """A thread's life."""
        job = self._next(worker, None, True)
        while True:
            if job is not None:
                job.run()
                job = self._next(worker, job, False)
            elif worker in self._workers:
                if worker.behind_door:
                    self._door.wait()
                else:
                    worker.wait()
                job = self._next(worker, None, True)
            else:
                break
        thread = worker.thread
        assert thread is not None
        self.post(lambda: self.left(thread))
        with self._bell_lock:
            self._close_door()

    def _next(self, worker: Worker, done: Job | None, called: bool) -> Job | None:
        """The longest waiting job; without one the thread is idle now, or is to leave.

        Args:
            worker: the thread that asks.
            done: the job that it has done.
            called: whether it has been waiting, and has just been called.
        """
        other: Worker | None = None
        self._acquire()
        try:
            if done is not None:
                self._calls.append(done)
            if called:
                self._coming = False
                if worker.behind_door:
                    worker.behind_door = False
                    self._door_free = True
            job = self._waiting.take()
            worker.job = job
            if job is not None:
                if self._waiting.first is not None and not (
                    self._coming or self._watched or self.closed
                ):
                    other = self._pick()
            elif self.closed:
                del self._workers[worker]
            elif self._door_free:
                self._door_free = False
                worker.behind_door = True
                self._next_door = worker
            else:
                self._idle.append(worker)
            # The one that is coming has the interpreter as soon as this one lets go of it.
            leave_ringing = self._watched or (self._coming and not called and job is not None)
        finally:
            self._release()
        # Only now, so that who then asks for a thread finds this one.
        if not leave_ringing:
            self._ring()
        if other is not None:
            self._bring_another(other)
        return job

    def _bring_another(self, worker: Worker) -> bool:
        """Bring one for jobs that can wait for those that are there, if it cannot be started."""
        try:
            self._bring(worker)
        except Exception:
            logger.warning(
                "no further thread can be started for requests that wait", exc_info=True
            )
            return False
        return True
