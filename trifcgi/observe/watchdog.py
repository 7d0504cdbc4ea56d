"""Notice that the event loop does not come round, and say which request is holding it up.

A thread beside the loop sends it a beat every quarter of a second while requests run, and now
and then while none do. A beat that is not answered in time has the request named that runs
without a checkpoint; one that is overdue for long has all stacks written to the log, from the
thread, as the loop itself cannot. Nothing is stopped here: whether a process that hangs
is to be replaced is for its supervisor to say.
"""

import collections
import contextlib
import faulthandler
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import trio

from trifcgi.observe.stacks import (
    Exchange,
    ThreadsOf,
    describe,
    format_threads,
    format_tree,
    request_of,
    running_task,
    task_tree,
    thread_stacks,
)

__all__ = ["LoopWatch", "Subject", "dump_on_abort", "watch_loop"]

_log: Final = logging.getLogger("trifcgi.watchdog")

_LOOKS: Final = 4
"""Looks within the time after which a block counts, while requests run: by one of these
intervals too short may it be reported."""

_IDLE_LOOKS: Final = 2
"""The same while none run: each look costs a wake-up of the process, 50 µs or so."""

_BUSY: Final = 0.1
"""The share of a processor from which on a process was at work, be the machine overloaded."""

_MOST_LINES: Final = 2000

_STDERR: Final = 2


class Subject(Protocol):
    """What is needed of the data plane."""

    @property
    def running(self) -> int: ...
    @property
    def stepping(self) -> Exchange | None: ...
    def exchanges(self) -> Sequence[Exchange]: ...


