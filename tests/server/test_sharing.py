"""Requests that share a connection, and the memory that each may take."""

import tracemalloc
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, Recorder, echo, flood, hello, read_body, sleep
from tests.server.raw import RawFrontEnd
from trifcgi import Request
from trifcgi.server import DataPlane
from trifcgi.testing import params


async def test_eight_interleaved_requests_get_their_own_answers(serve: Serve) -> None:
    async with serve(echo) as server, server.raw() as front_end:
        numbers = range(1, 9)
        await front_end.send(*(raw.begin(number) for number in numbers))
        await front_end.send(*(raw.params(number) for number in numbers))
        expected = dict.fromkeys(numbers, b"")
        async with trio.open_nursery() as nursery:

            async def send_bodies() -> None:
                for turn in range(20):
                    for number in numbers:
                        piece = b"%d:%d " % (number, turn)
                        expected[number] += piece
                        await front_end.send(raw.stdin(number, piece))
                await front_end.send(*(raw.stdin(number) for number in reversed(numbers)))

            nursery.start_soon(send_bodies)
            answers = await front_end.answers(*numbers)
        assert {number: answer.body for number, answer in answers.items()} == expected


async def test_a_slow_request_does_not_stall_the_others(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await (sleep if request.id == 1 else hello)(request)

    async with serve(app) as server, server.client() as client, client.open(params()) as slow:
        for _ in range(20):
            assert (await client.request(params())).body == b"hello"
        assert not slow.over


async def test_a_failing_request_does_not_touch_the_others(serve: Serve) -> None:
    async def app(request: Request) -> None:
        if request.id == 1:
            raise RuntimeError
        await echo(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(2), raw.stdin(2, b"one "), raw.get(1))
        await front_end.send(raw.stdin(2, b"two"), raw.stdin(2))
        answers = await front_end.answers(1, 2)
        assert answers[1].status == 500
        assert answers[2].body == b"one two"


async def test_a_cut_response_lets_its_neighbours_finish_first(serve: Serve) -> None:
    go_on = trio.Event()

    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        if request.id == 1:
            raise RuntimeError
        await go_on.wait()
        await request.stdout.send_all(b"whole")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(2), raw.get(1))
        await trio.lowlevel.checkpoint()
        go_on.set()
        records = await front_end.rest()
        whole = [record for record in records if record.request_id == 2]
        assert raw.gather(whole).body == b"whole"
        assert raw.END not in [record.kind for record in records if record.request_id == 1]


async def test_an_app_that_never_reads_its_body_stalls_nobody(serve: Serve) -> None:
    deaf = Recorder(sleep)

    async def app(request: Request) -> int | None:
        return await (deaf if request.id == 1 else read_body)(request)

    async with serve(app) as server, server.raw() as front_end, trio.open_nursery() as nursery:

        async def send() -> None:
            await front_end.send(raw.head(1, REQUEST_METHOD="POST"))
            for _ in range(50):
                await front_end.send(raw.stdin(1, bytes(60_000)))
            await front_end.send(raw.head(2, REQUEST_METHOD="POST"))
            await front_end.send(raw.stdin(2, b"heard"), raw.stdin(2))

        nursery.start_soon(send)
        assert (await front_end.answer(2)).body == b"5"
        await front_end.send(raw.abort(1))
        assert (await front_end.answer(1)).protocol_status == raw.COMPLETE


async def test_a_body_that_waited_in_a_file_comes_out_as_it_went_in(serve: Serve) -> None:
    go_on = trio.Event()

    async def app(request: Request) -> None:
        if request.id == 1:
            await go_on.wait()
        await echo(request)

    async with serve(app) as server, server.raw() as front_end:
        body = b"".join(b"%08d" % number for number in range(150_000))
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await front_end.send(raw.head(1, REQUEST_METHOD="POST"))
                for start in range(0, len(body), 50_000):
                    await front_end.send(raw.stdin(1, body[start : start + 50_000]))
                await front_end.send(raw.stdin(1), raw.get(2))

            nursery.start_soon(send)
            await front_end.answer(2)
        go_on.set()
        assert (await front_end.answer(1)).body == body


async def test_two_endless_answers_share_the_wire(serve: Serve) -> None:
    async with serve(flood) as server, server.raw() as front_end:
        await front_end.send(raw.get(1), raw.get(2))
        received = {1: 0, 2: 0}
        while min(received.values()) < 1_000_000:
            record = await front_end.receive()
            assert record is not None
            received[record.request_id] += len(record.content)
            assert max(received.values()) < 20_000_000


async def test_a_handler_that_never_waits_lets_others_run(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        while request.id == 1:
            await request.stdout.send_all(b"x")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(1))
        await front_end.send(raw.get(2))
        while (record := await front_end.receive()) is not None:
            if (record.kind, record.request_id) == (raw.END, 2):
                break
        else:
            pytest.fail("the other request had no answer")


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


MIB = 1 << 20


async def test_a_huge_answer_to_a_peer_that_does_not_read_stays_small(traced: None) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    app = Recorder(flood)
    async with DataPlane(app) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        await near.send_all(raw.get())
        await trio.testing.wait_all_tasks_blocked()
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 4 * MIB
        assert not app.cleaned_up.is_set()
        nursery.cancel_scope.cancel()


async def test_one_huge_chunk_is_not_copied_as_a_whole(traced: None) -> None:
    chunk = bytes(64 * MIB)

    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD)
        await request.stdout.send_all(chunk)

    near, far = trio.testing.lockstep_stream_pair()
    async with DataPlane(app) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        before, _ = tracemalloc.get_traced_memory()
        await near.send_all(raw.get())
        front_end = RawFrontEnd(near)
        for _ in range(100):
            await front_end.receive()
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 8 * MIB
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, 60_000])
async def test_an_upload_to_an_app_that_does_not_read_stays_small(traced: None, size: int) -> None:
    app = Recorder(sleep)
    near, far = trio.testing.lockstep_stream_pair()
    async with DataPlane(app) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        await near.send_all(raw.head(REQUEST_METHOD="POST"))
        await app.began.wait()
        piece = b"".join(
            raw.stdin(content=bytes(size))
            for _ in range((480_000 if size > 1 else 150_000) // (size + 8))
        )
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20 if size > 1 else 1):
            await near.send_all(piece)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 8 * MIB
        nursery.cancel_scope.cancel()


async def test_a_body_in_a_shared_connections_way_is_refused_in_the_end(
    memory_serve: Serve, autojump_clock: object
) -> None:
    """What an app leaves unread goes to a file, and a file has an end too."""
    deaf = Recorder(sleep)

    async def app(request: Request) -> int | None:
        return await (deaf if request.id == 2 else hello)(request)

    async with memory_serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(2, REQUEST_METHOD="POST"))
        piece = raw.stdin(2, bytes(65535)) * 16
        for _ in range(70):
            await front_end.send(piece)
        await front_end.send(raw.get(1))
        answers = await front_end.answers(1, 2)
        assert answers[1].body == b"hello"
        assert answers[2].status == 413
        assert deaf.cleaned_up.is_set()
