"""Starlette, whole, through the adapter: what its users lean on."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route

from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.asgi import asgi
from trifcgi.errors import AppLoadError

Endpoint = Callable[[Request], Awaitable[Response]]


def app_of(endpoint: Endpoint, path: str = "/", **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, endpoint, methods=["GET", "POST"])], **options)


async def run(app: Any, request: MemoryRequest) -> MemoryRequest:
    with trio.fail_after(60):
        await request.run(asgi(app))
    return request


async def test_a_json_api() -> None:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(
            {
                "name": request.path_params["name"],
                "q": request.query_params["q"],
                "sent": await request.json(),
                "url": str(request.url),
            }
        )

    app = app_of(endpoint, "/items/{name}")
    request = MemoryRequest(params("POST", "/items/b?q=1"), body=[b'{"a":', b" 1}"])
    response = (await run(app, request)).response
    assert response.status == 200
    assert response.header("content-type") == "application/json"
    assert json.loads(response.body) == {
        "name": "b",
        "q": "1",
        "sent": {"a": 1},
        "url": "http://example.org/items/b?q=1",
    }


async def test_mounted_apps_find_their_routes() -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(request.url_for("page")))

    inner = Mount("/inner", routes=[Route("/page", endpoint, name="page")])
    app = Starlette(routes=[inner.routes[0], inner])
    request = MemoryRequest(params("GET", "/outer/inner/page"))
    await request.run(asgi(app, mount="/outer"))
    assert request.response.status == 200
    assert request.response.body.startswith(b"http://example.org/outer/")


async def test_an_unknown_path_is_starlettes_404() -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("")

    request = await run(app_of(endpoint), MemoryRequest(params("GET", "/no")))
    assert request.response.status == 404


async def test_an_error_is_starlettes_500_and_still_comes_out() -> None:
    async def endpoint(request: Request) -> Response:
        raise KeyError("mine")

    request = MemoryRequest()
    with pytest.raises(KeyError, match="mine"):
        await run(app_of(endpoint), request)
    assert request.response.status == 500


async def test_uploads_stream_in_and_answers_stream_out(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def endpoint(request: Request) -> Response:
        async def upper() -> AsyncIterator[bytes]:
            async for chunk in request.stream():
                yield chunk.upper()

        return StreamingResponse(upper())

    request = MemoryRequest(params("POST"), ended=False)

    async def feed() -> None:
        for chunk in (b"one", b"two"):
            await trio.sleep(1)
            request.stdin.feed(chunk)
            await trio.testing.wait_all_tasks_blocked()
            assert request.stdout.writes[-1] == chunk.upper()
        request.stdin.end()

    nursery.start_soon(feed)
    await run(app_of(endpoint), request)
    assert request.response.body == b"ONETWO"


async def test_a_background_task_runs_after_the_response(
    autojump_clock: trio.testing.MockClock,
) -> None:
    order = []
    request = MemoryRequest()

    async def later() -> None:
        await anyio.sleep(1)
        order.append(request.response.body)

    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(later))

    await run(app_of(endpoint), request)
    assert order == [b"done"]


async def test_a_file_response(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"x" * 100_000)

    async def endpoint(_: Request) -> Response:
        return FileResponse(tmp_path / "file.txt")

    ranged = {"HTTP_RANGE": "bytes=10-19"}
    whole = await run(app_of(endpoint), MemoryRequest())
    part = await run(app_of(endpoint), MemoryRequest(params("GET", "/", ranged)))
    head = await run(
        Starlette(routes=[Route("/", endpoint, methods=["GET"])]), MemoryRequest(params("HEAD"))
    )
    assert whole.response.body == b"x" * 100_000
    assert (part.response.status, part.response.body) == (206, b"x" * 10)
    assert (head.response.header("content-length"), head.response.body) == ("100000", b"")


class Tagging(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-tag"] = "1"
        return response


@pytest.mark.parametrize("reads_body", [True, False])
async def test_base_http_middleware_over_a_streamed_answer(
    reads_body: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def endpoint(request: Request) -> Response:
        data = await request.body() if reads_body else b"data"

        async def chunks() -> AsyncIterator[bytes]:
            yield data
            await trio.sleep(1)
            yield b"!"

        return StreamingResponse(chunks())

    app = app_of(endpoint, middleware=[Middleware(Tagging), Middleware(Tagging)])
    request = await run(app, MemoryRequest(params("POST"), body=b"data"))
    assert request.response.body == b"data!"
    assert request.response.header("x-tag") == "1"


async def test_is_disconnected_learns_of_an_abort(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    answers = []

    async def endpoint(request: Request) -> Response:
        await request.body()
        with trio.CancelScope(shield=True):
            for _ in range(3):
                answers.append(await request.is_disconnected())
                await trio.sleep(1)
        return PlainTextResponse("")

    request = MemoryRequest()

    async def abort_later() -> None:
        await trio.sleep(1.5)
        request.abort()

    nursery.start_soon(abort_later)
    await run(app_of(endpoint), request)
    assert answers == [False, False, True]


async def test_a_stream_ends_when_its_client_has_gone(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trifcgi")
    sent = []

    async def endpoint(_: Request) -> Response:
        async def ticks() -> AsyncIterator[bytes]:
            while True:
                sent.append(trio.current_time())
                yield b"tick\n"
                await trio.sleep(1)

        return StreamingResponse(ticks())

    request = MemoryRequest()

    async def abort_later() -> None:
        await trio.sleep(2.5)
        request.abort(cancel=False)

    nursery.start_soon(abort_later)
    await run(app_of(endpoint), request)
    assert request.response.body == b"tick\n" * 3
    assert len(sent) == 4
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_an_upload_that_is_cut_never_looks_whole(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies = []

    async def endpoint(request: Request) -> Response:
        bodies.append(await request.body())
        return PlainTextResponse("")

    request = MemoryRequest(params("POST"), body=b"half", ended=False)

    async def abort_later() -> None:
        await trio.sleep(1)
        request.abort(cancel=False)

    nursery.start_soon(abort_later)
    await run(app_of(endpoint), request)
    assert bodies == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_lifespan_state_reaches_the_requests() -> None:
    steps = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        steps.append("up")
        yield {"pool": "the pool"}
        steps.append("down")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.state.pool)

    handler = asgi(app_of(endpoint, lifespan=lifespan))
    request = MemoryRequest()
    async with handler.lifespan():
        await request.run(handler)
    assert request.response.body == b"the pool"
    assert steps == ["up", "down"]


async def test_a_lifespan_that_fails_names_its_cause() -> None:
    def connect() -> None:
        raise ConnectionError("no database")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        connect()
        yield

    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("")

    with pytest.raises(AppLoadError, match=r"ConnectionError: no database$") as caught:
        async with asgi(app_of(endpoint, lifespan=lifespan)).lifespan():
            pytest.fail("the block must not run")
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_lifespan_that_ends_the_program_is_a_failed_startup() -> None:
    def configure() -> None:
        raise SystemExit("missing FOO")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        configure()
        yield

    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("")

    with pytest.raises(AppLoadError, match=r"SystemExit: missing FOO$"):
        async with asgi(app_of(endpoint, lifespan=lifespan)).lifespan():
            pytest.fail("the block must not run")


async def test_a_lifespan_with_background_tasks_is_cancelled_in_good_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:

            async def beat() -> None:
                while True:
                    steps.append("beat")
                    await anyio.sleep(1)

            tasks.start_soon(beat)
            yield
            tasks.cancel_scope.cancel()
        steps.append("down")

    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("")

    with trio.move_on_after(2.5):
        async with asgi(app_of(endpoint, lifespan=lifespan)).lifespan():
            await trio.sleep_forever()
    assert steps == ["beat", "beat", "beat", "down"]


async def test_a_sync_endpoint_runs_in_a_thread() -> None:
    def endpoint(_: Request) -> Response:
        return PlainTextResponse("from a thread")

    app = Starlette(routes=[Route("/", endpoint)])
    request = MemoryRequest()
    await request.run(asgi(app))
    assert request.response.body == b"from a thread"
