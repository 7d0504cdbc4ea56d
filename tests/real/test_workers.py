"""Worker processes under a supervisor, alone and under load behind real front ends."""

import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.real.load import Load
from tests.real.ports import PortBlock
from tests.real.workers import SITES, Workers, params, wait_until
from trifcgi import Client
from trifcgi.errors import ConnectionLost


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("name", SITES)
def test_a_reload_loads_new_code_and_loses_no_request(workers: Workers, name: str) -> None:
    workers.start()
    site = workers.site(name)
    with Load(site.origin, clients=4) as load:
        load.wait_answered(50)
        workers.write("version", "2")
        workers.reload()
        load.wait_answered(50)
    assert not load.failures
    assert {body.split()[0] for body in load.bodies} == {b"1", b"2"}
    assert workers.ask().startswith(b"2 ")
    assert workers.stop() == 0


def test_reloads_that_overlap_lose_no_request_and_are_few(workers: Workers) -> None:
    workers.start()
    site = workers.site("nginx-kept-unix")
    with Load(site.origin, clients=4) as load:
        load.wait_answered(50)
        for pause in range(25):
            workers.send(signal.SIGHUP)
            time.sleep(pause / 1000)
        workers.wait_log("reloaded:")
        load.wait_answered(50)
    assert not load.failures
    # Two at the start, the one that was starting already, each once more; a slow machine spreads
    # the signals over more of them.
    assert workers.log.count("is ready") <= 10
    assert workers.stop() == 0


def test_a_generation_that_cannot_start_leaves_the_old_one_and_says_why(
    workers: Workers,
) -> None:
    workers.start()
    before = workers.pids
    workers.write("at_import", "raise LookupError('no database')")
    workers.send(signal.SIGHUP)
    log = workers.wait_log("which was to replace worker 1, could not start (exit status 2)")
    assert "trifcgi: importing module 'app_of_workers' failed: LookupError: no database" in log
    assert workers.pids == before
    assert workers.ask().startswith(b"1 ")
    workers.write("at_import", "")
    workers.write("version", "2")
    workers.reload()
    assert workers.ask().startswith(b"2 ")
    assert workers.stop() == 0


def test_a_worker_that_is_killed_is_replaced_and_no_get_is_lost(workers: Workers) -> None:
    workers.start()
    site = workers.site("nginx-recommended")
    with Load(site.origin, clients=4, posts=False) as load:
        load.wait_answered(50)
        for times in (1, 2):
            killed = workers.signal_worker(signal.SIGKILL)
            workers.wait_log("has died (SIGKILL); it is replaced", times)
            workers.wait_log("is ready", 2 + times)
            assert killed not in workers.pids
            load.wait_answered(50)
    assert not load.failures
    assert workers.stop() == 0


def test_a_worker_that_stands_still_is_replaced(workers: Workers) -> None:
    workers.start("--hang-timeout", "1")
    stopped = workers.signal_worker(signal.SIGSTOP)
    workers.wait_log("has not answered for 1 s; it is aborted")
    workers.wait_log("is ready", 3)
    assert stopped not in workers.pids
    assert workers.ask().startswith(b"1 ")
    assert workers.stop() == 0


_BLOCKS = """
async def blocks(request):
    if request.params["QUERY_STRING"] == "block":
        time.sleep(600)
    await app(request)
sys.modules["app_of_workers"].blocks = blocks
"""


async def test_while_one_hangs_the_others_never_stall(workers: Workers) -> None:
    workers.write("at_import", _BLOCKS)
    workers.start("--hang-timeout", "3", app="app_of_workers:blocks")
    kept, new = [], []
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        clients = [await stack.enter_async_context(await workers.connect()) for _ in range(2)]
        served = {(await client.request(params())).body for client in clients}
        assert len(served) == 2, "each has a worker of its own"
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def block() -> None:
                with pytest.raises(ConnectionLost):
                    await clients[0].request(params("block"))

            while "has not answered" not in workers.log:
                began = time.perf_counter()
                await clients[1].request(params())
                between = time.perf_counter()
                async with await workers.connect() as client:
                    await client.request(params())
                kept.append(between - began)
                new.append(time.perf_counter() - between)
                await trio.sleep(0.02)
    for what, seconds in (("kept", kept), ("new", new)):
        print(f"{what}: {len(seconds)}, median {1000 * statistics.median(seconds):.1f} ms")
        assert statistics.median(seconds) < 0.05
    workers.wait_log("is ready", 3)
    log = workers.log
    assert re.search(r"the event loop has been blocked for .* by GET /\S* \(request \d+\)\n", log)
    assert workers.stop() == 0


