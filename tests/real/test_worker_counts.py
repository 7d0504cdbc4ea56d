"""Counts over many workers: each request once, whatever becomes of the worker that served it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from tests.real.control import Control
from tests.real.load import Load
from tests.real.ports import PortBlock
from tests.real.workers import Workers, params, wait_until


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def control(ports: PortBlock) -> Control:
    """Where the control server is to be."""
    return Control(ports.take())


@contextmanager
def scraped(control: Control) -> Iterator[list[str]]:
    """Read the counters again and again, and note those that have fallen."""
    fallen: list[str] = []
    over = threading.Event()

    def scrape() -> None:
        before: dict[str, float] = {}
        while not over.is_set():
            now = control.counters()
            fallen.extend(
                f"{name}: {before[name]} -> {now.get(name)}"
                for name in before
                if now.get(name, 0.0) < before[name]
            )
            before = now

    scrapers = [threading.Thread(target=scrape) for _ in range(2)]
    for scraper in scrapers:
        scraper.start()
    try:
        yield fallen
    finally:
        over.set()
        for scraper in scrapers:
            scraper.join()


def test_totals_are_exact_and_counters_never_fall_over_reloads_under_load(
    workers: Workers, control: Control
) -> None:
    workers.start("--admin-port", str(control.port))
    site = workers.site("nginx-kept-unix")
    with scraped(control) as fallen, Load(site.origin, clients=4) as load:
        for _ in range(4):
            load.wait_answered(50)
            workers.reload()
        load.wait_answered(50)
    assert not load.failures
    # Those that drained last have told their counts when they have ended.
    wait_until(lambda: workers.log.count("has ended: exit status 0") == 8, "the old ones end")
    assert control.totals()["requests"] == load.answered
    assert control.totals()["responses"] == {"2xx": load.answered}
    counters = control.counters()
    served = "trifcgi_requests_total [('end', 'complete'), ('status', '200')]"
    assert counters[served] == load.answered
    assert counters["trifcgi_request_duration_seconds_count []"] == load.answered
    assert not fallen
    assert workers.stop() == 0


def test_nothing_is_forgotten_when_workers_are_taken_away_or_worn(
    workers: Workers, control: Control
) -> None:
    workers.start("--admin-port", str(control.port), "--max-worker-requests", "10", count=3)
    for _ in range(80):
        workers.ask()
    workers.wait_log("requests: it is replaced")
    workers.send(signal.SIGTTOU)
    wait_until(lambda: len(workers.pids) == 2, "a worker goes")
    workers.wait_log("has ended: exit status 0", 2)
    assert control.totals()["requests"] == 80
    assert workers.stop() == 0


def test_of_a_worker_that_is_killed_the_last_look_counts(
    workers: Workers, control: Control
) -> None:
    workers.start("--admin-port", str(control.port))
    for _ in range(20):
        workers.ask()
    assert control.totals()["requests"] == 20
    workers.signal_worker(signal.SIGKILL)
    workers.wait_log("is ready", 3)
    workers.ask()
    assert control.totals()["requests"] == 21
    assert workers.stop() == 0


class TestCut:
    """Requests that the end of a worker cuts."""

    async def test_by_a_reload_is_counted_and_told_at_the_end_too(
        self, workers: Workers, control: Control
    ) -> None:
        workers.start("--admin-port", str(control.port), "--grace", "0.2")
        async with await workers.connect() as client, client.open(params("sleep=600")):
            await trio.to_thread.run_sync(workers.wait_log, "asleep")
            workers.send(signal.SIGHUP)
            await trio.to_thread.run_sync(workers.wait_log, "requests cut: 1")
        await trio.to_thread.run_sync(workers.wait_log, "has ended", 2)
        assert control.totals()["cut"] == 1
        counters = control.counters()
        assert (
            counters["trifcgi_requests_total [('end', 'server-stopping'), ('status', '503')]"] == 1
        )
        # The stop itself has cut none.
        assert workers.stop() == 0
        assert "supervisor: requests cut before, in workers replaced: 1\n" in workers.log

    async def test_with_a_worker_that_had_to_be_killed_is_counted(
        self, workers: Workers, control: Control
    ) -> None:
        workers.start("--admin-port", str(control.port), "--grace", "0", "--hang-timeout", "2")
        async with AsyncExitStack() as stack:
            held = 0
            while not (running := _running(control, 2)):
                client = await stack.enter_async_context(await workers.connect())
                await stack.enter_async_context(client.open(params("sleep=600")))
                held += 1
                await trio.to_thread.run_sync(workers.wait_log, "asleep", held)
            # The supervisor looks every quarter of the hang timeout; this is six times as long.
            await trio.sleep(3)
            second = next(
                worker for worker in control.get("/status")["workers"] if worker["number"] == 2
            )
            os.kill(second["pid"], signal.SIGSTOP)
            workers.send(signal.SIGTTOU)
            await trio.to_thread.run_sync(workers.wait_log, f"worker 2: requests cut: {running}")
        assert control.totals()["cut"] == running
        workers.stop()
        assert f"requests cut before, in workers replaced: {running}\n" in workers.log


def _running(control: Control, number: int) -> int:
    """Requests that run in one worker."""
    workers = control.get("/status")["workers"]
    return sum(worker["requests"] for worker in workers if worker["number"] == number)
