"""Handlers and peers that break every rule: one request or one connection pays for it."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, hello
from trifcgi import Limits, Request, Timeouts
from trifcgi.server import DataPlane, window
from trifcgi.testing import MemoryServer, params


class Panic(BaseException):
    """What a library in another language raises (pyo3's PanicException is one)."""


async def _raise_in_a_child(error: BaseException) -> None:
    async def child() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


@pytest.mark.parametrize(
    "error",
    [SystemExit(1), Panic(), GeneratorExit(), asyncio.CancelledError(), StopIteration()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("nested", [False, True], ids=["bare", "grouped"])
async def test_whatever_a_handler_raises_ends_its_request_only(
    serve: Serve, error: BaseException, nested: bool
) -> None:
    async def handler(request: Request) -> None:
        if "BAD" not in request.params:
            await hello(request)
        elif nested:
            await _raise_in_a_child(error)
        else:
            raise error

    async with serve(handler) as server, server.raw() as front_end, server.raw() as neighbour:
        await front_end.send(raw.get(BAD="1"))
        assert (await front_end.answer()).status == 500
        for each in (front_end, neighbour):
            await each.send(raw.get())
            assert (await each.answer()).body == b"hello"


async def test_a_keyboard_interrupt_is_not_the_servers_to_keep() -> None:
    async def handler(request: Request) -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with MemoryServer(handler) as server:
            front_end = raw.RawFrontEnd(server.connect())
            await front_end.send(raw.get())
            await front_end.rest()
    assert caught.group_contains(KeyboardInterrupt)


async def test_a_failure_in_clean_up_does_not_turn_a_cancel_of_the_server_into_an_error() -> None:
    """A group of Cancelled and an error is neither: one half ends the request, one goes on."""
    begun = trio.Event()

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in clean-up")

    async def handler(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
            begun.set()

    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        plane = DataPlane(handler)

        async def run() -> None:
            async with plane:
                await plane.serve_stream(far)

        nursery.start_soon(run)
        await near.send_all(raw.get())
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert plane.running == plane.connections == 0


async def test_a_stray_cancelled_is_an_error_of_the_handlers(serve: Serve) -> None:
    async def handler(request: Request) -> None:
        if "BAD" not in request.params:
            await hello(request)
            return
        kept: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept = error
                raise
        assert kept is not None
        raise kept

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(BAD="1"))
        assert (await front_end.answer()).status == 500
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"


async def test_a_stray_cancelled_in_a_cancelled_scope_ends_its_request_only(serve: Serve) -> None:
    kept: BaseException | None = None

    async def handler(request: Request) -> None:
        nonlocal kept
        if "FIRST" in request.params:
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await trio.lowlevel.checkpoint()
                except trio.Cancelled as error:
                    kept = error
                    raise
        elif "BAD" in request.params:
            assert kept is not None
            request.cancel_scope.cancel()
            raise kept
        await hello(request)

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(FIRST="1"))
        assert (await front_end.answer()).body == b"hello"
        await front_end.send(raw.get(BAD="1"))
        assert (await front_end.answer()).status == 503
        for _ in range(2):
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"


async def test_a_scope_that_a_handler_leaves_open_does_not_reach_the_next_request(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """`async for` with a `break` leaves a generator suspended inside its scopes."""
    kept: list[Any] = []

    async def ticks() -> AsyncGenerator[int]:
        with trio.move_on_after(0.05):
            while True:
                yield 1

    async def handler(request: Request) -> None:
        if "BAD" in request.params:
            generator = ticks()
            kept.append(generator)
            async for _ in generator:
                break
        else:
            await trio.sleep(0.1)
        await hello(request)

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(BAD="1"))
        assert (await front_end.answer()).body == b"hello"
        for _ in range(2):
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"
        with contextlib.suppress(RuntimeError):
            await kept.pop().aclose()
    assert "left a cancel scope or nursery open" in caplog.text


async def test_a_nursery_that_a_handler_leaves_open_is_cancelled(serve: Serve) -> None:
    kept: list[Any] = []
    ended = trio.Event()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def handler(request: Request) -> None:
        if "BAD" in request.params:
            manager = trio.open_nursery()
            kept.append(manager)
            (await manager.__aenter__()).start_soon(work)
        await hello(request)

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(BAD="1"))
        assert (await front_end.answer()).body == b"hello"
        await ended.wait()
        for _ in range(2):
            await front_end.send(raw.get())
            assert (await front_end.answer()).body == b"hello"


async def test_a_late_close_of_stdout_does_not_touch_the_next_request_of_that_id(
    serve: Serve,
) -> None:
    go_on = trio.Event()
    closed = trio.Event()

    async def handler(request: Request) -> None:
        if "SLOW" in request.params:
            await request.stdout.send_all(HEAD + b"early")
            request.stdout.end()
            await go_on.wait()
            await request.stdout.aclose()
            closed.set()
        else:
            await request.stdout.send_all(HEAD + b"right, ")
            go_on.set()
            await closed.wait()
            await request.stdout.send_all(b"whole")

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(SLOW="1"))
        assert (await front_end.answer()).body == b"early"
        await front_end.send(raw.get())
        answer = await front_end.answer()
        assert (answer.body, answer.app_status) == (b"right, whole", 0)


