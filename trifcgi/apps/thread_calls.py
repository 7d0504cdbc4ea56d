"""Waiting for a thread of the pool: what is a coroutine about that."""

import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, TypeVarTuple

import trio

if TYPE_CHECKING:
    from trifcgi.apps.crew import Crew

__all__ = ["WOKEN", "Seat", "run_sync"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Whether seats use one message over and over; see Seat.
REUSE_PARKING = True


class _Outcome(Generic[T]):
    """Where a call leaves its result."""

    __slots__ = ("value",)

    value: T


async def run_sync(
    crew: "Crew", function: Callable[[*Ts], T], *args: *Ts, label: object = None
) -> T:
    """Call a function in a thread and return what it returns.

    A cancel leaves at once: a call that no thread has begun is never made, another one
    runs on as an abandoned one, and its result is dropped.

    Raises:
        Exception: whatever the function raised. ``SystemExit`` and its like come as a
            ``RuntimeError``.
    """
    task = trio.lowlevel.current_task()
    outcome: _Outcome[T] = _Outcome()

    def call() -> None:
        outcome.value = function(*args)

    def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        crew.abandon(job)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.checkpoint_if_cancelled()
    job = crew.submit(
        call, lambda: trio.lowlevel.reschedule(task), function if label is None else label
    )
    await trio.lowlevel.wait_task_rescheduled(abort)
    error, job.error = job.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame
    return outcome.value


class _Woken:
    """What a seated task is woken with: an outcome that can be used again, unlike trio's own."""

    def unwrap(self) -> None:
        """Nothing is handed over."""


WOKEN: Final[Any] = _Woken()


class Seat:
    """Where the task of one request waits for its thread; the next request's may have it then.

    Making the message that parks a task costs more than parking it, and it is the same each
    time, so each seat makes it once, by trio's own ``wait_task_rescheduled``. That trio takes it
    more than once is not promised, and :data:`REUSE_PARKING` goes back to the plain call.
    """

    __slots__ = ("_message", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._message: Any = self._make_message() if REUSE_PARKING else None

    def _make_message(self) -> Any:  # Any: trio's own secret
        waiting = trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - stepped
        try:
            return waiting.send(None)
        finally:
            waiting.close()

    def _abort(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    @types.coroutine
    def wait(self, task: trio.lowlevel.Task | None) -> Generator[Any, Any, None]:
        """Have ``task``, the calling one, wait until :meth:`wake`."""
        self._task = task
        if self._message is None:
            plain = trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - below
            yield from plain.__await__()
        else:
            outcome = yield self._message
            if outcome is not WOKEN:
                outcome.unwrap()

    def wake(self) -> None:
        """Let the task go on, if one waits here."""
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task, WOKEN)
