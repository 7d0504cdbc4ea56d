"""Workers that do not get ready: they say where they hang, and are given up."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.ports import PortBlock
from tests.real.workers import Workers

STUCK_IMPORT = """
def read_the_settings():
    import time
    time.sleep(600)
read_the_settings()
"""
STUCK_LIFESPAN = """
import contextlib, trio
class App:
    async def __call__(self, request):
        pass
    @contextlib.asynccontextmanager
    async def lifespan(self):
        await wait_for_the_database()
        yield
async def wait_for_the_database():
    await trio.sleep_forever()
import sys
sys.modules["app_of_workers"].served = App()
"""
STUCK_IN_THE_LOOP = STUCK_LIFESPAN.replace(
    "await trio.sleep_forever()", "import time; time.sleep(600)"
)
GIVEN_UP = "is not ready after 4 s; it is aborted"


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize(
    ("code", "app", "place"),
    [
        pytest.param(STUCK_IMPORT, "app_of_workers", "in read_the_settings", id="import"),
        pytest.param(
            STUCK_LIFESPAN, "app_of_workers:served", "wait_for_the_database", id="lifespan"
        ),
        pytest.param(
            STUCK_IN_THE_LOOP, "app_of_workers:served", "in wait_for_the_database", id="blocked"
        ),
    ],
)
def test_a_start_that_hangs_ends_with_one_sentence_and_says_where(
    workers: Workers, code: str, app: str, place: str
) -> None:
    workers.write("at_import", code)
    workers.prepare("--start-timeout", "4", app=app)
    assert workers.serving.wait(30) == 1
    assert f"supervisor: worker 1 {GIVEN_UP}\n" in workers.log
    assert workers.log.count("worker 1 could not start (not ready within 4 s)\n") == 1
    assert place in workers.log
    assert "listening on" not in workers.log


def test_a_lifespan_that_hangs_is_shown_as_tasks(workers: Workers) -> None:
    workers.write("at_import", STUCK_LIFESPAN)
    workers.prepare("--start-timeout", "4", app="app_of_workers:served")
    assert workers.serving.wait(30) == 1
    shown = workers.log.partition("worker 1: the app's startup takes long\n")[2]
    assert "in wait_for_the_database\n" in shown.partition(GIVEN_UP)[0]


def test_a_reload_that_hangs_leaves_the_old_workers_serving(workers: Workers) -> None:
    # Long enough for a start that does not hang, on a busy machine too.
    workers.start("--start-timeout", "8")
    before = workers.pids
    workers.write("at_import", STUCK_IMPORT)
    workers.send(signal.SIGHUP)
    log = workers.wait_log("could not start (not ready within 8 s): the workers that run serve on")
    assert "in read_the_settings" in log
    assert workers.pids == before
    assert workers.ask().startswith(b"1 ")
    workers.write("at_import", "")
    workers.reload()
    assert workers.stop() == 0


def test_one_in_the_place_of_a_dead_one_is_tried_again_with_pauses(workers: Workers) -> None:
    workers.start("--start-timeout", "6")
    workers.write("at_import", STUCK_IMPORT)
    workers.signal_worker(signal.SIGKILL)
    workers.wait_log("has died (not ready within 6 s); 2 workers in a row have died in its place")
    assert workers.ask().startswith(b"1 ")
    workers.write("at_import", "")
    workers.wait_log("is ready", 3)
    assert workers.stop() == 0