async def test_a_connection_not_to_be_kept_closes_while_its_handler_goes_on(serve: Serve) -> None:
    go_on = trio.Event()
    ended = trio.Event()

    async def handler(request: Request) -> None:
        await request.stdout.send_all(HEAD + b"early")
        request.stdout.end()
        await go_on.wait()
        ended.set()

    async with serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get(keep=False))
        assert (await front_end.answer()).body == b"early"
        with trio.fail_after(5):
            assert await front_end.rest() == []
        assert not ended.is_set()
        go_on.set()
        await ended.wait()


async def test_a_task_that_reads_a_request_that_has_ended_is_let_go(serve: Serve) -> None:
    async with trio.open_nursery() as outer:
        reading = trio.Event()
        gone = trio.Event()

        async def read(request: Request) -> None:
            reading.set()
            with pytest.raises(trio.ClosedResourceError):
                await request.stdin.receive_some()
            gone.set()

        async def handler(request: Request) -> None:
            outer.start_soon(read, request)
            await reading.wait()
            await hello(request)

        async with serve(handler) as server, server.raw() as front_end:
            await front_end.send(raw.head())
            assert (await front_end.answer()).body == b"hello"
            with trio.fail_after(5):
                await gone.wait()


async def test_a_declared_length_of_absurd_size_cuts_the_response_and_nothing_else(
    serve: Serve,
) -> None:
    async def handler(request: Request) -> None:
        if "BAD" not in request.params:
            await hello(request)
            return
        request.stdout.send_head(b"Status: 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
        raise ValueError("after the head")

    async with serve(handler) as server, server.raw() as front_end, server.raw() as neighbour:
        await front_end.send(raw.get(BAD="1"))
        assert not any(record.kind == raw.END for record in await front_end.rest())
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).body == b"hello"


async def _ask_and_leave(stream: trio.abc.Stream) -> None:
    await stream.send_all(raw.head())
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("wait", ["input", "abort", "sleep"])
async def test_a_peer_that_is_gone_when_a_handler_first_suspends(serve: Serve, wait: str) -> None:
    """The flush then fails while the handler's task is neither running nor asleep."""

    async def handler(request: Request) -> None:
        await request.stdout.send_all(HEAD + b"begun")
        if wait == "input":
            await request.stdin.receive_some()
        elif wait == "abort":
            await request.wait_aborted()
        else:
            await trio.sleep_forever()

    async with serve(handler) as server:
        for _ in range(20):
            await _ask_and_leave(await server.connect())
            await trio.sleep(0.002)


@pytest.mark.parametrize(
    "data", [raw.record(raw.GET_VALUES, 0), raw.record(77, 0)], ids=["values", "unknown"]
)
async def test_answers_that_nobody_reads_do_not_pile_up(
    tcp_serve: Serve, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trifcgi.server.connection._MAX_UNSENT", 100_000)
    async with tcp_serve(hello) as server, server.raw() as front_end, server.raw() as neighbour:
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):  # noqa: PT012
            while True:
                await front_end.send(data * 500)
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).body == b"hello"


@pytest.mark.parametrize(
    "request_of",
    [
        lambda number: raw.begin(number) + raw.record(raw.PARAMS, number),
        lambda number: raw.begin(number, role=99),
        raw.get,
    ],
    ids=["no params", "unknown role", "head only"],
)
async def test_responses_that_nobody_reads_do_not_pile_up(
    tcp_serve: Serve, request_of: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trifcgi.server.connection._MAX_UNSENT", 100_000)

    async def handler(request: Request) -> None:
        request.stdout.send_head(b"X-Padding: " + b"x" * 2000 + b"\r\n" + HEAD, bodyless=True)

    async with tcp_serve(handler) as server, server.raw() as front_end, server.raw() as neighbour:
        flood = b"".join(map(request_of, range(1, 30_001)))
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):  # noqa: PT012
            while True:
                await front_end.send(flood)
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).status == 200


async def test_a_second_sender_in_the_middle_of_a_long_piece_is_refused(
    tcp_serve: Serve,
) -> None:
    long = b"a" * 16_000_000  # more than sockets hold
    busy = trio.Event()

    async def handler(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.stdout.send_all, long)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for more in (b"b", bytearray(b"b"), b"b" * 1_000_000):
                with pytest.raises(trio.BusyResourceError):
                    await request.stdout.send_all(more)
            busy.set()
        await request.stdout.send_all(b"c")

    async with tcp_serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        await busy.wait()
        assert (await front_end.answer()).body == long + b"c"


