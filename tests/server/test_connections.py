"""One connection, many requests: kept or closed, IDs used again, records in order."""

import contextvars
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

import trifcgi
from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, Recorder, echo, hello, read_body, sleep
from trifcgi import Client, Limits, Request, Role, serve_stream
from trifcgi.server.exchange import Exchange
from trifcgi.server.socket_wire import SocketWire
from trifcgi.server.wire import SEND_BUFFER
from trifcgi.testing import params


async def test_a_kept_connection_takes_the_next_request_under_the_same_id(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        for _ in range(5):
            await front_end.send(raw.get(1))
            assert (await front_end.answer(1)).body == b"hello"


async def test_without_keep_connection_it_closes_after_the_answer(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        await front_end.send(raw.get(keep=False))
        assert (await front_end.answer()).body == b"hello"
        assert await front_end.rest() == []


async def test_without_keep_connection_a_long_answer_arrives_whole(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD + bytes(3_000_000))

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(keep=False))
        assert len((await front_end.answer()).body) == 3_000_000
        assert await front_end.rest() == []


async def test_without_keep_connection_an_early_answer_arrives_whole(serve: Serve) -> None:
    """The peer still sends its body while we close: a reset would eat the answer."""
    async with serve(hello) as server, server.raw() as front_end, trio.open_nursery() as nursery:

        async def upload() -> None:
            try:
                await front_end.send(raw.head(keep=False, REQUEST_METHOD="POST"))
                for _ in range(30):
                    await front_end.send(raw.stdin(content=bytes(60_000)))
                await front_end.send(raw.stdin())
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(upload)
        assert (await front_end.answer()).body == b"hello"
        nursery.cancel_scope.cancel()


async def test_one_request_without_keep_connection_lets_its_neighbours_finish(
    serve: Serve,
) -> None:
    go_on = trio.Event()

    async def app(request: Request) -> None:
        if request.id == 1:
            await go_on.wait()
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(1), raw.get(2, keep=False))
        assert (await front_end.answer(2)).body == b"hello"
        go_on.set()
        assert (await front_end.answer(1)).body == b"hello"
        assert await front_end.rest() == []


async def test_a_kept_connection_survives_an_early_answer(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await (hello if request.params["REQUEST_METHOD"] == "POST" else echo)(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"unread"))
        assert (await front_end.answer()).body == b"hello"
        await front_end.send(raw.stdin(content=bytes(60_000)), raw.stdin())
        await front_end.send(raw.head(), raw.stdin(content=b"second"), raw.stdin())
        assert (await front_end.answer()).body == b"second"


async def test_nothing_leaves_after_end_request_not_even_stderr(serve: Serve) -> None:
    old: list[Request] = []

    async def app(request: Request) -> None:
        for before in old:
            for stream in (before.stdout, before.stderr):
                with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                    await stream.send_all(b"poison\n")
        old.append(request)
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        for _ in range(3):
            await front_end.send(raw.get())
            answer = await front_end.answer()
            assert (answer.body, answer.stderr) == (b"hello", b"")


async def test_reading_an_ended_request_is_closed_not_empty(serve: Serve) -> None:
    old: list[Request] = []

    async def app(request: Request) -> None:
        old.append(request)
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"))
        await front_end.answer()
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await old[0].stdin.receive_some()


async def test_a_head_in_tiny_writes_leaves_as_one_record(serve: Serve) -> None:
    async def app(request: Request) -> None:
        for byte in HEAD:
            await request.stdout.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await request.stdout.send_all(b"body")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        answer = await front_end.answer()
    assert answer.records[0].kind == raw.STDOUT
    assert b"\r\n\r\n" in answer.records[0].content
    assert answer.body == b"body"


