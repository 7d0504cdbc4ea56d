"""``respond()``, beside the streams that do the same step by step."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD
from trifcgi import Request


async def at_once(request: Request, body: bytes, bodyless: bool) -> None:
    assert request.respond(HEAD, body, bodyless=bodyless)


async def step_by_step(request: Request, body: bytes, bodyless: bool) -> None:
    request.stdout.send_head(HEAD, bodyless=bodyless)
    await request.stdout.send_all(body)
    request.stdout.end()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("log", [b"", b"a line\n", b"half a line"])
@pytest.mark.parametrize(
    ("body", "bodyless"),
    [(b"", False), (b"hello", False), (b"hello", True), (bytes(16_384), False)],
    ids=["empty", "small", "bodyless", "long"],
)
async def test_both_ways_make_the_same_of_a_response(
    serve: Serve, body: bytes, bodyless: bool, log: bytes, keep: bool
) -> None:
    async def app(request: Request) -> None:
        await request.stderr.send_all(log)
        ways = {"at once": at_once, "step by step": step_by_step}
        await ways[request.params["WAY"]](request, body, bodyless)

    async with serve(app) as server:
        answers = []
        for way in ("at once", "step by step"):
            async with server.raw() as front_end:
                await front_end.send(raw.get(300, WAY=way, keep=keep))
                answers.append(await front_end.answer(300))
                if not keep:
                    assert await front_end.rest() == []
    one, other = answers
    assert one.stdout == other.stdout == HEAD + (b"" if bodyless else body)
    assert (one.stderr, one.app_status, one.protocol_status) == (log, 0, raw.COMPLETE)
    assert (other.stderr, other.app_status, other.protocol_status) == (log, 0, raw.COMPLETE)


async def left_out(request: Request) -> bool:
    return request.respond(HEAD, bytes(16_385))


async def head_sent(request: Request) -> bool:
    request.stdout.send_head(HEAD)
    return request.respond(HEAD, b"hello")


async def head_begun(request: Request) -> bool:
    await request.stdout.send_all(b"Status: 200")
    return request.respond(HEAD, b"hello")


async def twice(request: Request) -> bool:
    assert request.respond(HEAD, b"hello")
    return request.respond(HEAD, b"hello")


@pytest.mark.parametrize("deed", [left_out, head_sent, head_begun, twice])
async def test_a_response_that_is_not_taken_changes_nothing(
    serve: Serve, deed: Callable[[Request], Awaitable[bool]]
) -> None:
    async def app(request: Request) -> None:
        assert not await deed(request)
        if deed is left_out:
            await request.stdout.send_all(HEAD)
        if deed is head_begun:
            await request.stdout.send_all(HEAD.removeprefix(b"Status: 200"))
        if deed is not twice:
            await request.stdout.send_all(b"hello")

    async with serve(app) as server, server.raw() as front_end:
        for _ in range(2):
            await front_end.send(raw.get())
            answer = await front_end.answer()
            assert answer.body == b"hello"
            assert answer.app_status == 0


@pytest.mark.parametrize("way", [at_once, step_by_step])
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("content", [b"", b"body"])
async def test_after_it_the_request_has_no_streams(
    serve: Serve,
    way: Callable[[Request, bytes, bool], Awaitable[None]],
    touched: bool,
    content: bytes,
) -> None:
    errors = []

    async def app(request: Request) -> None:
        streams = [request.stdin, request.data] if touched else []
        await way(request, b"hello", False)
        for stream in streams or [request.stdin, request.data]:
            with pytest.raises(trio.ClosedResourceError) as found:
                await stream.receive_some()
            errors.append(found)
        with pytest.raises(trio.ClosedResourceError) as found:
            await request.stdout.send_all(b"more")
        errors.append(found)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(), content and raw.stdin(content=content), raw.stdin())
        assert (await front_end.answer()).body == b"hello"
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
    assert len(errors) == 6


@pytest.mark.parametrize("way", [at_once, step_by_step])
async def test_it_wakes_the_task_that_reads(
    serve: Serve, way: Callable[[Request, bytes, bool], Awaitable[None]]
) -> None:
    async def read(request: Request) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await request.stdin.receive_some()

    async def app(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, request)
            await trio.testing.wait_all_tasks_blocked()
            await way(request, b"hello", False)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head())
        assert (await front_end.answer()).body == b"hello"


@pytest.mark.parametrize("way", [at_once, step_by_step])
async def test_its_handler_holds_its_place_until_it_returns(
    serve: Serve, way: Callable[[Request, bytes, bool], Awaitable[None]]
) -> None:
    go_on = trio.Event()

    async def app(request: Request) -> None:
        await way(request, b"hello", False)
        if request.params.get("STAYS"):
            await go_on.wait()

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(STAYS="yes"))
        assert (await front_end.answer()).body == b"hello"
        for _ in range(3):
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"
        go_on.set()
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
