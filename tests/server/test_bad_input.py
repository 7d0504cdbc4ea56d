"""Bytes that no front end sends: their connection ends, a log line says so, no other notices."""

import logging
import struct

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import Recorder, echo, hello, read_body, sleep
from trifcgi import Limits, Request
from trifcgi.server import DataPlane

GARBAGE = {
    "zeros": bytes(8),
    "http": b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "another version": raw.begin().replace(b"\1\1", b"\2\1", 1),
    "short begin": raw.record(raw.BEGIN, 1, b"\0\1\1"),
    "long begin": raw.record(raw.BEGIN, 1, bytes(9)),
    "begin twice": raw.begin() * 2,
    "begin of an open request": raw.head() + raw.begin(),
    "a length cut off": raw.begin() + raw.record(raw.PARAMS, 1, b"\x80\0") + raw.record(4, 1),
    "a name cut off": raw.begin() + raw.record(raw.PARAMS, 1, b"\5\0abc") + raw.record(4, 1),
    "a value cut off": raw.begin() + raw.record(raw.PARAMS, 1, b"\1\5abc") + raw.record(4, 1),
    "a length of 2 GiB": raw.begin()
    + raw.record(raw.PARAMS, 1, b"\xff\xff\xff\xff\0x")
    + raw.record(4, 1),
    "params after their end": raw.head() + raw.record(raw.PARAMS, 1, raw.pairs(("A", "b"))),
    "stdin before the params": raw.begin() + raw.stdin(content=b"x"),
    "stdin after its end": raw.get() + raw.begin(2) + raw.stdin(2, b"x"),
    "values that are cut off": raw.record(raw.GET_VALUES, 0, b"\5\0abc"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_its_connection_with_one_log_line(
    serve: Serve, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(sleep) as server, server.raw() as front_end:
        await front_end.send(garbage)
        while (await front_end.receive()) is not None:
            pass
        [line] = [line for line in caplog.records if line.levelno >= logging.WARNING]
        assert line.levelno == logging.WARNING
        assert line.exc_info is None
        peer = {"tcp": "127.0.0.1:", "unix": "unix"}.get(server.transport, "stream")
        assert line.getMessage().startswith(peer)


async def test_garbage_leaves_other_connections_alone(serve: Serve) -> None:
    async with serve(echo) as server, server.raw() as other:
        await other.send(raw.head(), raw.stdin(content=b"before "))
        async with server.raw() as front_end:
            await front_end.send(GARBAGE["http"])
            assert await front_end.rest() == []
        await other.send(raw.stdin(content=b"after"), raw.stdin())
        assert (await other.answer()).body == b"before after"


async def test_garbage_behind_a_request_stops_it(serve: Serve) -> None:
    app = Recorder(sleep)
    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        await app.began.wait()
        await front_end.send(GARBAGE["http"])
        await app.cleaned_up.wait()
        while (await front_end.receive()) is not None:
            pass


async def test_a_connection_cut_at_any_byte_is_routine(
    memory_serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    whole = raw.head(REQUEST_METHOD="POST") + raw.stdin(content=b"body") + raw.stdin()
    for reading in (True, False):
        app = read_body if reading else hello
        async with memory_serve(app) as server:
            for cut in range(len(whole) + 1):
                async with server.raw() as front_end:
                    await front_end.send(whole[:cut])
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.real
async def test_a_reset_at_any_byte_is_routine(
    tcp_serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    whole = raw.head(REQUEST_METHOD="POST") + raw.stdin(content=b"body") + raw.stdin()
    async with tcp_serve(read_body) as server:
        for cut in range(0, len(whole) + 1, 5):
            stream = await server.connect()
            assert isinstance(stream, trio.SocketStream)
            linger = struct.pack("ii", 1, 0)
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
            if cut:
                await stream.send_all(whole[:cut])
            await stream.aclose()
        async with server.client() as client:
            assert (await client.request(dict(raw.USUAL_PARAMS))).body == b"0"
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


async def test_a_reader_that_goes_away_is_routine(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(b"Status: 200\r\n\r\n" + bytes(5_000_000))

    recorder = Recorder(app)
    async with serve(recorder) as server:
        async with server.raw() as front_end:
            await front_end.send(raw.get())
            await front_end.receive()
        await recorder.cleaned_up.wait()
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


async def test_a_flood_of_tiny_records_is_a_body_like_any_other(serve: Serve) -> None:
    async with serve(read_body) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"))
        for _ in range(20):
            await front_end.send(raw.stdin(content=b"x") * 1000)
        await front_end.send(raw.stdin())
        assert (await front_end.answer()).body == b"20000"


async def test_a_flood_of_empty_records_is_ignored(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        for _ in range(10):
            await front_end.send(raw.stdin(9) * 2000, raw.abort(8) * 2000)
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"


async def test_a_flood_of_begins_is_bounded(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(hello, limits=Limits(max_requests=10)) as server:
        async with server.raw() as front_end:
            refused = 0
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    for start in range(1, 65_000, 1000):
                        await front_end.send(
                            *(raw.begin(number) for number in range(start, start + 1000))
                        )

                nursery.start_soon(flood)
                while refused < 60_000:
                    record = await front_end.receive()
                    assert record is not None
                    refused += record.kind == raw.END
                nursery.cancel_scope.cancel()
        async with server.client() as client:
            assert (await client.request(dict(raw.USUAL_PARAMS))).body == b"hello"


async def test_open_requests_without_params_take_nobodys_place(serve: Serve) -> None:
    async with (
        serve(hello, limits=Limits(max_requests=3)) as server,
        server.raw() as front_end,
        server.client() as client,
    ):
        await front_end.send(*(raw.begin(number) for number in range(2, 20)))
        for _ in range(5):
            assert (await client.request(dict(raw.USUAL_PARAMS))).status == 200


async def test_a_flood_of_questions_that_nobody_reads_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    async with DataPlane(hello) as plane, trio.open_nursery() as nursery:
        nursery.start_soon(plane.serve_stream, far)
        question = raw.record(raw.GET_VALUES, 0, raw.pairs(("FCGI_MAX_CONNS", "")))
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(question * 1_000_000)
        nursery.cancel_scope.cancel()
    assert len([line for line in caplog.records if line.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize(
    "value", ["9" * 5000, "-1", "+5", "5 ", "0x5", "\uff11"], ids=lambda value: value[:6]
)
async def test_an_odd_content_length_is_the_apps_to_judge(serve: Serve, value: str) -> None:
    async with serve(read_body, limits=Limits(max_body=100)) as server, server.raw() as front_end:
        await front_end.send(raw.get(REQUEST_METHOD="POST", CONTENT_LENGTH=value))
        assert (await front_end.answer()).status in (200, 400, 413)
        await front_end.send(raw.get())
        assert (await front_end.answer()).status == 200


async def test_hostile_params_cannot_forge_log_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(request: Request) -> None:
        raise RuntimeError("on purpose")

    async with serve(app) as server, server.raw() as front_end:
        uri = "/\r\nERROR forged \x1b[31m\0" + "x" * 5000
        await front_end.send(raw.get(REQUEST_URI=uri, REQUEST_METHOD="GET\n"))
        await front_end.answer()
    for line in caplog.records:
        assert "\n" not in line.getMessage()
        assert "\x1b" not in line.getMessage()
        assert len(line.getMessage()) < 2000


async def test_many_bad_connections_leave_nothing(memory_serve: Serve) -> None:
    app = Recorder(hello)
    plane: DataPlane
    async with DataPlane(app) as plane, trio.open_nursery() as nursery:
        for garbage in GARBAGE.values():
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(plane.serve_stream, far)
            await near.send_all(garbage)
            await near.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (plane.connections, plane.running) == (0, 0)
        assert not nursery.child_tasks
