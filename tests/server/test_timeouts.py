"""Every timeout, under a mock clock: silence and slowness, but never mere length."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import (
    HEAD,
    Recorder,
    echo,
    flood,
    hello,
    read_body,
    sleep,
    sleep_begun,
)
from tests.server.raw import RawFrontEnd
from trifcgi import Request, Timeouts, serve_listeners
from trifcgi.server import DataPlane


async def test_a_param_shortens_the_request_timeout(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async with (
        memory_serve(sleep, timeouts=Timeouts(request_timeout=60)) as server,
        server.raw() as front_end,
    ):
        start = trio.current_time()
        await front_end.send(raw.get(REQUEST_TIMEOUT="2.5"))
        assert (await front_end.answer()).status == 504
        assert 2.5 <= trio.current_time() - start <= 4


@pytest.mark.parametrize("value", ["100000", "inf", "-1", "0", "nan", "soon", "", "9" * 5000])
async def test_a_param_never_lengthens_the_request_timeout(
    memory_serve: Serve, value: str, autojump_clock: object
) -> None:
    async with (
        memory_serve(sleep, timeouts=Timeouts(request_timeout=60)) as server,
        server.raw() as front_end,
    ):
        start = trio.current_time()
        await front_end.send(raw.get(REQUEST_TIMEOUT=value))
        assert (await front_end.answer()).status == 504
        assert 60 <= trio.current_time() - start <= 61


async def test_a_param_sets_a_timeout_where_there_is_none(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async with memory_serve(sleep) as server, server.raw() as front_end:
        await front_end.send(raw.get(REQUEST_TIMEOUT="3"))
        assert (await front_end.answer()).status == 504


async def test_a_request_timeout_counts_from_the_requests_begin(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async with (
        memory_serve(sleep, timeouts=Timeouts(request_timeout=10)) as server,
        server.raw() as front_end,
    ):
        start = trio.current_time()
        await front_end.send(raw.begin())
        await trio.sleep(8)
        await front_end.send(raw.params(), raw.stdin())
        assert (await front_end.answer()).status == 504
        assert 10 <= trio.current_time() - start <= 11


async def test_a_handler_that_is_done_in_time_is_not_touched(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async def app(request: Request) -> None:
        await trio.sleep(9.9)
        await hello(request)

    async with (
        memory_serve(app, timeouts=Timeouts(request_timeout=10)) as server,
        server.raw() as front_end,
    ):
        for _ in range(3):
            await front_end.send(raw.get())
            assert (await front_end.answer()).status == 200
            await trio.sleep(5)


async def test_a_silent_body_ends_its_request(memory_serve: Serve, autojump_clock: object) -> None:
    app = Recorder(read_body)
    async with (
        memory_serve(app, timeouts=Timeouts(read_timeout=7)) as server,
        server.raw() as front_end,
    ):
        start = trio.current_time()
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"x"))
        answer = await front_end.answer()
        assert 7 <= trio.current_time() - start <= 8
        assert answer.status == 408
        assert app.cleaned_up.is_set()
        assert await front_end.rest() == []


async def test_a_slow_body_is_no_silent_one(memory_serve: Serve, autojump_clock: object) -> None:
    async with (
        memory_serve(read_body, timeouts=Timeouts(read_timeout=7)) as server,
        server.raw() as front_end,
    ):
        await front_end.send(raw.head(REQUEST_METHOD="POST"))
        for _ in range(10):
            await front_end.send(raw.stdin(content=b"x"))
            await trio.sleep(6)
        await front_end.send(raw.stdin())
        assert (await front_end.answer()).body == b"10"


async def test_silence_counts_only_while_the_body_is_awaited(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async def app(request: Request) -> None:
        await trio.sleep(50)
        await read_body(request)

    async with (
        memory_serve(app, timeouts=Timeouts(read_timeout=7)) as server,
        server.raw() as front_end,
    ):
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"x"))
        await trio.sleep(55)
        await front_end.send(raw.stdin())
        assert (await front_end.answer()).body == b"1"


@pytest.mark.parametrize(
    "sent",
    [
        raw.begin()[:5],
        raw.begin()[:12],
        raw.begin(),
        raw.begin() + raw.params()[:40],
        raw.get() + raw.begin(2) + raw.params(2)[:-8],
    ],
    ids=["half a header", "half a record", "no params", "half params", "no end of params"],
)
async def test_silence_before_the_params_are_whole_closes_the_connection(
    memory_serve: Serve, sent: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    async with (
        memory_serve(hello, timeouts=Timeouts(read_timeout=7)) as server,
        server.raw() as front_end,
    ):
        start = trio.current_time()
        await front_end.send(sent)
        while await front_end.receive() is not None:
            pass
        assert 7 <= trio.current_time() - start <= 8
    [line] = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert "7 s" in line.getMessage()


async def test_slow_params_are_bounded_by_the_request_timeout(
    memory_serve: Serve, autojump_clock: object
) -> None:
    timeouts = Timeouts(read_timeout=7, request_timeout=20)
    async with memory_serve(hello, timeouts=timeouts) as server, server.raw() as front_end:
        await front_end.send(raw.begin())
        start = trio.current_time()

        async def drip() -> None:
            for byte in raw.params():
                await front_end.send(bytes([byte]))
                await trio.sleep(5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            while await front_end.receive() is not None:
                pass
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start <= 21


async def test_an_idle_connection_is_closed_after_the_keep_alive(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async with memory_serve(hello, timeouts=Timeouts(keep_alive=100)) as server:
        async with server.raw() as front_end:
            start = trio.current_time()
            assert await front_end.rest() == []
            assert 100 <= trio.current_time() - start <= 103
        async with server.raw() as front_end:
            await trio.sleep(90)
            await front_end.send(raw.get())
            await front_end.answer()
            start = trio.current_time()
            assert await front_end.rest() == []
            assert 100 <= trio.current_time() - start <= 103


async def test_a_running_request_keeps_its_connection_alive(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async def app(request: Request) -> None:
        await trio.sleep(1000)
        await hello(request)

    async with (
        memory_serve(app, timeouts=Timeouts(keep_alive=100)) as server,
        server.raw() as front_end,
    ):
        await front_end.send(raw.get())
        assert (await front_end.answer()).status == 200


@asynccontextmanager
async def lockstep(
    handler: Callable[[Request], Awaitable[int | None]], timeouts: Timeouts
) -> AsyncGenerator[RawFrontEnd]:
    """A front end whose every read is the server's write: nothing is buffered."""
    near, far = trio.testing.lockstep_stream_pair()
    async with DataPlane(handler, timeouts=timeouts) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        yield RawFrontEnd(near)
        nursery.cancel_scope.cancel()