async def test_a_handler_that_shields_itself_is_told_of_a_write_timeout(
    autojump_clock: object,
) -> None:
    errors: list[BaseException] = []
    sent = 0

    async def handler(request: Request) -> None:
        nonlocal sent
        with trio.CancelScope(shield=True):
            await request.stdout.send_all(HEAD)
            try:
                while sent < 400:
                    await request.stdout.send_all(bytes(65536))
                    sent += 1
            except trio.BrokenResourceError as error:
                errors.append(error)
                raise

    async with MemoryServer(handler, timeouts=Timeouts(write_timeout=5)) as server:
        stream = server.connect(trio.testing.lockstep_stream_pair)
        await stream.send_all(raw.get())
        await trio.sleep(100)
        assert server.plane.connections == 0
    assert len(errors) == 1
    assert sent < 20


async def test_a_cancelled_server_is_not_held_up_by_a_handler_that_shields_its_output(
    autojump_clock: object,
) -> None:
    shielded = trio.Event()

    async def handler(request: Request) -> None:
        with trio.CancelScope(shield=True):
            shielded.set()
            await trio.sleep(10)  # the server is cancelled meanwhile
            await request.stdout.send_all(HEAD + bytes(1_000_000))

    with trio.fail_after(100):
        async with MemoryServer(handler) as server:
            stream = server.connect(trio.testing.lockstep_stream_pair)
            await stream.send_all(raw.get())
            await shielded.wait()
    assert server.plane.connections == 0


async def test_the_keep_alive_counts_after_a_request_longer_than_every_other_timeout(
    serve: Serve,
) -> None:
    async def handler(request: Request) -> None:
        await trio.sleep(0.3)
        await hello(request)

    timeouts = Timeouts(keep_alive=0.2, read_timeout=0.1, request_timeout=100_000)
    async with serve(handler, timeouts=timeouts) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
        with trio.fail_after(5):
            assert await front_end.rest() == []