class LoopWatch:
    """What is known of one event loop. It has no thread and no clock of its own: whoever
    drives it says what time it is.

    Args:
        subject: whose requests may be to blame.
        hang_timeout: seconds after which all stacks are logged; ``inf``: never.
        block_after: seconds without a checkpoint that are worth a warning.
        idle_beat: seconds between beats while no request runs: background tasks block, too.
        threads_of: says which threads work for a task.

    Attributes:
        interval: seconds until the next look is due.
        lag: seconds that the last beat took; what an event waits before it is handled.
        worst_lag: the largest so far.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        hang_timeout: float,
        block_after: float = 1.0,
        idle_beat: float = 5.0,
        threads_of: ThreadsOf | None = None,
        now: float,
        cpu: float,
    ) -> None:
        self._shortest = min(block_after, hang_timeout)
        self.interval = self._shortest / _IDLE_LOOKS
        self.lag = 0.0
        self.worst_lag = 0.0
        self._subject = subject
        self._hang_timeout = hang_timeout
        self._block_after = block_after
        self._idle_beat = idle_beat
        self._threads_of = threads_of
        self._root = trio.lowlevel.current_root_task()
        self._looked = now
        self._cpu = cpu
        self._answered = now
        self._sent: float | None = None
        self._dumped = False
        self._suspects: list[str] = []

    def look(self, now: float, cpu: float) -> bool:
        """Look whether the loop is alive; in the watching thread, after ``interval``.

        Args:
            now: a monotonic clock, in seconds.
            cpu: seconds of processor time that the process has used.

        Returns:
            Whether to send a beat: to have the loop call :meth:`came_round`.
        """
        lost, burnt = now - self._looked - self.interval, cpu - self._cpu
        self._looked, self._cpu = now, cpu
        looks = _LOOKS if self._subject.running or self._sent else _IDLE_LOOKS
        self.interval = self._shortest / looks
        begun = now
        if lost >= self._block_after:
            # This thread had no turn either.
            if burnt < lost * _BUSY:
                self._slept(lost)
            else:
                # Something kept the interpreter to itself, as a regular expression does. The
                # first to have it again is this thread, and the culprit has not got far.
                begun = now - lost
        sent = self._sent
        if sent is not None:
            self._overdue(now - sent)
            return False
        due = self._subject.running or now - self._answered >= self._idle_beat or begun < now
        if due:
            self._suspects = []
            self._dumped = False
            self.interval = self._shortest / _LOOKS
            if begun < now:
                self._overdue(now - begun)
            self._sent = begun  # last: where that failed none is sent, and none is to be missed
        return bool(due)

    def came_round(self, now: float) -> None:
        """Answer a beat; in the event loop."""
        sent, self._sent = self._sent, None
        self._answered = now
        if sent is None:
            return
        self.lag = max(0.0, now - sent)
        self.worst_lag = max(self.worst_lag, self.lag)
        if self.lag >= self._block_after:
            _log.warning("%s", _verdict(self._suspects, self.lag))

    def _slept(self, seconds: float) -> None:
        _log.info("the process was stopped, or had no processor, for %.1f s", seconds)
        if self._sent is not None:
            self._sent += seconds

    def _overdue(self, waited: float) -> None:
        suspect = self._suspect()
        if suspect is not None:
            self._suspects.append(suspect)
        # Rather a little early than late: the next look may never come.
        if waited + self.interval > self._hang_timeout and not self._dumped:
            self._dumped = True
            self._dump(waited, suspect)

    def _suspect(self) -> str | None:
        """What runs at this moment; ``None`` when nothing does."""
        exchange = self._subject.stepping
        if exchange is not None:
            return describe(exchange)
        task = None if self._root is None else running_task(self._root)
        if task is None:
            return None
        exchange = request_of(task, self._subject.exchanges())
        name = f"the task {task.name}"
        return name if exchange is None else f"{name} of {describe(exchange)}"

    def _dump(self, waited: float, suspect: str | None) -> None:
        exchanges = self._subject.exchanges()
        tree = None if self._root is None else task_tree(self._root, exchanges, self._threads_of)
        _log.error(
            "the event loop has been blocked for %.1f s%s\n%s\n%s",
            waited,
            "" if suspect is None else f" by {suspect}",
            format_threads(thread_stacks()),
            "" if tree is None else format_tree(tree, most_lines=_MOST_LINES),
        )


def _verdict(suspects: Sequence[str], lag: float) -> str:
    took = f"{lag * 1000:.0f} ms"
    seen = collections.Counter(suspects)
    if not seen:
        return f"the event loop did not come round for {took}"
    first, times = seen.most_common(1)[0]
    if times * 2 > len(suspects):
        return f"{first} ran {took} without a checkpoint"
    # No single one: more to do than one round of the loop should have.
    return f"the event loop took {took} to come round; seen running: {'; '.join([*seen][:5])}"


def dump_on_abort() -> None:
    """Have SIGABRT and fatal signals write all threads' Python stacks to stderr.

    This works also where no Python code can run, since an extension module holds the
    interpreter. systemd's watchdog sends SIGABRT to a service that does not answer.
    """
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError):  # the process was started without stderr
            faulthandler.enable(_STDERR)


@contextlib.asynccontextmanager
async def watch_loop(
    subject: Subject,
    *,
    hang_timeout: float,
    block_after: float = 1.0,
    idle_beat: float = 5.0,
    threads_of: ThreadsOf | None = None,
) -> AsyncIterator[LoopWatch]:
    """Watch the event loop that this is entered in, for as long as the block lasts.

    The thread is joined on the way out, cancelled or not. It is a daemon thread: if its own
    log line cannot be written it does not hold the process up.

    Args:
        subject: the data plane.
        hang_timeout: seconds after which a blocked loop has all stacks logged; ``inf``: never.
        block_after: seconds without a checkpoint that are worth a warning.
        idle_beat: seconds between beats while no request runs: background tasks block, too.
        threads_of: says which threads work for a task.
    """
    watch = LoopWatch(
        subject,
        hang_timeout=hang_timeout,
        block_after=block_after,
        idle_beat=idle_beat,
        threads_of=threads_of,
        now=time.monotonic(),
        cpu=time.process_time(),
    )
    over = threading.Lock()  # held until then: to wait for it is one call, an Event's are twenty
    over.acquire()
    token = trio.lowlevel.current_trio_token()
    thread = threading.Thread(
        target=_watch, args=(watch, token, over), name="trifcgi watchdog", daemon=True
    )
    thread.start()
    try:
        yield watch
    finally:
        over.release()
        thread.join(1)


def _watch(watch: LoopWatch, token: trio.lowlevel.TrioToken, over: threading.Lock) -> None:
    def answer() -> None:
        try:
            watch.came_round(time.monotonic())
        except Exception:  # noqa: BLE001 (raised here, it would end the whole run)
            _log.exception("the watchdog failed to report")

    while not over.acquire(timeout=watch.interval):
        try:
            if watch.look(time.monotonic(), time.process_time()):
                token.run_sync_soon(answer)
        except trio.RunFinishedError:
            return
        except Exception:  # noqa: BLE001 (logged; the loop may have come round in the middle)
            _log.exception("the watchdog failed to look")
