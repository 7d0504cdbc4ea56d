"""What is particular to many workers: sums, workers that do not answer, changes that last."""

import logging
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.admin.rig import worker_rig
from trifcgi.testing import params


@pytest.fixture(autouse=True)
def unchanged_log_level() -> Iterator[None]:
    logger = logging.getLogger("trifcgi")
    level = logger.level
    yield
    logger.setLevel(level)


async def test_counts_are_summed_and_outlive_their_worker() -> None:
    async with worker_rig() as workers:
        for front in workers.fronts:
            for _ in range(3):
                await front.request(params("/"))
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 6
        workers.crowd.workers.pop()
        status = await workers.rig.get("/status")
        assert status["totals"]["requests"] == 6
        assert [worker["totals"]["requests"] for worker in status["workers"]] == [3]
        metrics = (await workers.rig.ask("GET", "/metrics")).text
        assert 'trifcgi_requests_total{end="complete",status="200"} 6.0' in metrics
        assert "trifcgi_worker_restarts 4.0" in metrics


async def test_what_a_worker_tells_in_parting_is_counted_once() -> None:
    async with worker_rig() as workers:
        leaving = workers.crowd.workers[1]
        await workers.fronts[1].request(params("/"))
        _, said = await leaving.ask("GET", "/metrics?format=json")
        workers.source.take_leave(leaving, said["counts"])
        # It still answers, and then it is gone.
        for _ in range(2):
            assert (await workers.rig.get("/status"))["totals"]["requests"] == 1
        workers.crowd.workers.remove(leaving)
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 1


async def test_last_words_that_make_no_sense_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with worker_rig() as workers:
        await workers.fronts[1].request(params("/"))
        workers.source.take_leave(workers.crowd.workers[0], {"of": "another version"})
        assert "the last counts of worker 1 cannot be taken" in caplog.text
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 1


async def test_traces_are_no_more_than_were_asked_for() -> None:
    async with worker_rig() as workers:
        await workers.rig.ask("POST", "/trace", "count=3")
        for path in ("/1", "/2"):
            for front in workers.fronts:
                await front.request(params(path))
        answer = await workers.rig.get("/trace")
        assert answer["awaited"] == 0
        assert [trace["meaning"]["path"] for trace in answer["traces"]] == ["/1", "/1", "/2"]
        assert {trace["worker"] for trace in answer["traces"]} == {1, 2}


async def test_an_answer_that_comes_late_takes_nothing_back(autojump_clock: object) -> None:
    async with worker_rig() as workers:
        workers.crowd.workers[0].mute = True
        async with trio.open_nursery() as nursery:
            # It has the second worker's counts at once, and the first one keeps it waiting.
            nursery.start_soon(workers.source.count)
            await trio.testing.wait_all_tasks_blocked()
            workers.crowd.workers[0].mute = False
            await workers.fronts[1].request(params("/"))
            assert (await workers.rig.get("/status"))["totals"]["requests"] == 1
        workers.crowd.workers[0].mute = True
        workers.crowd.workers[1].mute = True
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 1