async def test_room_for_a_connection_is_room_on_every_listener() -> None:
    async def wait(plane: DataPlane, seen: list[int], which: int) -> None:
        await plane.wait_for_room()
        seen.append(which)

    near, far = trio.testing.memory_stream_pair()
    plane = DataPlane(hello, limits=Limits(max_connections=1))
    seen: list[int] = []
    async with plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, plane, seen, 1)
        nursery.start_soon(wait, plane, seen, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        await near.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(seen) == [1, 2]


async def test_a_last_flush_survives_more_output_on_a_stream(autojump_clock: object) -> None:
    """The end of a connection waits for its output; a late question adds to that."""
    async with MemoryServer(hello) as server:
        stream = server.connect(trio.testing.lockstep_stream_pair)
        await stream.send_all(raw.get(keep=False))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(raw.record(raw.GET_VALUES, 0))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(50):
            while await stream.receive_some(10):
                pass


async def test_a_lost_stream_begins_no_request(autojump_clock: object) -> None:
    calls = 0

    async def handler(request: Request) -> None:
        nonlocal calls
        calls += 1
        with trio.CancelScope(shield=True):
            await request.stdout.send_all(HEAD + bytes(200_000))
            await trio.sleep(1000)

    async with MemoryServer(handler, timeouts=Timeouts(write_timeout=5)) as server:
        stream = server.connect(trio.testing.lockstep_stream_pair)
        await stream.send_all(raw.get(1))
        await trio.sleep(100)
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(1):
            await stream.send_all(raw.get(2))
        await trio.sleep(100)
        assert calls == 1


class _SlowToClose(trio.abc.Stream):
    """A stream whose closing takes a few turns of the event loop."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.closing = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closing.set()
        for _ in range(10):
            await trio.lowlevel.cancel_shielded_checkpoint()
        await self._stream.aclose()


async def test_background_work_that_ends_while_its_connection_closes_leaves_nobody_behind() -> (
    None
):
    near, far = trio.testing.memory_stream_pair()
    stream = _SlowToClose(far)

    async def handler(request: Request) -> None:
        await hello(request)
        request.stdout.end()
        await stream.closing.wait()

    with trio.fail_after(10):
        async with DataPlane(handler) as plane, trio.open_nursery() as nursery:
            nursery.start_soon(plane.serve_stream, stream)
            front_end = raw.RawFrontEnd(near)
            await front_end.send(raw.get(keep=False))
            assert (await front_end.answer()).body == b"hello"
            assert await front_end.rest() == []
            await near.aclose()


@pytest.mark.parametrize("late", [raw.begin(2), raw.head(2), raw.get(2)])
async def test_a_request_that_comes_while_its_connection_closes_leaves_nobody_behind(
    late: bytes,
) -> None:
    go_on = trio.Event()
    begun = trio.Event()

    async def handler(request: Request) -> None:
        if request.id == 2:
            await request.stdin.receive_some()
            await trio.sleep_forever()
        await request.stdout.send_all(HEAD + bytes(100_000))
        request.stdout.end()
        begun.set()
        await go_on.wait()

    near, far = trio.testing.lockstep_stream_pair()
    with trio.fail_after(10):
        async with DataPlane(handler) as plane, trio.open_nursery() as nursery:
            nursery.start_soon(plane.serve_stream, far)
            front_end = raw.RawFrontEnd(near)
            await front_end.send(raw.get(keep=False))
            await begun.wait()
            # The answer waits to be read, and the connection for that, to close.
            await front_end.send(late)
            assert len((await front_end.answer()).body) == 100_000
            await front_end.rest()
            await near.aclose()
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()


class _FullDisk:
    def seek(self, place: int) -> None:
        pass

    def write(self, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


async def test_a_full_disk_ends_the_request_that_needed_it(
    memory_serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: _FullDisk())

    async def handler(request: Request) -> None:
        if "BAD" in request.params:
            await trio.sleep_forever()
        await hello(request)

    async with memory_serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.head(1, BAD="1"))
        await front_end.send(*[raw.stdin(1, bytes(60_000)) for _ in range(10)])
        assert (await front_end.answer(1)).status in (413, 500, 503)
        await front_end.send(raw.get(2))
        assert (await front_end.answer(2)).body == b"hello"


async def test_a_reader_that_stops_below_the_files_limit_holds_up_nobody(
    memory_serve: Serve, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Reading goes on at half the limit; a handler may well stop between the two."""
    monkeypatch.setattr(window, "SPOOL_LIMIT", 1 << 20)

    async def handler(request: Request) -> None:
        if "BAD" not in request.params:
            await hello(request)
            return
        await trio.sleep(0.1)
        for _ in range(8):
            await request.stdin.receive_some(65536)
        await trio.sleep_forever()

    async with memory_serve(handler) as server, server.raw() as front_end:
        await front_end.send(raw.head(1, BAD="1"), raw.get(2))
        await front_end.answer(2)
        await front_end.send(*[raw.stdin(1, bytes(60_000)) for _ in range(40)], raw.get(3))
        with trio.fail_after(60):
            answers = await front_end.answers(1, 3)
        assert answers[1].status == 413
        assert answers[3].body == b"hello"


async def test_a_fault_of_the_servers_own_ends_one_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(exchange: object, error: BaseException) -> None:
        raise KeyError("a fault")

    async def handler(request: Request) -> None:
        if "BAD" in request.params:
            raise ValueError
        await hello(request)

    async with serve(handler) as server, server.raw() as front_end, server.raw() as neighbour:
        with monkeypatch.context() as patch:
            patch.setattr("trifcgi.server.ending.failed", broken)
            await front_end.send(raw.get(BAD="1"))
            assert not any(record.kind == raw.END for record in await front_end.rest())
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).body == b"hello"
    assert "failed in the server itself" in caplog.text


class _FaultyTimeouts(Timeouts):
    """Raises at the read timeout, once it has been asked for ``reads`` times."""

    reads = math.inf

    def __getattribute__(self, name: str) -> Any:
        if name == "read_timeout":
            type(self).reads -= 1
            if type(self).reads < 0:
                raise KeyError("a fault")
        return super().__getattribute__(name)


async def test_a_fault_in_a_deadline_ends_one_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timeouts = _FaultyTimeouts(read_timeout=0.1)
    async with serve(hello, timeouts=timeouts) as server, server.raw() as neighbour:
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).body == b"hello"
        await trio.sleep(0.2)
        async with server.raw() as front_end:
            with monkeypatch.context() as patch:
                # The deadline asks for it.
                patch.setattr(_FaultyTimeouts, "reads", 0)
                await front_end.send(raw.begin())
                assert await front_end.rest() == []
        await neighbour.send(raw.get())
        assert (await neighbour.answer()).body == b"hello"
    assert "failed in the server itself" in caplog.text


async def test_a_send_all_that_nobody_awaits_is_named(serve: Serve) -> None:
    async def forget(request: Request) -> None:
        with pytest.warns(RuntimeWarning, match=r"\bstdout\.send_all\b.* was never awaited"):
            request.stdout.send_all(HEAD + b"never")  # type: ignore[unused-coroutine]
        await request.stdout.send_all(HEAD + b"sent")

    async with serve(forget) as server, server.client() as client:
        assert (await client.request(params())).body == b"sent"
