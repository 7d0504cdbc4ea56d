"""Aborts and lost connections, in every phase of a request.

However a request is stopped, its handler's clean-up has run at once, its front end is told where
one is left, and the connection's other requests never notice.
"""

import logging
import math
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, Recorder, flood, hello, read_body, sleep, sleep_begun
from tests.server.raw import RawFrontEnd
from trifcgi import Limits, Request, Timeouts, serve_stream
from trifcgi.observe.instrument import StopReason

Setup = Callable[[RawFrontEnd], Awaitable[None]]


async def send_whole(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get())


async def send_half_a_body(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.head(REQUEST_METHOD="POST", CONTENT_LENGTH="10"))
    await front_end.send(raw.stdin(content=b"half "))


async def send_more_body_than_the_window(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.head(REQUEST_METHOD="POST", CONTENT_LENGTH="600000"))
    for _ in range(10):
        await front_end.send(raw.stdin(content=bytes(60_000)))


async def check_then_sleep(request: Request) -> None:
    """Sleeps in a nursery of its own, as frameworks do."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


PHASES: dict[str, tuple[Setup, Callable[[Request], Awaitable[int | None]]]] = {
    "asleep": (send_whole, sleep),
    "asleep in a nursery": (send_whole, check_then_sleep),
    "asleep after the head": (send_whole, sleep_begun),
    "reading the body": (send_half_a_body, read_body),
    "blocked on output": (send_whole, flood),
    "full body window": (send_more_body_than_the_window, sleep),
}


@pytest.fixture(params=PHASES)
def phase(
    request: pytest.FixtureRequest,
) -> tuple[Setup, Callable[[Request], Awaitable[int | None]]]:
    return PHASES[request.param]


async def begin(front_end: RawFrontEnd, app: Recorder, setup: Setup) -> None:
    """Have the request in its phase, for certain."""
    async with trio.open_nursery() as nursery:
        # In lockstep a send lasts until the server has read it.
        nursery.start_soon(setup, front_end)
        await app.began.wait()


async def end_of_request(front_end: RawFrontEnd, request_id: int = 1) -> raw.Record:
    """Skip output to END_REQUEST."""
    while (record := await front_end.receive()) is not None:
        if record.kind == raw.END and record.request_id == request_id:
            return record
    raise AssertionError("the connection ended before the request")


async def test_an_abort_cancels_the_handler_and_ends_the_request(
    serve: Serve, phase: tuple[Setup, Callable[[Request], Awaitable[int | None]]]
) -> None:
    setup, work = phase
    app = Recorder(work)
    async with serve(app) as server, server.raw() as front_end:
        await begin(front_end, app, setup)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front_end.send, raw.abort())
            if work is not flood:
                await app.cleaned_up.wait()
            assert (await end_of_request(front_end)).content[4] == raw.COMPLETE
        assert app.cleaned_up.is_set()
        assert isinstance(
            app.error, trio.Cancelled | trio.BrokenResourceError | BaseExceptionGroup
        )


async def test_a_lost_connection_cancels_the_handler(
    serve: Serve,
    phase: tuple[Setup, Callable[[Request], Awaitable[int | None]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup, work = phase
    app = Recorder(work)
    async with serve(app) as server:
        async with server.raw() as front_end:
            await begin(front_end, app, setup)
        await app.cleaned_up.wait()
        assert isinstance(
            app.error, trio.Cancelled | trio.BrokenResourceError | BaseExceptionGroup
        )
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


async def test_other_requests_go_on_after_an_abort(
    serve: Serve, phase: tuple[Setup, Callable[[Request], Awaitable[int | None]]]
) -> None:
    setup, work = phase
    stopped = Recorder(work)

    async def app(request: Request) -> int | None:
        return await (stopped(request) if request.id == 1 else hello(request))

    async with serve(app) as server, server.raw() as front_end:
        await begin(front_end, stopped, setup)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front_end.send, raw.abort(), raw.get(2))
            answers = await front_end.answers(1, 2)
        assert answers[1].protocol_status == raw.COMPLETE
        assert answers[2].body == b"hello"


async def test_the_id_of_an_aborted_request_can_be_used_at_once(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await (hello if request.params["SCRIPT_NAME"] == "/hello" else sleep)(request)

    recorder = Recorder(app)
    async with serve(recorder) as server, server.raw() as front_end:
        await begin(front_end, recorder, send_whole)
        await front_end.send(raw.abort())
        await front_end.answer()
        await front_end.send(raw.get(SCRIPT_NAME="/hello"))
        assert (await front_end.answer()).body == b"hello"


@pytest.mark.parametrize(
    "before",
    [
        raw.begin(),
        raw.begin() + raw.record(raw.PARAMS, 1, raw.pairs(("REQUEST_METHOD", "GET"))),
        raw.begin() + raw.record(raw.PARAMS, 1, b"\x0e\x03REQUEST"),
    ],
    ids=["no params", "some params", "half a pair"],
)
async def test_an_abort_before_the_params_are_whole_ends_the_request(
    serve: Serve, before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder(hello)
    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(before)
        await front_end.send(raw.abort())
        answer = await front_end.answer()
        assert (answer.stdout, answer.protocol_status) == (b"", raw.COMPLETE)
        assert app.calls == 0
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
    assert caplog.records == [] or all(r.levelno < logging.WARNING for r in caplog.records)


async def test_an_abort_in_the_same_piece_as_its_request_ends_it(serve: Serve) -> None:
    async with serve(sleep) as server, server.raw() as front_end:
        await front_end.send(raw.get(1), raw.abort(1), raw.begin(2), raw.abort(2))
        answers = await front_end.answers(1, 2)
        assert all(answer.stdout == b"" for answer in answers.values())


async def test_aborts_of_nobody_are_ignored(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        await front_end.send(raw.abort(1), raw.abort(9), raw.get(1))
        await front_end.answer()
        await front_end.send(raw.abort(1), raw.abort(1), raw.get(2))
        assert (await front_end.answer(2)).body == b"hello"


async def test_a_connection_lost_in_the_params_calls_no_handler(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder(hello)
    async with serve(app) as server:
        async with server.raw() as front_end:
            await front_end.send(raw.begin() + raw.params()[:-20])
        async with server.client() as client:
            await client.request(dict(raw.USUAL_PARAMS))
        assert app.calls == 1
    assert all(line.levelno < logging.ERROR for line in caplog.records)


@pytest.mark.real
async def test_begin_abort_and_reset_in_one_instant_are_routine(
    tcp_serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """HAProxy 2.6 does this for ``OPTIONS *`` and for paths with bad escapes."""
    async with tcp_serve(hello) as server:
        for _ in range(20):
            stream = await server.connect()
            assert isinstance(stream, trio.SocketStream)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.send_all(raw.begin() + raw.abort())
            await stream.aclose()
        async with server.raw() as front_end:
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


async def test_a_truncated_body_never_looks_whole(serve: Serve) -> None:
    got: list[bytes] = []
    ended = trio.Event()

    async def app(request: Request) -> None:
        try:
            with trio.CancelScope(shield=True):
                while chunk := await request.stdin.receive_some():
                    got.append(bytes(chunk))
        except trio.BrokenResourceError:
            got.append(b"<broken>")
        ended.set()

    recorder = Recorder(app)
    async with serve(recorder) as server:
        async with server.raw() as front_end:
            await begin(front_end, recorder, send_half_a_body)
        await ended.wait()
    assert b"".join(got) == b"half <broken>"


@pytest.mark.parametrize("shield", [False, True])
async def test_a_body_past_the_limit_that_ends_in_the_same_piece_never_looks_whole(
    serve: Serve, shield: bool
) -> None:
    """The reader is awake by what came first when the rest is refused."""
    recorder = Recorder(_reading_under(shield))
    async with (
        serve(recorder, limits=Limits(max_body=10_000)) as server,
        server.raw() as front_end,
    ):
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=bytes(1000)))
        await recorder.began.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)  # until it waits for more
        await front_end.send(*[raw.stdin(content=bytes(8000))] * 2, raw.stdin())
        assert (await front_end.answer()).status == 413
    assert isinstance(recorder.error, trio.BrokenResourceError if shield else trio.Cancelled)


async def test_what_a_stopped_request_has_thrown_away_is_missed(serve: Serve) -> None:
    recorder = Recorder(_reading_under(True))
    async with serve(recorder) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"kept"))
        await recorder.began.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        exchange: Any = recorder.request  # as the server knows it
        exchange.stop(StopReason.CANCELLED)
        await front_end.send(raw.stdin(content=b"thrown away"), raw.stdin())
        assert (await front_end.answer()).status == 503
        assert not exchange.stdin.ended
    assert isinstance(recorder.error, trio.BrokenResourceError)


async def test_a_stopped_request_whose_body_was_all_there_can_read_it(serve: Serve) -> None:
    recorder = Recorder(_reading_under(True))
    async with serve(recorder) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"all of it"))
        await recorder.began.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        exchange: Any = recorder.request  # as the server knows it
        exchange.stop(StopReason.CANCELLED)
        await front_end.send(raw.stdin())
        assert (await front_end.answer()).body == b"9"
    assert recorder.error is None


def _reading_under(shield: bool) -> Callable[[Request], Awaitable[int | None]]:
    async def app(request: Request) -> None:
        with trio.CancelScope(shield=shield):
            await read_body(request)

    return app


async def test_what_had_arrived_can_be_read_in_the_cancelled_scope(serve: Serve) -> None:
    """The last message is had without a checkpoint, or clean-up could not tell what happened."""
    got: list[object] = []

    async def read_rest(request: Request) -> None:
        got.append(await request.stdin.receive_some(4))
        got.append(await request.stdin.receive_some())
        with pytest.raises(trio.BrokenResourceError):
            await request.stdin.receive_some()
        got.append("broken")

    async def app(request: Request) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            await read_rest(request)
            raise

    recorder = Recorder(app)
    async with serve(recorder) as server:
        async with server.raw() as front_end:
            await begin(front_end, recorder, send_half_a_body)
        await recorder.cleaned_up.wait()
    assert got == [b"half", b" ", "broken"]


async def test_output_of_a_stopped_request_is_broken(serve: Serve) -> None:
    seen: list[str] = []
    ended = trio.Event()

    async def app(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in (request.stdout, request.stderr):
                try:
                    with trio.CancelScope(shield=True):
                        await stream.send_all(HEAD)
                except trio.BrokenResourceError:
                    seen.append("broken")
            ended.set()

    recorder = Recorder(app)
    async with serve(recorder) as server, server.raw() as front_end:
        await begin(front_end, recorder, send_whole)
        await front_end.send(raw.abort())
        await ended.wait()
        answer = await front_end.answer()
    assert seen == ["broken", "broken"]
    assert (answer.stdout, answer.stderr) == (b"", b"")


async def test_a_waiter_for_the_abort_returns_though_the_scope_is_cancelled(serve: Serve) -> None:
    order: list[str] = []

    async def app(request: Request) -> None:
        states = [request.aborted]
        await request.wait_aborted()
        order.append("told")
        states.append(request.aborted)
        assert states == [False, True]
        assert request.cancel_scope.cancel_called
        await request.wait_aborted()
        order.append("told again")
        try:
            await trio.lowlevel.checkpoint()
        finally:
            order.append("cancelled")

    recorder = Recorder(app)
    async with serve(recorder) as server, server.raw() as front_end:
        await begin(front_end, recorder, send_whole)
        await front_end.send(raw.abort())
        await front_end.answer()
    assert order == ["told", "told again", "cancelled"]


async def test_an_abort_grace_tells_first_and_cancels_later(
    memory_serve: Serve, autojump_clock: object
) -> None:
    times: list[float] = []

    async def app(request: Request) -> None:
        await request.wait_aborted()
        times.append(trio.current_time())
        try:
            await trio.sleep_forever()
        finally:
            times.append(trio.current_time())

    recorder = Recorder(app)
    async with (
        memory_serve(recorder, timeouts=Timeouts(abort_grace=10)) as server,
        server.raw() as front_end,
    ):
        await begin(front_end, recorder, send_whole)
        await front_end.send(raw.abort())
        await front_end.answer()
    assert 10 <= times[1] - times[0] <= 11


async def test_a_handler_may_finish_within_the_abort_grace(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async def app(request: Request) -> None:
        await request.wait_aborted()
        await trio.sleep(9)

    recorder = Recorder(app)
    async with (
        memory_serve(recorder, timeouts=Timeouts(abort_grace=10)) as server,
        server.raw() as front_end,
    ):
        await begin(front_end, recorder, send_whole)
        await front_end.send(raw.abort())
        await front_end.answer()
    assert recorder.error is None


@pytest.mark.parametrize("lost", [False, True], ids=["aborted", "lost"])
async def test_an_infinite_abort_grace_only_tells(
    memory_serve: Serve, autojump_clock: object, lost: bool
) -> None:
    finished = trio.Event()

    async def app(request: Request) -> None:
        await request.wait_aborted()
        await trio.sleep(10_000)
        finished.set()

    recorder = Recorder(app)
    timeouts = Timeouts(abort_grace=math.inf)
    with trio.fail_after(20_000):
        async with trio.open_nursery() as nursery:
            near, far = trio.testing.memory_stream_pair()

            async def serve() -> None:
                await serve_stream(recorder, far, timeouts=timeouts)

            nursery.start_soon(serve)
            front_end = RawFrontEnd(near)
            await begin(front_end, recorder, send_whole)
            if not lost:
                await front_end.send(raw.abort())
                await front_end.answer()
            await near.aclose()
    assert finished.is_set()


async def test_clean_up_may_take_its_time(memory_serve: Serve, autojump_clock: object) -> None:
    async def app(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(20, shield=True):
                await trio.sleep(5)

    recorder = Recorder(app)
    async with memory_serve(recorder) as server, server.raw() as front_end:
        await begin(front_end, recorder, send_whole)
        start = trio.current_time()
        await front_end.send(raw.abort())
        await front_end.answer()
        assert trio.current_time() == start + 5


async def test_a_handler_may_cancel_its_own_scope(serve: Serve) -> None:
    async def app(request: Request) -> None:
        if request.params["SCRIPT_NAME"] == "/cancel":
            request.cancel_scope.cancel()
            await trio.sleep_forever()
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(SCRIPT_NAME="/cancel"))
        assert (await front_end.answer()).status == 503
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"


async def test_a_late_cancel_of_an_old_scope_does_not_reach_the_next_request(
    serve: Serve,
) -> None:
    scopes: list[trio.CancelScope] = []

    async def app(request: Request) -> None:
        for scope in scopes:
            scope.cancel()
        scopes.append(request.cancel_scope)
        await trio.lowlevel.checkpoint()
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        for _ in range(3):
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"
