"""What running requests learn when their server begins to stop."""

import contextlib
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.handlers import HEAD, hello
from tests.server.raw import RawFrontEnd
from tests.server.test_timeouts import MemoryListener
from trifcgi import Handler, Request, Timeouts, serve_listeners, serve_stream
from trifcgi.request import StopSignal
from trifcgi.server import DataPlane
from trifcgi.testing import MemoryServer, params

GRACE = 30.0


async def ticker(request: Request) -> None:
    """An endless stream that says goodbye."""
    await request.stdout.send_all(HEAD)
    while not request.stopping:
        await request.stdout.send_all(b"tick\n")
        with trio.move_on_after(10):
            await request.wait_stopping()
    await request.stdout.send_all(b"goodbye\n")


@asynccontextmanager
async def served(handler: Handler) -> AsyncGenerator[tuple[DataPlane, MemoryListener]]:
    """A server that has to have ended by itself where the block ends."""
    listener = MemoryListener()
    async with (
        DataPlane(handler, timeouts=Timeouts(grace=GRACE)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        yield plane, listener
        with trio.fail_after(GRACE - 1):
            await plane.wait_drained()
    assert plane.connections == plane.running == plane.cut_by_drain == 0


async def test_endless_streams_end_themselves_whole(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(ticker) as (plane, listener):
        front_ends = [RawFrontEnd(listener.connect()) for _ in range(20)]
        for front_end in front_ends:
            await front_end.send(raw.get(), raw.get(2))
        await trio.sleep(25)
        began = trio.current_time()
        plane.drain()
        for front_end in front_ends:
            answers = await front_end.answers(1, 2)
            assert {answer.body for answer in answers.values()} == {b"tick\n" * 3 + b"goodbye\n"}
            assert await front_end.rest() == []
        assert trio.current_time() - began < 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_no_new_connection_is_taken_from_who_was_told(autojump_clock: object) -> None:
    # A browser comes back at once, and must find who serves on.
    connections: list[int] = []

    async def app(request: Request) -> None:
        await request.wait_stopping()
        with contextlib.suppress(trio.BrokenResourceError):
            listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        connections.append(plane.connections)
        await hello(request)

    async with served(app) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await trio.testing.wait_all_tasks_blocked()
        plane.drain()
        assert (await front_end.answer()).body == b"hello"
    assert connections == [1]


async def test_one_that_is_told_and_goes_on_has_the_grace(autojump_clock: object) -> None:
    async def download(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        for _ in range(20):
            await trio.sleep(1)
            await request.stdout.send_all(b"%d" % request.stopping)

    async with served(download) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await trio.sleep(4.5)
        plane.drain()
        assert (await front_end.answer()).body == b"0" * 4 + b"1" * 16


async def test_a_request_that_comes_later_sees_it_at_once(autojump_clock: object) -> None:
    seen: list[bool] = []

    async def app(request: Request) -> None:
        seen.append(request.stopping)
        if request.stopping:
            with trio.testing.assert_checkpoints():
                await request.wait_stopping()
        await hello(request)

    async with served(app) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await front_end.answer()
        plane.drain()
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
    assert seen == [False, True]


async def test_work_after_the_response_is_told_too(autojump_clock: object) -> None:
    told = []

    async def app(request: Request) -> None:
        await hello(request)
        request.stdout.end()
        await request.wait_stopping()
        told.append(trio.current_time())

    async with served(app) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await front_end.answer()
        await trio.sleep(3)
        plane.drain()
        now = trio.current_time()
    assert told == [now]


async def test_who_stops_only_to_accept_is_told_as_well(autojump_clock: object) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as accepting:
            serve = partial(serve_listeners, ticker, [listener], handler_nursery=handlers)
            await accepting.start(serve)
            front_end = RawFrontEnd(listener.connect())
            await front_end.send(raw.get())
            await trio.testing.wait_all_tasks_blocked()
            accepting.cancel_scope.cancel()
        with trio.fail_after(5):
            assert (await front_end.answer()).body == b"tick\ngoodbye\n"


async def test_a_cancel_is_no_drain(autojump_clock: object) -> None:
    seen = []

    async def app(request: Request) -> None:
        try:
            await request.wait_stopping()
        finally:
            seen.append(request.stopping)

    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, app, far)
        await near.send_all(raw.get())
        await trio.sleep(1000)
        assert seen == []
        nursery.cancel_scope.cancel()
    assert seen == [False]


async def test_an_abort_ends_the_wait_as_any_other(autojump_clock: object) -> None:
    ended = []

    async def app(request: Request) -> None:
        try:
            await request.wait_stopping()
        finally:
            ended.append(trio.current_effective_deadline())

    async with MemoryServer(app) as server:
        front_end = RawFrontEnd(server.connect())
        await front_end.send(raw.get())
        await trio.testing.wait_all_tasks_blocked()
        await front_end.send(raw.abort())
        await front_end.answer()
    assert len(ended) == 1


async def test_in_a_test_the_plane_is_drained_by_hand(autojump_clock: object) -> None:
    async with (
        MemoryServer(ticker) as server,
        server.client() as client,
        client.open(params()) as exchange,
    ):
        await exchange.response()
        assert await exchange.stdout.receive_some() == b"tick\n"
        server.plane.drain()
        assert await exchange.stdout.receive_some() == b"goodbye\n"
        await exchange.wait_ended()


class TestSignal:
    async def test_it_is_set_for_good(self) -> None:
        signal = StopSignal()
        assert (signal.is_set(), signal.for_threads.is_set(), repr(signal)) == (
            False, False, "<StopSignal not set>",
        )  # fmt: skip
        assert signal.for_threads.wait(0) is False
        signal.set()
        signal.set()
        await signal.wait()
        assert (signal.is_set(), signal.for_threads.is_set(), repr(signal)) == (
            True, True, "<StopSignal set>",
        )  # fmt: skip
        assert signal.for_threads.wait() is True

    async def test_it_wakes_threads(self) -> None:
        signal = StopSignal()
        waiting = threading.Event()

        def wait() -> bool:
            waiting.set()
            return signal.for_threads.wait(10)

        results = []
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def thread() -> None:
                    results.append(await trio.to_thread.run_sync(wait))

                await trio.to_thread.run_sync(waiting.wait, 5)
                signal.set()
        assert results == [True]

    async def test_it_cancels_the_scopes_that_it_was_given(self) -> None:
        signal = StopSignal()
        before, discarded, after = (trio.CancelScope() for _ in range(3))
        signal.add_scope(before)
        signal.add_scope(discarded)
        signal.discard_scope(discarded)
        signal.discard_scope(discarded)
        signal.set()
        signal.add_scope(after)
        assert [scope.cancel_called for scope in (before, discarded, after)] == [True, False, True]