async def test_output_that_makes_no_progress_ends_the_connection(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    app = Recorder(flood)
    async with lockstep(app, Timeouts(write_timeout=7)) as front_end:
        await front_end.send(raw.get())
        start = trio.current_time()
        await app.cleaned_up.wait()
        assert 7 <= trio.current_time() - start <= 8
        await front_end.rest()
    [line] = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert "7 s" in line.getMessage()


async def test_a_finished_answer_that_nobody_reads_ends_the_connection(
    autojump_clock: object,
) -> None:
    async with lockstep(hello, Timeouts(write_timeout=7)) as front_end:
        await front_end.send(raw.get())
        await trio.sleep(8)
        with pytest.raises(trio.BrokenResourceError):
            await front_end.send(raw.get())


async def test_slow_output_is_no_blocked_output(autojump_clock: object) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD + bytes(1_000_000))

    async with lockstep(app, Timeouts(write_timeout=7)) as front_end:
        await front_end.send(raw.get())

        async def read_slowly() -> int:
            size = 0
            while (record := await front_end.receive()) is not None and record.kind == raw.STDOUT:
                size += len(record.content)
                await trio.sleep(3)
            return size

        assert await read_slowly() == len(HEAD) + 1_000_000


async def test_a_handler_that_sends_rarely_is_not_blocked(autojump_clock: object) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        for _ in range(3):
            await trio.sleep(100)
            await request.stdout.send_all(b"tick")

    async with lockstep(app, Timeouts(write_timeout=7)) as front_end:
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"tick" * 3


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts what :meth:`connect` makes."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def accept(self) -> trio.abc.Stream:
        try:
            return await self._receive.receive()
        except trio.ClosedResourceError:
            raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        self._receive.close()
        await trio.lowlevel.checkpoint()

    def connect(self) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self._send.send_nowait(far)
        return near


async def test_any_trio_listener_can_be_served(autojump_clock: object) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve_listeners, echo, [listener])
        assert listeners == [listener]
        front_ends = [RawFrontEnd(listener.connect()) for _ in range(3)]
        for front_end in front_ends:
            await front_end.send(raw.get())
            assert (await front_end.answer()).status == 200
        nursery.cancel_scope.cancel()
    for front_end in front_ends:
        assert await front_end.rest() == []
    with pytest.raises(trio.BrokenResourceError):
        listener.connect()


