"""What is logged of requests that take long."""

import threading
from typing import Any

import pytest
import trio
import trio.testing

import trifcgi
from tests.services.planes import GET, serving
from trifcgi import Request
from trifcgi.apps.threads import threads_of
from trifcgi.observe.slow_log import log_slow_requests
from trifcgi.testing import params


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trifcgi.slow"]


async def child() -> None:
    await trio.sleep(100)


async def takes_long(request: Request) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\nat last")


async def test_a_slow_request_is_logged_once_with_all_its_tasks_and_goes_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(takes_long) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(log_slow_requests, plane, 10)
        response = await client.request(GET)
        nursery.cancel_scope.cancel()
    assert response.body == b"at last"
    (message,) = messages(caplog)
    lines = message.splitlines()
    assert lines[0] == "GET /hello (request 1) has been running for 10.0 s"
    assert lines[1] == "task takes_long for request 1"
    assert "    await trio.sleep(60)" in lines
    assert f"    task {__name__}.child" in lines
    assert "        await trio.sleep(100)" in lines


async def test_each_is_logged_as_soon_as_it_is_late(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(takes_long) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(log_slow_requests, plane, 10)
        for path in ("/0", "/7", "/8.5"):
            begun = float(path[1:])
            await trio.sleep_until(begun)
            nursery.start_soon(client.request, params(path))
        await trio.sleep_until(10.5)
        assert len(messages(caplog)) == 1
        await trio.sleep_until(17.5)
        assert len(messages(caplog)) == 2
        await trio.sleep_until(19)
        assert len(messages(caplog)) == 3
        assert [message.splitlines()[0] for message in messages(caplog)] == [
            f"GET {path} (request {number}) has been running for 10.0 s"
            for number, path in enumerate(("/0", "/7", "/8.5"), 1)
        ]
        nursery.cancel_scope.cancel()


async def test_quick_requests_are_not_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def quick(request: Request) -> None:
        await trio.sleep(9)
        await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n")

    async with serving(quick) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(log_slow_requests, plane, 10)
        for _ in range(5):
            await client.request(GET)
        nursery.cancel_scope.cancel()
    assert messages(caplog) == []


async def test_a_slow_wsgi_app_shows_the_stack_of_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        logged.wait(20)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return []

    logged = threading.Event()
    async with serving(trifcgi.wsgi(app)) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(log_slow_requests, plane, 0.05, threads_of)
        nursery.start_soon(client.request, GET)
        with trio.fail_after(20):
            while not messages(caplog):  # noqa: ASYNC110 (a log has no event)
                await trio.sleep(0.01)
        logged.set()
        nursery.cancel_scope.cancel()
    (message,) = messages(caplog)
    assert "  thread trifcgi-1\n" in message
    assert "    logged.wait(20)\n" in message
