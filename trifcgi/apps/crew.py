"""The threads of a running pool, and the jobs that they are given.

Compiled, and so without a coroutine: what waits for a job stands in
:mod:`trifcgi.apps.thread_calls`, the pool's beginning and end in :mod:`trifcgi.apps.threads`.

Waking a thread costs more than most jobs do. So one thread at a time is called, and it calls
the next before it begins a job while others are left. Where jobs are short, the one that is
at work has done them all before the one that it has called gets hold of the interpreter; where
a job blocks, that one has it at once, and takes the next. The same holds for the event loop: a
thread that goes on with another job leaves it to the one that is coming to ring.
"""

import contextvars
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.apps import thread_calls

if TYPE_CHECKING:
    from trifcgi.apps.bells import Bell

__all__ = ["Crew", "Job", "Task"]

logger = logging.getLogger(__name__)


class Job:
    """What a thread of the pool has to do; its ``str()`` is what the log calls it.

    Attributes:
        task: who gave it; ``None`` once that task does not care any more.
        error: what it raised; ``None`` otherwise. Never a bare ``SystemExit`` or
            ``KeyboardInterrupt``: an app that raises them ends its request, not the server.
        over: whether the event loop knows that no thread will touch it any more.
        abandoned: whether nobody waits for it.
    """

    __slots__ = ("_context", "abandoned", "error", "over", "task")

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self.abandoned = False
        self.over = False
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
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
        super().__init__()
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
        "_bell",
        "_bell_lock",
        "_call",
        "_calls",
        "_coming",
        "_idle",
        "_lock",
        "_name",
        "_rung",
        "_silent",
        "_started",
        "_threads",
        "_waiting",
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
        # Guards the hand-over of jobs; never held across anything that waits.
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._threads: dict[threading.Thread, Job | None] = {}
        self._started = 0
        self._idle = 0
        # Whether a thread was called, or started, and has not arrived yet.
        self._coming = False
        # Wakes one idle thread for each item.
        self._call: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Guards the bell: it must not be rung after it is closed, as its descriptor's number
        # may be somebody else's by then.
        self._bell_lock = threading.Lock()
        self._calls: deque[Any] = deque()
        self._rung = False
        self._silent = False

    def __repr__(self) -> str:
        return f"<Crew {self._name} {self.busy} of {self.size} busy, {self.waiting} waiting>"

    def working_for(self, task: Any) -> list[threading.Thread]:
        """The threads that run a job which that task waits for; from any thread."""
        with self._lock:
            return [
                thread
                for thread, job in self._threads.items()
                if job is not None and job.task is task
            ]

    @property
    def busy(self) -> int:
        """Threads that run a job now or are about to, abandoned ones included."""
        return len(self._threads) - self._idle

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread, beside the one for which a thread is coming."""
        waiting = len(self._waiting)
        return waiting - 1 if waiting and self._coming else waiting

    # The event loop's side

    def submit(self, call: Any, finished: Any, label: object) -> Job:
        """Have a thread make a call; see :class:`Task` and :meth:`put`."""
        job = Task(call, finished, label)
        self.put(job)
        return job

    def put(self, job: Job) -> None:
        """Have a thread do a job.

        Raises:
            RuntimeError: the pool has been left, or no thread can be started.
        """
        thread: threading.Thread | None = None
        with self._lock:
            if self.closed:
                raise RuntimeError("this thread pool is closed")
            self._waiting[job] = None
            if not self._coming:
                thread = self._call_thread()
        if thread is not None:
            try:
                thread.start()
            except BaseException:
                self._not_started(thread)
                with self._lock:
                    self._waiting.pop(job, None)
                raise

    def abandon(self, job: Job) -> bool:
        """Stop caring about a job: if it has not finished, :meth:`Job.finished` is not called.

        Returns:
            Whether it is certain that no thread runs it. Otherwise its thread stays taken
            until it is done, and counts as abandoned.
        """
        if job.over:
            return True
        with self._lock:
            withdrawn = job in self._waiting
            if withdrawn:
                del self._waiting[job]
        job.abandoned = True
        job.task = None  # which serves another request by and by
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
        calls = self._calls
        while calls:
            call = calls.popleft()
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
        with self._lock:
            self.closed = True
            waiting = list(self._waiting)
            if self._coming:
                waiting = waiting[1:]
            for job in waiting:
                del self._waiting[job]
            idle = [thread for thread, done in self._threads.items() if done is None]
            if self._waiting:
                idle = []  # one of them is coming for a job
            for _ in range(self._idle):
                self._call.put(None)
            self._idle = 0
        for job in waiting:
            job.error = RuntimeError("the thread pool was closed before a thread was free")
            self._done(job)
        return idle

    @property
    def empty(self) -> bool:
        """Whether it has no thread any more."""
        return not self._threads

    def hang_up(self) -> None:
        """Close the bell of a closed crew: what threads post from here on goes nowhere."""
        with self._bell_lock:
            self._silent = True
            self._bell.close()

    def at_work(self) -> dict[threading.Thread, Job | None]:
        """All threads and what they do now."""
        with self._lock:
            return dict(self._threads)

    # The threads' side

    def post(self, call: Callable[[], object]) -> None:
        """Have the event loop make a call soon; from any thread, in order.

        Once the pool has ended it does nothing.
        """
        self._calls.append(call)
        self._ring()

    def _ring(self) -> None:
        if self._calls and not self._rung:
            with self._bell_lock:
                if self._silent:
                    self._calls.clear()
                elif not self._rung:
                    self._rung = True
                    self._bell.ring()

    def _call_thread(self) -> threading.Thread | None:
        """With the lock held: call an idle thread, or return one that has to be started."""
        if self._idle:
            self._idle -= 1
            self._coming = True
            self._call.put(None)
            return None
        if len(self._threads) >= self.size:
            return None
        self._started += 1
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{self._started}", daemon=True
        )
        self._threads[thread] = None
        self._coming = True
        return thread

    def _not_started(self, thread: threading.Thread) -> None:
        with self._lock:
            del self._threads[thread]
            self._coming = False

    def _work(self) -> None:
        """A thread's life."""
        this = threading.current_thread()
        called = True
        while True:
            job = self._next(this, called)
            if job is not None:
                called = False
                job.run()
                self._calls.append(job)
                # An idle thread must not keep its last request alive.
                job = None
            elif this in self._threads:
                self._call.get()
                called = True
            else:
                break
        self.post(lambda: self.left(this))

    def _next(self, this: threading.Thread, called: bool) -> Job | None:
        """The longest waiting job; without one the thread is idle now, or is to leave.

        Args:
            this: the thread that asks.
            called: whether it has been waiting, and has just been called.
        """
        job: Job | None = None
        other: threading.Thread | None = None
        with self._lock:
            if called:
                self._coming = False
            if self._waiting:
                job, _ = self._waiting.popitem(last=False)
                self._threads[this] = job
                if self._waiting and not self._coming and not self.closed:
                    other = self._call_thread()
            elif self.closed:
                del self._threads[this]
            else:
                self._threads[this] = None
                self._idle += 1
            # The one that is coming has the interpreter as soon as this one lets go of it.
            leave_ringing = self._coming and not called and job is not None
        # Only now, so that who then asks for a thread finds this one.
        if not leave_ringing:
            self._ring()
        if other is not None:
            self._start(other)
        return job

    def _start(self, thread: threading.Thread) -> None:
        """In a thread of the pool: start another."""
        try:
            thread.start()
        except Exception:
            self._not_started(thread)
            self._ring()
            logger.warning(
                "no further thread can be started for requests that wait", exc_info=True
            )