def test_one_that_keeps_dying_is_tried_again_with_pauses(workers: Workers) -> None:
    workers.start()
    workers.write("at_import", "os._exit(7)")
    workers.signal_worker(signal.SIGKILL)
    workers.wait_log("has died (exit status 7)")
    workers.wait_log("in a row have died in its place: the next one starts in 0.5 s")
    assert workers.ask().startswith(b"1 ")
    workers.write("at_import", "")
    workers.wait_log("is ready", 3)
    assert workers.stop() == 0


class TestSize:
    def test_workers_are_added_and_removed(self, workers: Workers) -> None:
        workers.start()
        workers.send(signal.SIGTTIN)
        workers.wait_log("is ready", 3)
        assert len(workers.pids) == 3
        workers.send(signal.SIGTTOU)
        workers.wait_log("has ended: exit status 0")
        workers.send(signal.SIGTTOU)
        workers.wait_log("has ended: exit status 0", 2)
        workers.send(signal.SIGTTOU)
        workers.wait_log("the last worker is not removed")
        assert len(workers.pids) == 1
        assert workers.ask().startswith(b"1 ")
        assert workers.stop() == 0

    def test_one_that_somebody_else_stops_is_replaced(self, workers: Workers) -> None:
        workers.start()
        workers.signal_worker(signal.SIGTERM)
        workers.wait_log("is ready", 3)
        assert len(workers.pids) == 2
        assert workers.stop() == 0


class TestRecycling:
    def test_after_its_requests_a_worker_is_replaced_and_none_is_lost(
        self, workers: Workers
    ) -> None:
        workers.start("--max-worker-requests", "100")
        site = workers.site("nginx-kept-unix")
        with Load(site.origin, clients=4) as load:
            workers.wait_log("requests: it is replaced", 2)
            workers.wait_log("has ended: exit status 0", 2)
        assert not load.failures
        assert workers.stop() == 0

    def test_past_its_memory_too(self, workers: Workers) -> None:
        workers.start("--max-worker-rss", "200M", count=1)
        (grown,) = workers.pids
        workers.ask("grow=250000000")
        workers.wait_log("MiB of memory: it is replaced")
        workers.wait_log("has ended: exit status 0")
        assert grown not in workers.pids
        assert workers.stop() == 0

    async def test_what_runs_in_it_may_run_on(self, workers: Workers) -> None:
        workers.start("--max-worker-requests", "3", "--grace", "1")
        async with await workers.connect() as client, client.open(params()) as exchange:
            retired = await _wear(workers, client)
            await trio.sleep(2)  # longer than the grace
            assert retired in workers.pids
            exchange.stdin.close()
            with trio.fail_after(30):
                answer = b"".join([part async for part in exchange.stdout])
        assert answer.endswith(b"\r\n\r\n1 %d" % retired)
        ended = f"(pid {retired}) has ended: exit status 0"
        await trio.to_thread.run_sync(workers.wait_log, ended)
        assert await trio.to_thread.run_sync(workers.stop) == 0
        assert "requests cut" not in workers.log

    async def test_until_all_are_stopped(self, workers: Workers) -> None:
        workers.start("--max-worker-requests", "3", "--grace", "1")
        async with await workers.connect() as client, client.open(params()):
            retired = await _wear(workers, client)
            await trio.sleep(2)  # longer than the grace
            assert retired in workers.pids
            begin = time.monotonic()
            workers.send(signal.SIGTERM)
            assert await trio.to_thread.run_sync(workers.serving.wait) == 1
        assert 0.9 <= time.monotonic() - begin < 15
        assert "still running after 1 s; cancelled" in workers.log
        assert "supervisor: requests cut: 1\n" in workers.log
        assert "stopping at once" not in workers.log
        assert "is killed" not in workers.log


