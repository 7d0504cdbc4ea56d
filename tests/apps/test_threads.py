"""The thread pool: bounded, in order, and never outliving its block."""

import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.apps.eventually import until
from trifcgi.apps.crew import Task
from trifcgi.apps.threads import Crew, EventfdBell, ThreadPool, TokenBell

BELLS = pytest.mark.parametrize("bell", [EventfdBell, TokenBell])


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if "test-" in thread.name)


def pool(size: int = 2, **more: Any) -> ThreadPool:
    return ThreadPool(size, name="test", **more)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Gate:
    """A call that stays in its thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.open.wait(10)
        return threading.current_thread().name


@BELLS
async def test_a_call_returns_its_result(bell: Any) -> None:
    async with pool(bell=bell).running() as crew:
        assert await crew.run_sync(divmod, 7, 2) == (3, 1)
        assert names() == ["test-1"]
    assert names() == []


async def test_a_call_raises_its_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool().running() as crew:
            await crew.run_sync(divmod, 7, 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_what_would_end_a_process_does_not_end_the_thread(error: Any) -> None:
    def call() -> None:
        raise error

    async with pool(1).running() as crew:
        with pytest.raises(RuntimeError, match=f"job raised {error.__name__}"):
            await crew.run_sync(call, label="job")
        assert await crew.run_sync(len, "abc") == 3


@BELLS
async def test_many_calls_use_no_more_threads_than_there_may_be(bell: Any) -> None:
    used: set[str] = set()
    most = 0
    running = 0
    lock = threading.Lock()

    def call(number: int) -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
            used.add(threading.current_thread().name)
        time.sleep(0.0001)
        with lock:
            running -= 1
        return number

    async with pool(3, bell=bell).running() as crew, trio.open_nursery() as nursery:
        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await crew.run_sync(call, number))

        for number in range(60):
            nursery.start_soon(one, number)
    assert sorted(results) == list(range(60))
    assert most <= 3
    assert used <= {"test-1", "test-2", "test-3"}


async def test_waiting_jobs_run_in_the_order_in_which_they_came() -> None:
    gate = Gate()
    order: list[int] = []
    done = trio.Event()
    async with pool(1).running() as crew:
        crew.submit(gate, lambda: None, "gate")
        for number in range(5):
            crew.submit(lambda number=number: order.append(number), lambda: None, number)
        crew.submit(lambda: None, done.set, "last")
        assert (crew.busy, crew.waiting) == (1, 6)
        gate.open.set()
        with trio.fail_after(5):
            await done.wait()
    assert order == [0, 1, 2, 3, 4]


@BELLS
@pytest.mark.parametrize("size", [1, 8])
async def test_each_of_many_short_jobs_is_done_once(size: int, bell: Any) -> None:
    done: list[int] = []
    finished: list[int] = []
    async with pool(size, bell=bell).running() as crew:
        for _ in range(20):
            done.clear()
            finished.clear()
            for number in range(50):
                crew.submit(partial(done.append, number), partial(finished.append, number), "job")
            await until(lambda: len(finished) == 50)
            assert sorted(done) == sorted(finished) == list(range(50))
            await until(lambda: not crew.busy)
            assert crew.waiting == 0


@BELLS
async def test_each_job_that_blocks_has_a_thread_at_once(bell: Any) -> None:
    gates = [Gate() for _ in range(8)]
    async with pool(8, bell=bell).running() as crew:
        for gate in gates:
            crew.submit(gate, lambda: None, "gate")
        for gate in gates:
            assert gate.entered.wait(5)
        assert (crew.busy, crew.waiting) == (8, 0)
        for gate in gates:
            gate.open.set()
        await until(lambda: not crew.busy)


@BELLS
async def test_a_job_that_blocks_holds_back_no_other_and_no_result(bell: Any) -> None:
    finished: list[int] = []
    async with pool(2, bell=bell).running() as crew:
        for _ in range(20):
            finished.clear()
            gate = Gate()
            for number in range(6):
                if number == 3:
                    crew.submit(gate, lambda: None, "gate")
                crew.submit(lambda: None, partial(finished.append, number), number)
            await until(lambda: len(finished) == 6)
            gate.open.set()
            await until(lambda: not crew.busy)


@BELLS
@pytest.mark.parametrize("size", [1, 3])
async def test_jobs_that_are_put_with_patience_are_done_once_a_thread_is_called(
    size: int, bell: Any
) -> None:
    made: list[int] = []
    told: list[int] = []
    async with pool(size, bell=bell).running() as crew:
        for _ in range(50):
            made.clear()
            told.clear()
            for number in range(20):
                crew.put(
                    Task(partial(made.append, number), partial(told.append, number), "job"), True
                )
            crew.call_waiting()
            await until(lambda: len(told) == 20)
            assert sorted(made) == sorted(told) == list(range(20))
            await until(lambda: not crew.busy)


@BELLS
async def test_jobs_that_block_hold_back_none_that_was_put_with_them(bell: Any) -> None:
    made: list[int] = []
    async with pool(3, bell=bell).running() as crew:
        await crew.run_sync(len, "abc")
        for _ in range(20):
            made.clear()
            gates = [Gate(), Gate()]
            for number in range(10):
                call = gates[number // 5] if number % 5 == 0 else partial(made.append, number)
                crew.put(Task(call, lambda: None, "job"), True)
            crew.call_waiting()
            await until(lambda: len(made) == 8)
            assert crew.busy == 2
            for gate in gates:
                gate.open.set()
            await until(lambda: not crew.busy)


async def test_jobs_put_with_patience_wait_where_no_further_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    made: list[int] = []
    gate = Gate()
    async with pool(4).running() as crew:
        await crew.run_sync(len, "abc")
        await until(lambda: not crew.busy)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        crew.put(Task(gate, lambda: None, "gate"), True)
        crew.put(Task(partial(made.append, 1), lambda: None, "job"), True)
        crew.call_waiting()
        assert gate.entered.wait(5)
        gate.open.set()
        await until(lambda: made == [1])


async def test_where_no_further_thread_can_be_started_jobs_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    done = trio.Event()
    gate = Gate()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with pool(4).running() as crew:
        await crew.run_sync(len, "abc")
        monkeypatch.setattr(threading.Thread, "start", refuse)
        crew.submit(gate, lambda: None, "gate")
        assert gate.entered.wait(5)
        with pytest.raises(RuntimeError, match="can't start"):
            crew.submit(lambda: ran.append(0), lambda: None, "refused")
        assert (crew.busy, crew.waiting) == (1, 0)
        gate.open.set()
        await until(lambda: not crew.busy)
        # Together, so that it is a thread of the pool that finds out about the second.
        crew.submit(lambda: ran.append(1), lambda: None, "first")
        crew.submit(lambda: ran.append(2), done.set, "second")
        with trio.fail_after(5):
            await done.wait()
        assert ran == [1, 2]
        monkeypatch.setattr(threading.Thread, "start", start)
        assert await crew.run_sync(len, "abc") == 3


async def test_the_context_is_copied_into_the_thread() -> None:
    variable = contextvars.ContextVar("variable", default="outside")

    def call() -> str:
        seen = variable.get()
        variable.set("thread")
        return seen

    async with pool().running() as crew:
        variable.set("task")
        assert await crew.run_sync(call) == "task"
        assert variable.get() == "task"


async def test_a_waiting_job_can_be_withdrawn() -> None:
    gate = Gate()
    ran: list[str] = []
    async with pool(1).running() as crew:
        crew.submit(gate, lambda: None, "gate")
        job = crew.submit(lambda: ran.append("no"), lambda: ran.append("never"), "job")
        assert crew.abandon(job)
        assert (crew.waiting, crew.abandoned) == (0, 0)
        gate.open.set()
        await crew.run_sync(lambda: None)
    assert not ran


async def test_a_cancelled_call_leaves_at_once_and_keeps_its_thread() -> None:
    gate = Gate()
    async with pool(1).running() as crew:
        with trio.move_on_after(0.01) as scope:
            await crew.run_sync(gate)
        assert scope.cancelled_caught
        assert (crew.busy, crew.abandoned) == (1, 1)
        gate.open.set()
        await until(lambda: not crew.abandoned)
        assert await crew.run_sync(gate) == "test-1"


async def test_a_call_in_a_cancelled_scope_is_not_made() -> None:
    ran: list[int] = []
    async with pool(1).running() as crew:
        with trio.CancelScope() as scope:
            scope.cancel()
            await crew.run_sync(ran.append, 1)
    assert not ran


async def test_a_late_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def call() -> None:
        gate()
        raise LookupError("too late")

    async with pool(1).running() as crew:
        with trio.move_on_after(0.01):
            await crew.run_sync(call, label="GET /late")
        gate.open.set()
        await until(lambda: not crew.abandoned)
    assert "GET /late failed after it was given up" in caplog.text
    assert "too late" in caplog.text


async def test_abandoning_a_finished_job_changes_nothing() -> None:
    done = trio.Event()
    async with pool(1).running() as crew:
        job = crew.submit(lambda: None, done.set, "job")
        await done.wait()
        assert crew.abandon(job)
        assert crew.abandoned == 0


@BELLS
async def test_leaving_waits_for_what_runs(bell: Any) -> None:
    gate = Gate()
    async with pool(2, bell=bell).running() as crew:
        crew.submit(gate, lambda: None, "gate")
        threading.Timer(0.02, gate.open.set).start()
    assert names() == []


@BELLS
async def test_a_cancelled_pool_leaves_no_thread(bell: Any) -> None:
    let_go = threading.Event()
    with trio.CancelScope() as scope:
        async with pool(3, bell=bell).running() as crew, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(crew.run_sync, let_go.wait, 10)
            await until(lambda: len(names()) == 3)
            scope.cancel()
            let_go.set()
    assert scope.cancelled_caught
    assert names() == []


async def test_a_stuck_thread_is_named_and_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    began = trio.current_time()
    async with pool(1, join_timeout=0.05).running() as crew:
        crew.submit(gate, lambda: None, "GET /stuck")
        assert gate.entered.wait(5)
    assert trio.current_time() - began < 2
    assert "thread test-1 still runs GET /stuck" in caplog.text
    assert "assert self.open.wait(10)" in caplog.text
    # Its bell is gone; it must end without touching a descriptor that is another's by now.
    gate.open.set()
    await until(lambda: names() == [])


async def test_idle_threads_are_not_taken_for_stuck_by_a_mock_clock(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool(4).running() as crew, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(crew.run_sync, len, "abc")
    assert names() == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_jobs_that_wait_when_the_pool_ends_fail() -> None:
    gate = Gate()
    errors: list[str] = []
    workers = pool(1)

    async def call() -> None:
        assert workers.crew is not None
        try:
            await workers.crew.run_sync(len, "abc")
        except RuntimeError as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery, workers.running() as crew:
        crew.submit(gate, lambda: None, "gate")
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        threading.Timer(0.01, gate.open.set).start()
    assert errors == ["the thread pool was closed before a thread was free"]
    with pytest.raises(RuntimeError, match="closed"):
        crew.submit(lambda: None, lambda: None, "late")


async def test_users_may_leave_in_any_order() -> None:
    shared = pool(1)
    leave = {name: trio.Event() for name in "abc"}
    crews: list[Crew] = []
    left: list[str] = []

    async def use(name: str) -> None:
        async with shared.running() as crew:
            crews.append(crew)
            await leave[name].wait()
        left.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(use, name)
        await trio.testing.wait_all_tasks_blocked()
        assert crews == [shared.crew] * 3
        for number, name in enumerate("bac", 1):
            with trio.fail_after(5):
                assert await crews[0].run_sync(len, "abc") == 3
            leave[name].set()
            await until(lambda: len(left) == number)  # noqa: B023
    assert shared.crew is None
    assert names() == []


async def test_calls_posted_from_a_thread_are_made_in_order() -> None:
    made: list[int] = []
    posts = 2000

    def call(post: Callable[[Callable[[], None]], None]) -> None:
        for number in range(posts):
            post(lambda number=number: made.append(number))  # type: ignore[misc]

    async with pool(1).running() as crew:
        await crew.run_sync(call, crew.post)
        assert made == list(range(posts))


async def test_the_block_raises_its_own_error_ungrouped() -> None:
    with pytest.raises(LookupError):
        async with pool().running():
            raise LookupError


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_sizes(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threads"):
        ThreadPool(size)


async def test_a_job_that_somebody_has_is_not_refused_as_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    done = threading.Event()

    def do() -> None:
        made.append(1)
        done.set()

    gate = Gate()
    async with pool(2).running() as crew:
        await crew.run_sync(len, "abc")
        await until(lambda: not crew.busy)

        def refuse(thread: threading.Thread) -> None:
            gate.open.set()  # the busy thread takes the job, and does it, meanwhile
            assert done.wait(10)
            raise RuntimeError("can't start new thread")

        crew.submit(gate, lambda: None, "gate")
        assert gate.entered.wait(5)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        crew.submit(do, lambda: None, "job")
        await until(lambda: not crew.busy)
    assert made == [1]


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="there is no eventfd")
async def test_a_signal_does_not_end_a_thread_that_waits_to_be_called() -> None:
    def ignore(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGUSR2, ignore)
    try:
        async with pool(1, bell=EventfdBell).running() as crew:
            assert await crew.run_sync(len, "abc") == 3
            (thread,) = crew.at_work()
            for _ in range(20):
                assert thread.ident is not None
                signal.pthread_kill(thread.ident, signal.SIGUSR2)
                await trio.sleep(0.001)
            with trio.fail_after(5):
                assert await crew.run_sync(len, "abcd") == 4
    finally:
        signal.signal(signal.SIGUSR2, before)


async def test_a_thread_that_is_left_behind_leaves_no_descriptor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = open_files()
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        async with pool(1, join_timeout=0.01).running() as crew:
            crew.submit(gate, lambda: None, "gate")
            assert gate.entered.wait(5)
        gate.open.set()
        await until(lambda: crew.empty)
    await until(lambda: open_files() <= before)