async def test_stderr_before_the_head_leaves_after_it(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await request.stderr.send_all(b"early warning\n")
        await trio.lowlevel.checkpoint()
        await request.stdout.send_all(HEAD[:20])
        await request.stderr.send_all(b"second\nunended")
        await request.stdout.send_all(HEAD[20:] + b"body")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        answer = await front_end.answer()
    assert answer.records[0].kind == raw.STDOUT
    assert b"\r\n\r\n" in answer.records[0].content
    assert answer.stderr == b"early warning\nsecond\nunended"
    assert answer.body == b"body"


async def test_stderr_leaves_in_whole_lines(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await hello(request)
        for word in (b"one ", b"line\n", b"and ", b"another\n"):
            await request.stderr.send_all(word)
            await trio.lowlevel.checkpoint()

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        answer = await front_end.answer()
    records = [record.content for record in answer.records if record.kind == raw.STDERR]
    assert [content for content in records if content] == [b"one line\n", b"and another\n"]


@pytest.mark.parametrize(("method", "head"), [("HEAD", HEAD), ("GET", b"Status: 204\r\n\r\n")])
async def test_a_response_that_may_have_no_body_gets_none(
    serve: Serve, method: str, head: bytes
) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(head + b"body")
        await request.stdout.send_all(b"more body")

    async with serve(app) as server, server.client() as client:
        response = await client.request(params(method=method))
        assert response.body == b""
        assert response.status in (200, 204)


async def test_a_missing_status_is_added(serve: Serve) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(b"Location: /elsewhere\nContent-Type: text/plain\n\nbody")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        answer = await front_end.answer()
    assert answer.stdout.index(b"Location") < answer.stdout.index(b"Status: ")
    assert answer.body == b"body"


async def test_closing_stdout_early_ends_the_response_but_not_the_request(serve: Serve) -> None:
    go_on = trio.Event()

    async def app(request: Request) -> int:
        await hello(request)
        await request.stdout.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await request.stdout.send_all(b"more")
        await go_on.wait()
        return 3

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        while (record := await front_end.receive()) is not None and record.content:
            assert record.kind == raw.STDOUT
        assert record == raw.Record(raw.STDOUT, 1, b"")
        go_on.set()
        answer = await front_end.answer()
        assert (answer.stdout, answer.app_status) == (b"", 3)
        assert [record.kind for record in answer.records] == [raw.END]


async def test_padding_is_no_content(serve: Serve) -> None:
    async with serve(echo) as server, server.raw() as front_end:
        items = raw.pairs(*raw.USUAL_PARAMS)
        await front_end.send(
            raw.record(raw.BEGIN, 1, b"\0\1\1\0\0\0\0\0", padding=255),
            raw.record(raw.PARAMS, 1, items, padding=7),
            raw.record(raw.PARAMS, 1, padding=8),
            raw.record(raw.STDIN, 1, b"body", padding=4),
            raw.record(raw.STDIN, 1, padding=1),
        )
        assert (await front_end.answer()).body == b"body"


async def test_one_byte_at_a_time_is_a_request_too(serve: Serve) -> None:
    async with serve(echo) as server, server.raw() as front_end:
        whole = raw.head(REQUEST_METHOD="POST") + raw.stdin(content=b"body") + raw.stdin()
        for byte in whole:
            await front_end.send(bytes([byte]))
        assert (await front_end.answer()).body == b"body"


async def test_requests_in_one_piece_are_all_answered(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        numbers = range(1, 101)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front_end.send, *(raw.get(number) for number in numbers))
            answers = await front_end.answers(*numbers)
        assert {answer.body for answer in answers.values()} == {b"hello"}


async def test_records_of_inactive_requests_are_ignored(serve: Serve) -> None:
    async with serve(echo) as server, server.raw() as front_end:
        await front_end.send(raw.stdin(9, b"x"), raw.record(raw.PARAMS, 8, b"\1\1ab"))
        await front_end.send(raw.record(raw.DATA, 7, b"x"), raw.head(1))
        await front_end.send(raw.stdin(2, b"other"), raw.stdin(1, b"own"), raw.stdin(1))
        assert (await front_end.answer()).body == b"own"


async def test_values_are_told(serve: Serve) -> None:
    limits = Limits(max_connections=12, max_requests=34)
    async with serve(hello, limits=limits) as server, server.client() as client:
        names = ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS", "FCGI_UNHEARD_OF"]
        assert await client.get_values(names) == {
            "FCGI_MAX_CONNS": "12",
            "FCGI_MAX_REQS": "34",
            "FCGI_MPXS_CONNS": "1",
        }
        assert (await client.request(params())).body == b"hello"


async def test_values_are_told_while_a_request_runs(serve: Serve) -> None:
    async with serve(sleep) as server, server.client() as client, client.open(params()):
        assert await client.get_values(["FCGI_MPXS_CONNS"]) == {"FCGI_MPXS_CONNS": "1"}


async def test_an_unknown_management_record_is_answered(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        await front_end.send(raw.record(77, 0, b"what?"))
        answer = await front_end.receive()
        assert answer == raw.Record(raw.UNKNOWN_TYPE, 0, bytes([77]) + bytes(7))


async def test_a_filter_reads_its_body_then_its_data(serve: Serve) -> None:
    async def app(request: Request) -> None:
        assert request.role is Role.FILTER
        body = b"".join([chunk async for chunk in request.stdin])
        data = b"".join([chunk async for chunk in request.data])
        await request.stdout.send_all(HEAD + body + b"|" + data)

    async with serve(app) as server, server.client() as client:
        items = dict(params(FCGI_DATA_LENGTH="4", FCGI_DATA_LAST_MOD="0"))
        response = await client.request(items, b"body", role=Role.FILTER, data=b"data")
        assert response.body == b"body|data"


async def test_a_responder_has_empty_data(serve: Serve) -> None:
    async def app(request: Request) -> None:
        assert await request.data.receive_some() == b""
        await hello(request)

    async with serve(app) as server, server.client() as client:
        assert (await client.request(params())).body == b"hello"


@pytest.mark.parametrize("stray", [b"", raw.stdin()], ids=["no stdin", "a stray empty stdin"])
async def test_an_authorizer_starts_at_the_end_of_its_params(serve: Serve, stray: bytes) -> None:
    """lighttpd and mod_fcgid send no FCGI_STDIN to an authorizer."""

    async def app(request: Request) -> None:
        assert request.role is Role.AUTHORIZER
        assert await request.stdin.receive_some() == b""
        await request.stdout.send_all(b"Status: 200\r\nVariable-User: me\r\n\r\n")

    async with serve(app) as server, server.raw() as front_end:
        for _ in range(2):
            await front_end.send(raw.head(role=raw.AUTHORIZER), stray)
            answer = await front_end.answer()
            assert answer.status == 200
            assert b"Variable-User: me" in answer.stdout


async def test_a_request_knows_itself(serve: Serve) -> None:
    async def app(request: Request) -> None:
        assert (request.id, request.role, request.keep_connection) == (5, Role.RESPONDER, True)
        assert request.params["X_BYTES"] == "é"
        assert (b"X_BYTES", b"\xc3\xa9") in list(request.pairs)
        assert request.aborted is False
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(5, X_BYTES="é"))
        assert (await front_end.answer(5)).body == b"hello"


async def test_context_variables_do_not_reach_the_next_request(serve: Serve) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def app(request: Request) -> None:
        seen = variable.get()
        variable.set(seen + 1)
        await trio.lowlevel.checkpoint()
        await request.stdout.send_all(HEAD + b"%d" % seen)

    async with serve(app) as server, server.client() as client:
        for _ in range(3):
            assert (await client.request(params())).body == b"0"


async def test_serve_stream_ends_with_its_connection() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, hello, far)
        async with Client(near) as client:
            assert (await client.request(params())).body == b"hello"
    with pytest.raises(trio.ClosedResourceError):
        await far.send_all(b"x")


async def test_a_half_close_before_the_end_of_the_body_is_an_abort(memory_serve: Serve) -> None:
    app = Recorder(read_body)
    async with memory_serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"half"))
        await app.began.wait()
        assert isinstance(front_end.stream, trio.abc.HalfCloseableStream)
        await front_end.stream.send_eof()
        await app.cleaned_up.wait()
        assert app.error is not None