async def test_a_worker_that_comes_while_others_are_asked_is_counted_once(
    autojump_clock: object,
) -> None:
    async with worker_rig() as workers:
        first, second = workers.crowd.workers
        workers.crowd.workers = [first]
        first.mute = True
        await workers.fronts[1].request(params("/"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.source.count)
            await trio.testing.wait_all_tasks_blocked()
            first.mute = False
            workers.crowd.workers = [first, second]
            assert (await workers.rig.get("/status"))["totals"]["requests"] == 1
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 1


async def test_requests_in_workers_that_were_killed_count_as_cut() -> None:
    async with worker_rig() as workers:
        workers.crowd.lost_requests = 2
        status = await workers.rig.get("/status")
        assert (status["totals"]["requests"], status["totals"]["cut"]) == (2, 2)
        metrics = (await workers.rig.ask("GET", "/metrics")).text
        assert 'trifcgi_requests_total{end="killed",status="0"} 2.0' in metrics


async def test_a_worker_that_hangs_is_shown_as_it_was_last_seen(autojump_clock: object) -> None:
    async with worker_rig() as workers:
        await workers.fronts[0].request(params("/"))
        await workers.rig.get("/status")
        workers.crowd.workers[0].mute = True
        began = trio.current_time()
        status = await workers.rig.get("/status")
        assert trio.current_time() - began == pytest.approx(1.0)
        assert [worker["answers"] for worker in status["workers"]] == [False, True]
        assert status["workers"][0]["totals"]["requests"] == 1
        assert status["totals"]["requests"] == 1
        text = (await workers.rig.ask("GET", "/status", "format=text")).text
        assert "running, does not answer" in text
        assert (await workers.rig.get("/requests")) == {"requests": []}
        answer = await workers.rig.ask("GET", "/requests/1.1")
        assert answer.status == 504


async def test_a_worker_that_is_gone_is_left_out() -> None:
    async with worker_rig() as workers:
        workers.crowd.workers[0].lost = True
        answer = await workers.rig.ask("POST", "/gc")
        assert [worker["number"] for worker in answer.data["workers"]] == [2]


async def test_what_operators_changed_is_told_to_new_workers() -> None:
    async with worker_rig() as workers:
        old, new = workers.crowd.workers
        workers.crowd.workers = [old]
        await workers.source.bring_up_to_date(new)
        assert workers.rig.controls[1].plane is not None
        assert workers.rig.controls[1].plane.limits.max_requests == 1000
        await workers.rig.ask("POST", "/limits", "max-requests=5&max-body=none")
        await workers.rig.ask("POST", "/log-level", "level=error")
        logging.getLogger("trifcgi").setLevel("INFO")
        await workers.source.bring_up_to_date(new)
        assert workers.rig.controls[1].plane.limits.max_requests == 5
        assert logging.getLogger("trifcgi").level == logging.ERROR


async def test_the_supervisor_is_asked_for_what_concerns_all() -> None:
    async with worker_rig() as workers:
        await workers.rig.ask("POST", "/reload")
        await workers.rig.ask("POST", "/logs/reopen")
        await workers.rig.ask("POST", "/stop", "now=on")
        assert workers.crowd.asked == ["reload", "reopen_log", "stop", "stop"]
        assert [controls.reopened for controls in workers.rig.controls] == [1, 1]
        assert [controls.stops for controls in workers.rig.controls] == [0, 0]
        answer = await workers.rig.ask("POST", "/reload")
        assert answer.status == 409
        assert answer.data["error"].startswith("The server is stopping")


async def test_ids_name_the_worker() -> None:
    async with worker_rig() as workers, workers.rig.held() as held:
        assert held == "2.1"
        (connection,) = (await workers.rig.get("/connections"))["connections"][1:]
        assert connection["requests"] == ["2.1"]
        assert connection["worker"] == 2
        shown = await workers.rig.get("/requests/2.1")
        assert (shown["request"]["id"], shown["request"]["worker"]) == ("2.1", 2)


async def test_without_a_running_worker_nothing_is_ready() -> None:
    async with worker_rig() as workers:
        for worker in workers.crowd.workers:
            worker.current_state = "starting"
        assert (await workers.rig.ask("GET", "/ready")).data["state"] == "starting"
        workers.crowd.workers = []
        assert (await workers.rig.ask("GET", "/ready")).status == 503
        assert (await workers.rig.get("/status"))["workers"] == []


async def test_counts_are_kept_when_asked_for_in_time() -> None:
    async with worker_rig() as workers:
        await workers.fronts[0].request(params("/"))
        await workers.source.count()
        workers.crowd.workers = []
        assert (await workers.rig.get("/status"))["totals"]["requests"] == 1


async def test_a_worker_that_starts_is_not_waited_for() -> None:
    async with worker_rig() as workers:
        workers.crowd.workers[0].mute = True
        workers.crowd.workers[0].current_state = "starting"
        began = trio.current_time()
        status = await workers.rig.get("/status")
        assert trio.current_time() - began < 1
        assert [worker["state"] for worker in status["workers"]] == ["starting", "running"]
        assert (
            "does not answer" not in (await workers.rig.ask("GET", "/status", "format=text")).text
        )