async def _wear(workers: Workers, client: Client) -> int:
    """Have the worker recycled that serves a connection, on which a request runs; returns its
    process ID.
    """
    with trio.fail_after(30):
        answers = [(await client.request(params())).body for _ in range(4)]
    pid = int(answers[-1].split()[1])
    (number,) = re.findall(rf"worker (\d+) \(pid {pid}\) is ready", workers.log)
    retiring = f"worker {number}: retiring: requests running: 1\n"
    await trio.to_thread.run_sync(workers.wait_log, retiring)
    return pid


class TestStart:
    def test_an_app_that_cannot_be_loaded_is_told_once(self, workers: Workers) -> None:
        workers.write("at_import", "raise LookupError('no database')")
        workers.prepare()
        assert workers.serving.wait() == 2
        assert workers.log.count("LookupError: no database") == 2  # traceback and sentence
        assert workers.log.count("Traceback") == 1
        assert "listening on" not in workers.log

    def test_a_first_worker_that_dies_is_a_failure(self, workers: Workers) -> None:
        workers.write("at_import", "os._exit(7)")
        workers.prepare()
        assert workers.serving.wait() == 1
        assert "worker 1 could not start (exit status 7)" in workers.log

    def test_each_listener_is_named_once(self, workers: Workers) -> None:
        workers.start()
        assert workers.stop() == 0
        assert workers.log.count("listening on 127.0.0.1:") == 1
        assert workers.log.count("listening on unix:") == 1
        assert not (workers.directory / "a.sock").exists()


class TestStop:
    async def test_requests_that_run_are_finished(self, workers: Workers) -> None:
        workers.start()
        async with await workers.connect() as client, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert (await client.request(params("sleep=1"))).body.startswith(b"1 ")

            await trio.to_thread.run_sync(workers.wait_log, "asleep")
            workers.send(signal.SIGTERM)
        assert workers.serving.wait() == 0
        assert "requests cut" not in workers.log

    async def test_a_second_signal_is_at_once_and_what_it_cuts_is_told(
        self, workers: Workers
    ) -> None:
        workers.start()
        async with await workers.connect() as client, client.open(params("sleep=600")):
            await trio.to_thread.run_sync(workers.wait_log, "asleep")
            workers.send(signal.SIGTERM)
            await trio.to_thread.run_sync(workers.wait_log, "stopping: requests running: 1")
            workers.send(signal.SIGTERM)
            assert workers.serving.wait() == 1
        assert "supervisor: requests cut: 1\n" in workers.log

    def test_one_that_does_not_obey_is_killed(self, workers: Workers) -> None:
        workers.start()
        workers.signal_worker(signal.SIGSTOP)
        workers.send(signal.SIGINT)
        workers.wait_log("has ended: exit status 0")
        workers.send(signal.SIGINT)
        assert workers.serving.wait() == 1
        assert "worker 1 does not stop; it is killed" in workers.log

    def test_workers_whose_supervisor_is_gone_stop(self, workers: Workers) -> None:
        workers.start()
        pids = workers.pids
        workers.send(signal.SIGKILL)
        workers.serving.log.write_text("")
        wait_until(lambda: not any(map(_exists, pids)), "the workers end")
        assert "the supervisor is gone" in workers.log


def _exists(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_log_files_are_reopened_by_every_worker(workers: Workers) -> None:
    log, moved = workers.directory / "access", workers.directory / "moved"
    workers.start("--access-log", str(log))
    log.rename(moved)
    workers.send(signal.SIGUSR1)
    workers.wait_log("is reopened", 2)
    for _ in range(4):
        workers.ask()
    assert workers.stop() == 0
    assert moved.read_bytes() == b""
    assert log.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("connections", [4, 8])
async def test_kept_connections_are_shared_fairly(workers: Workers, connections: int) -> None:
    workers.start(count=4)
    answered: Counter[bytes] = Counter()
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(await workers.connect())
                for _ in range(connections)
            ]
            for client in clients:
                answered[(await client.request(params())).body] += 1
    # On a busy machine a worker may be asleep for so long that another one takes its connection.
    assert len(answered) >= 3
    assert max(answered.values()) <= connections // 4 + 1
    assert workers.stop() == 0
