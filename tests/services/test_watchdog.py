"""What is said when the event loop does not come round."""

import logging
import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.services.planes import GET, serving
from trifcgi import Request
from trifcgi.observe.watchdog import LoopWatch, watch_loop
from trifcgi.server import DataPlane

# What is to happen within it takes milliseconds.
PATIENCE = 20.0


class Driven:
    """A watch that is told what time it is, and what runs."""

    def __init__(self, *, hang_timeout: float = 30.0) -> None:
        self.subject = SimpleNamespace(running=0, stepping=None, exchanges=list)
        self.watch = LoopWatch(self.subject, hang_timeout=hang_timeout, now=0.0, cpu=0.0)
        self.now = 0.0
        self.cpu = 0.0

    def look(self, *, after: float = 0.25, burning: float = 0.0) -> bool:
        self.now += after
        self.cpu += burning
        return self.watch.look(self.now, self.cpu)

    def step(self, number: int) -> None:
        params = {"REQUEST_METHOD": "GET", "REQUEST_URI": f"/{number}"}
        self.subject.stepping = SimpleNamespace(number=number, params=params, nurseries=())

    def answer(self, *, after: float = 0.0) -> None:
        self.subject.stepping = None
        self.now += after
        self.watch.came_round(self.now)


async def test_an_idle_loop_gets_a_beat_now_and_then() -> None:
    driven = Driven()
    looks = [driven.look(after=driven.watch.interval) for _ in range(10)]
    assert looks == [False] * 9 + [True]


async def test_a_busy_loop_gets_a_beat_with_every_look() -> None:
    driven = Driven()
    driven.subject.running = 1
    for _ in range(3):
        assert driven.look()
        driven.answer(after=0.001)
    assert driven.watch.lag == pytest.approx(0.001)


async def test_no_second_beat_is_sent_before_the_first_is_answered() -> None:
    driven = Driven()
    driven.subject.running = 1
    assert driven.look()
    assert not driven.look()


async def test_a_look_that_fails_does_not_leave_a_beat_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driven = Driven()
    driven.subject.running = 1

    def fail() -> list[Any]:
        raise RuntimeError("Set changed size during iteration")

    driven.subject.exchanges = fail
    with pytest.raises(RuntimeError):
        driven.look(after=40, burning=40)
    driven.subject.exchanges = list
    assert driven.look()
    driven.answer(after=0.1)
    assert driven.look()
    assert caplog.records == []


async def test_a_request_that_runs_too_long_is_named_once_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driven = Driven()
    driven.subject.running = 1
    driven.look()
    driven.step(17)
    for _ in range(4):
        driven.look()
    assert caplog.records == []
    driven.answer(after=0.1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "GET /17 (request 17) ran 1100 ms without a checkpoint"
    assert driven.watch.worst_lag == pytest.approx(1.1)


async def test_a_shorter_block_is_nobodys_concern(caplog: pytest.LogCaptureFixture) -> None:
    driven = Driven()
    driven.subject.running = 1
    driven.look()
    driven.step(1)
    driven.look()
    driven.answer(after=0.5)
    assert caplog.records == []


async def test_many_that_share_one_round_are_not_blamed_for_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driven = Driven()
    driven.subject.running = 9
    driven.look()
    for number in range(4):
        driven.step(number)
        driven.look()
    driven.answer()
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "the event loop took 1000 ms to come round; seen running: GET /0 (request 0); GET /1"
    )


async def test_a_hang_is_dumped_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    driven = Driven(hang_timeout=3.0)
    driven.subject.running = 1
    driven.look()
    driven.step(5)
    for _ in range(20):
        driven.look()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    message = record.getMessage()
    assert message.startswith(
        "the event loop has been blocked for 3.0 s by GET /5 (request 5)\nthread MainThread\n"
    )
    assert "\ntask <init>\n" in message


async def test_an_interpreter_that_was_held_is_told_from_a_process_that_was_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    driven = Driven()
    driven.subject.running = 1
    driven.step(3)
    assert driven.look(
        after=driven.watch.interval + 5, burning=5.0
    )  # no thread had a turn, yet work was done
    driven.answer()
    driven.step(4)
    assert driven.look(after=driven.watch.interval + 7, burning=0.1)
    driven.answer()
    assert [record.getMessage() for record in caplog.records] == [
        "GET /3 (request 3) ran 5000 ms without a checkpoint",
        "the process was stopped, or had no processor, for 7.0 s",
    ]


async def test_a_hostile_uri_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    driven = Driven()
    driven.subject.running = 1
    driven.look()
    for _ in range(4):
        driven.step(1)
        driven.subject.stepping.params["REQUEST_URI"] = "/x\nERROR forged\x1b[2J" + "y" * 10_000
        driven.look()
    driven.answer()
    message = caplog.records[0].getMessage()
    assert message.startswith("GET /x\\nERROR forged\\x1b[2Jyyy")
    assert len(message) < 700


def until(seen: Callable[[], bool]) -> None:
    """Block the event loop until something has been seen."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def beats_answered() -> None:
    """Return once the beats that have been sent are answered: in order, like this one."""
    came = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(came.set)
    await came.wait()


async def answer(request: Request) -> None:
    await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n")


@pytest.mark.real
async def test_a_blocked_loop_is_dumped_by_the_thread_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def blocking(request: Request) -> None:
        until(lambda: bool(messages(caplog, logging.ERROR)))
        await answer(request)

    async with (
        serving(blocking) as (plane, client),
        watch_loop(plane, hang_timeout=0.2, block_after=0.1) as watch,
    ):
        await client.request(GET)
        await beats_answered()
        assert watch.worst_lag > 0.1
    (dump,) = messages(caplog, logging.ERROR)
    assert "by GET /hello (request 1)" in dump.partition("\n")[0]
    assert "in until\n" in dump
    assert "thread trifcgi watchdog\n" in dump
    assert "for request 1, running\n" in dump
    (report,) = messages(caplog, logging.WARNING)
    assert re.fullmatch(r"GET /hello \(request 1\) ran \d+ ms without a checkpoint", report)


@pytest.mark.real
async def test_a_task_of_a_request_is_blamed_together_with_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def block() -> None:
        until(lambda: bool(messages(caplog, logging.ERROR)))

    async def handler(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block, name="child")
        await answer(request)

    async with (
        serving(handler) as (plane, client),
        watch_loop(plane, hang_timeout=0.2, block_after=0.1),
    ):
        await client.request(GET)
    (dump,) = messages(caplog, logging.ERROR)
    assert "by the task child of GET /hello (request 1)" in dump.partition("\n")[0]


@pytest.mark.real
async def test_a_background_task_is_noticed_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(answer) as (plane, _),
        watch_loop(plane, hang_timeout=0.2, block_after=0.1, idle_beat=0.05),
    ):
        until(lambda: bool(messages(caplog, logging.ERROR)))
    (dump,) = messages(caplog, logging.ERROR)
    assert re.search(r"by the task <test 'test_a_background", dump.partition("\n")[0])


@pytest.mark.real
async def test_the_thread_is_gone_after_the_block() -> None:
    plane: Any = DataPlane(answer)
    async with watch_loop(plane, hang_timeout=30):
        assert "trifcgi watchdog" in [thread.name for thread in threading.enumerate()]
    assert "trifcgi watchdog" not in [thread.name for thread in threading.enumerate()]
