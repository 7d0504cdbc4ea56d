"""The control server answers at once while every slot for requests is taken, in every worker."""

import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.real.control import Control
from tests.real.ports import PortBlock
from tests.real.workers import Workers, params
from trifcgi import Client
from trifcgi.testing import params as page

SAMPLES = 15
MOST_SECONDS = 0.05
PATHS = ("/health", "/ready", "/status", "/requests", "/metrics")

WSGI = """
import time
def waits(environ, start_response):
    time.sleep(600)
import sys
sys.modules["app_of_workers"].waits = waits
"""


def _all_requests(worker: dict[str, Any]) -> bool:
    return bool(worker["requests"] >= 2)


def _all_threads(worker: dict[str, Any]) -> bool:
    threads = worker["threads"]
    return bool(threads["busy"] == threads["size"] == 2 and threads["waiting"])


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


@asynccontextmanager
async def taken(
    workers: Workers, control: Control, full: Callable[[dict[str, Any]], bool]
) -> AsyncIterator[None]:
    """Requests that go on, as many as it takes to fill both workers."""
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        while not all(map(full, control.get("/status")["workers"])):
            client = await stack.enter_async_context(await workers.connect())
            exchange = await stack.enter_async_context(client.open(params("sleep=600")))
            await exchange.stdin.aclose()  # a WSGI app is called when its body is there
            await trio.sleep(0.02)  # for the worker to have begun it: else there are more
        yield


async def over_fastcgi(control: Control, path: str) -> int:
    """The status of an answer over FastCGI."""
    async with Client(await trio.open_tcp_stream("127.0.0.1", control.port)) as client:
        return (await client.request(page(path, PATH_INFO=path, SCRIPT_NAME=""))).status


@pytest.mark.parametrize(
    ("app", "options", "full"),
    [
        pytest.param("app_of_workers", ["--max-requests", "2"], _all_requests, id="requests"),
        pytest.param("app_of_workers:waits", ["--threads", "2"], _all_threads, id="threads"),
    ],
)
async def test_within_50_ms(
    workers: Workers,
    ports: PortBlock,
    app: str,
    options: list[str],
    full: Callable[[dict[str, Any]], bool],
) -> None:
    control = Control(ports.take())
    workers.write("at_import", WSGI)
    workers.start("--admin-port", str(control.port), *options, app=app)
    took: dict[str, list[float]] = {}
    async with taken(workers, control, full):
        for path in PATHS * SAMPLES:
            began = time.perf_counter()
            assert control.ask("GET", path)[0] == 200
            between = time.perf_counter()
            assert await over_fastcgi(control, path) == 200
            took.setdefault(f"{path} over HTTP", []).append(between - began)
            took.setdefault(f"{path} over FastCGI", []).append(time.perf_counter() - between)
        workers.serving.kill()  # the requests would go on for long
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    print(", ".join(f"{name}: {median * 1000:.1f} ms" for name, median in medians.items()))
    assert {name: median for name, median in medians.items() if median > MOST_SECONDS} == {}