async def test_a_drain_lets_requests_finish_and_closes_idle_connections(
    autojump_clock: object,
) -> None:
    async def app(request: Request) -> None:
        await trio.sleep(20)
        await hello(request)

    listener = MemoryListener()
    async with (
        DataPlane(app, timeouts=Timeouts(grace=30)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        idle, busy = RawFrontEnd(listener.connect()), RawFrontEnd(listener.connect())
        await busy.send(raw.get())
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        plane.drain()
        assert await idle.rest() == []
        assert trio.current_time() - start < 5
        assert (await busy.answer()).body == b"hello"
        assert await busy.rest() == []
    assert 20 <= trio.current_time() - start < 25
    assert plane.connections == plane.running == 0


async def test_a_drain_cancels_what_the_grace_is_too_short_for(autojump_clock: object) -> None:
    listener = MemoryListener()
    begun, silent = Recorder(sleep_begun), Recorder(sleep)

    async def app(request: Request) -> int | None:
        return await (begun if request.id == 2 else silent)(request)

    async with (
        DataPlane(app, timeouts=Timeouts(grace=30)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        front_end, cut = RawFrontEnd(listener.connect()), RawFrontEnd(listener.connect())
        await front_end.send(raw.get(1))
        await cut.send(raw.get(2))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        plane.drain()
        answer = await front_end.answer()
        assert answer.status == 503
        assert b"Retry-After" in answer.stdout
        assert 30 <= trio.current_time() - start <= 31
        assert raw.END not in [record.kind for record in await cut.rest()]
    assert isinstance(begun.error, trio.Cancelled)
    assert trio.current_time() - start < 40
    assert plane.running == 0


async def test_a_patient_drain_waits_until_another_one_begins_the_grace(
    autojump_clock: object,
) -> None:
    listener = MemoryListener()
    app = Recorder(sleep)
    async with (
        DataPlane(app, timeouts=Timeouts(grace=30, request_timeout=None)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        front_end, idle = RawFrontEnd(listener.connect()), RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await app.began.wait()
        plane.drain(patient=True)
        assert plane.draining
        assert await idle.rest() == []
        await trio.sleep(1000)
        plane.drain(patient=True)
        assert plane.running == 1
        start = trio.current_time()
        plane.drain()
        await trio.sleep(20)
        plane.drain()  # does not put it off
        plane.drain(patient=True)  # nor does this
        assert (await front_end.answer()).status == 503
        assert 30 <= trio.current_time() - start <= 31
        await front_end.stream.aclose()
    assert plane.cut_by_drain == 1


async def test_a_patient_drain_ends_with_the_last_request(autojump_clock: object) -> None:
    async def app(request: Request) -> None:
        await trio.sleep(200)
        await hello(request)

    listener = MemoryListener()
    async with (
        DataPlane(app, timeouts=Timeouts(grace=1, request_timeout=None)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        plane.drain(patient=True)
        assert (await front_end.answer()).body == b"hello"
        assert await front_end.rest() == []
    assert 200 <= trio.current_time() - start < 205
    assert plane.cut_by_drain == 0


async def test_a_drain_without_grace_is_at_once(autojump_clock: object) -> None:
    listener = MemoryListener()
    app = Recorder(sleep)
    async with DataPlane(app, timeouts=Timeouts(grace=0)) as plane, trio.open_nursery() as nursery:
        await nursery.start(plane.serve, [listener])
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await app.began.wait()
        start = trio.current_time()
        plane.drain()
        assert (await front_end.answer()).status == 503
        await front_end.stream.aclose()
    assert trio.current_time() - start < 1


async def test_a_drain_waits_for_clean_up_but_not_for_ever(autojump_clock: object) -> None:
    async def stubborn(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1000, shield=True):
                await trio.sleep_forever()

    listener = MemoryListener()
    app = Recorder(stubborn)
    async with DataPlane(app, timeouts=Timeouts(grace=1)) as plane, trio.open_nursery() as nursery:
        await nursery.start(plane.serve, [listener])
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await app.began.wait()
        plane.drain()
    assert app.cleaned_up.is_set()


async def test_deadlines_that_have_been_met_do_not_pile_up(autojump_clock: object) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with DataPlane(sleep) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        front_end = RawFrontEnd(near)
        for _ in range(500):
            await front_end.send(raw.get(REQUEST_TIMEOUT="0.01"))
            assert (await front_end.answer()).status == 504
        assert len(plane.reaper._heap) < 200
        await near.aclose()