@pytest.mark.real
async def test_a_unix_socket_that_was_full_is_given_more_room(tmp_path: Path) -> None:
    rooms: list[int] = []

    async def send_much(request: Request) -> None:
        wire = cast("SocketWire", cast("Exchange", request).connection.wire)
        for data in (HEAD, bytes(1 << 20)):
            rooms.append(wire._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
            await request.stdout.send_all(data)
        rooms.append(wire._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))

    path = str(tmp_path / "app.sock")
    async with trio.open_nursery() as nursery:
        await nursery.start(trifcgi.serve_unix, send_much, path)
        async with trifcgi.Client(await trio.open_unix_socket(path)) as client:
            for _ in range(2):
                response = await client.request(dict(raw.USUAL_PARAMS))
                assert response.body == bytes(1 << 20)
        nursery.cancel_scope.cancel()
    before, still, *after = rooms
    assert before == still < after[0] <= SEND_BUFFER
    assert set(after) == {after[0]}


@pytest.mark.real
async def test_requests_that_come_together_count_from_the_same_moment(tmp_path: Path) -> None:
    begun: list[float] = []

    async def note(request: Request) -> None:
        begun.append(cast("Exchange", request).begun_at)
        await hello(request)

    async def ask(streams: list[trio.SocketStream]) -> None:
        for stream in streams:
            # No checkpoint, so that the server finds them all at once.
            assert os.write(stream.socket.fileno(), raw.get()) == len(raw.get())
        for stream in streams:
            assert (await raw.RawFrontEnd(stream).answer()).body == b"hello"

    path = str(tmp_path / "app.sock")
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await nursery.start(trifcgi.serve_unix, note, path)
        streams = [await trio.open_unix_socket(path) for _ in range(3)]
        for stream in streams:
            await stack.enter_async_context(stream)
        await ask(streams)
        now = trio.current_time()
        await ask(streams)
        nursery.cancel_scope.cancel()
    *_, first, second, third = begun
    assert now <= first == second == third
