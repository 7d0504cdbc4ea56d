"""Exchanges as streams: reading, writing, leaving early, back-pressure."""

import pytest
import trio
import trio.testing

from tests.client.application import Application, answer, connected, end, stderr, stdout
from tests.server import raw
from trifcgi import (
    Client,
    ConnectionLost,
    LocalProtocolError,
    ProtocolError,
    ProtocolStatus,
    RequestRefused,
    ResponseError,
    Role,
)
from trifcgi.client.exchange import STDERR_KEPT
from trifcgi.client.head import MAX_HEAD


async def test_an_exchange_streams_both_ways() -> None:
    async with connected() as (client, application):
        async with client.open({"A": "b"}) as exchange:
            for _ in range(3):
                await application.receive()
            await exchange.stdin.send_all(b"ping")
            assert await application.receive() == raw.Record(raw.STDIN, 1, b"ping")
            await application.send(stdout(1, b"X: y\r\n\r\npo"))
            head = await exchange.response()
            assert (head.status, head.headers) == (200, [("X", "y")])
            assert await exchange.stdout.receive_some() == b"po"
            await exchange.stdin.aclose()
            assert await application.receive() == raw.Record(raw.STDIN, 1, b"")
            await application.send(stdout(1, b"ng"), end(1, 5))
            assert await exchange.stdout.receive_some(1) == b"n"
            assert await exchange.stdout.receive_some() == b"g"
            assert await exchange.stdout.receive_some() == b""
            assert await exchange.stdout.receive_some() == b""
            ending = await exchange.wait_ended()
            assert ending.app_status == 5
            assert ending.protocol_status is ProtocolStatus.REQUEST_COMPLETE
        await application.send(raw.record(raw.STDOUT, 9, b"of nobody"))


async def test_without_response_the_output_is_raw() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(answer(1, b"Status: 200\r\n\r\nbody"))
        assert await exchange.stdout.receive_some() == b"Status: 200\r\n\r\nbody"


async def test_a_head_may_come_in_pieces_and_be_asked_for_twice() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        for byte in b"Status: 302 Go\nLocation: /\n\nrest":
            await application.send(stdout(1, bytes([byte])))
        head = await exchange.response()
        assert head is await exchange.response()
        assert (head.status, head.reason) == (302, "Go")
        await application.send(end(1))
        assert b"".join([chunk async for chunk in exchange.stdout]) == b"rest"


async def test_a_cancel_while_the_head_comes_loses_nothing(autojump_clock: object) -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(stdout(1, b"Status: 2"))
        with trio.move_on_after(1) as scope:
            await exchange.response()
        assert scope.cancelled_caught
        await application.send(stdout(1, b"02\r\n\r\n"), end(1))
        assert (await exchange.response()).status == 202


@pytest.mark.parametrize(
    "output",
    [b"", b"Status: 200", b"no header\r\n\r\n", b"Status: 99\r\n\r\n", b"A: b\rC\r\n\r\n"],
)
async def test_output_without_a_head_is_a_response_error(output: bytes) -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(stdout(1, output) if output else b"", end(1))
        with pytest.raises(ResponseError):
            await exchange.response()


async def test_a_head_without_end_is_a_response_error_and_stays_readable() -> None:
    line = b"X-Long: " + b"x" * 60_000 + b"\r\n"
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(*([stdout(1, line)] * 3), end(1))
        with pytest.raises(ResponseError, match=str(MAX_HEAD)):
            await exchange.response()
        assert b"".join([chunk async for chunk in exchange.stdout]) == line * 3


async def test_a_refusal_is_told_by_its_protocol_status() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(end(1, 0, 2))
        with pytest.raises(RequestRefused, match="OVERLOADED") as caught:
            await exchange.response()
        assert caught.value.protocol_status == ProtocolStatus.OVERLOADED
        assert (await exchange.wait_ended()).protocol_status == ProtocolStatus.OVERLOADED


async def test_a_filter_has_data_and_an_authorizer_no_input_at_all() -> None:
    async with connected() as (client, application):
        async with client.open({}, role=Role.FILTER) as exchange:
            await exchange.stdin.aclose()
            await exchange.data.send_all(b"data")
            await exchange.data.aclose()
            await application.send(answer(1))
            await exchange.wait_ended()
        async with client.open({}, role=Role.AUTHORIZER) as exchange:
            with pytest.raises(trio.ClosedResourceError):
                await exchange.stdin.send_all(b"x")
            with pytest.raises(trio.ClosedResourceError):
                await exchange.data.send_all(b"x")
            await exchange.stdin.aclose()
            await application.send(answer(1))
            await exchange.wait_ended()
    assert [record.kind for record in await application.rest()] == [
        raw.BEGIN, raw.PARAMS, raw.STDIN, raw.DATA, raw.DATA, raw.BEGIN, raw.PARAMS,
    ]  # fmt: skip


async def test_leaving_early_aborts_and_waits_for_the_end() -> None:
    async with connected() as (client, application), trio.open_nursery() as nursery:
        left = trio.Event()

        async def leave_early() -> None:
            async with client.open({}):
                pass
            left.set()

        nursery.start_soon(leave_early)
        for kind in (raw.BEGIN, raw.PARAMS, raw.ABORT):
            received = await application.receive()
            assert received is not None
            assert received.kind == kind
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set()
        await application.send(stdout(1, b"too late"), end(1, 1))
        await left.wait()


async def test_leaving_early_is_bounded_and_keeps_the_id_taken(autojump_clock: object) -> None:
    async with connected(abort_timeout=3) as (client, application):
        start = trio.current_time()
        async with client.open({}):
            pass
        assert trio.current_time() == start + 3
        async with client.open({}) as exchange:
            assert exchange.request_id == 2
            await application.send(end(1), answer(2))
            await exchange.wait_ended()
        async with client.open({}) as exchange:
            assert exchange.request_id == 1
            await application.send(answer(1))
            await exchange.wait_ended()


async def test_an_exception_leaves_unwrapped_after_the_abort(autojump_clock: object) -> None:
    with pytest.raises(KeyError):
        async with connected() as (client, _), client.open({}):
            raise KeyError


async def test_nothing_is_aborted_once_the_request_has_ended() -> None:
    async with connected() as (client, application):
        async with client.open({}) as exchange:
            await application.send(answer(1))
            await exchange.wait_ended()
        async with client.open({}) as exchange:
            await application.send(answer(1))
            await exchange.wait_ended()
    assert raw.ABORT not in [record.kind for record in await application.rest()]


async def test_stdin_of_an_ended_request_is_broken() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(answer(1))
        await exchange.wait_ended()
        with pytest.raises(trio.BrokenResourceError):
            await exchange.stdin.send_all(b"late")
        await exchange.stdin.aclose()


async def test_streams_are_closed_once_the_exchange_was_left() -> None:
    async with connected() as (client, application):
        async with client.open({}) as exchange:
            await application.send(answer(1))
            await exchange.wait_ended()
        with pytest.raises(trio.ClosedResourceError):
            await exchange.stdin.send_all(b"late")
        with pytest.raises(trio.ClosedResourceError):
            await exchange.stdout.receive_some()


async def test_one_task_at_a_time_may_use_a_stream(autojump_clock: object) -> None:
    async with (
        connected() as (client, _),
        client.open({}) as exchange,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(exchange.stdout.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await exchange.stdout.receive_some()
        with pytest.raises(trio.BusyResourceError):
            await exchange.response()
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_holds_the_connection_and_memory_stays_bounded() -> None:
    window = 100_000
    async with (
        connected(window=window) as (client, application),
        client.open({}) as slow,
        client.open({}) as other,
    ):
        for _ in range(40):
            await application.send(stdout(1, bytes(10_000)))
        await application.send(answer(2))
        await trio.testing.wait_all_tasks_blocked()
        assert window < slow.stdout.size <= window + 65536
        held_up = not other.over
        assert held_up
        received = 0
        while not other.over:
            received += len(await slow.stdout.receive_some())
        await application.send(end(1))
        async for chunk in slow.stdout:
            received += len(chunk)
        assert received == 400_000


async def test_leaving_a_slow_exchange_frees_its_neighbours() -> None:
    async with connected(window=1000) as (client, application), client.open({}) as other:
        async with client.open({}):
            for _ in range(40):
                await application.send(stdout(2, bytes(10_000)))
            await application.send(end(2), answer(1))
            await trio.testing.wait_all_tasks_blocked()
            assert not other.over
        await other.wait_ended()


async def test_a_head_larger_than_the_window_still_comes_through() -> None:
    async with connected(window=10) as (client, application), client.open({}) as exchange:
        for _ in range(30):
            await application.send(stdout(1, b"X-Some: " + b"x" * 500 + b"\r\n"))
        await application.send(stdout(1, b"\r\nbody"), end(1))
        assert len((await exchange.response()).headers) == 30
        assert b"".join([chunk async for chunk in exchange.stdout]) == b"body"


async def test_closing_stdout_drops_what_comes(autojump_clock: object) -> None:
    async with connected(window=1000) as (client, application), client.open({}) as exchange:
        await exchange.stdout.aclose()
        await application.send(*([stdout(1, bytes(10_000))] * 5), end(1))
        await exchange.wait_ended()
        assert exchange.stdout.dropped == 50_000


async def test_unread_stderr_is_kept_up_to_its_limit() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        for _ in range(STDERR_KEPT // 50_000 + 3):
            await application.send(stderr(1, bytes(50_000)))
            await trio.testing.wait_all_tasks_blocked()
        await application.send(answer(1))
        await exchange.wait_ended()
        assert exchange.stderr.size == STDERR_KEPT
        kept = b"".join([chunk async for chunk in exchange.stderr])
        assert len(kept) + exchange.stderr.dropped == (STDERR_KEPT // 50_000 + 3) * 50_000


async def test_an_upload_to_a_server_that_does_not_read_stays_bounded(
    autojump_clock: object,
) -> None:
    near, _far = trio.testing.lockstep_stream_pair()
    async with Client(near, abort_timeout=0) as client, client.open({}) as exchange:
        with trio.move_on_after(10) as scope:
            await exchange.stdin.send_all(bytes(100_000_000))
        assert scope.cancelled_caught
        assert client._connection._protocol.out_size < 200_000


async def test_uploads_take_turns() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    application = Application(far)
    async with (
        Client(near, abort_timeout=0) as client,
        client.open({}) as one,
        client.open({}) as two,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.stdin.send_all, bytes(4_000_000))
            nursery.start_soon(two.stdin.send_all, bytes(100_000))
            received = {1: 0, 2: 0}
            while received[2] < 100_000:
                record = await application.receive()
                assert record is not None
                if record.kind == raw.STDIN:
                    received[record.request_id] += len(record.content)
            assert received[1] < 500_000
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(far)


async def test_a_blocked_upload_ends_when_its_request_does() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    application = Application(far)
    async with (
        Client(near, abort_timeout=0) as client,
        client.open({}) as exchange,
        trio.open_nursery() as nursery,
    ):

        async def upload() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await exchange.stdin.send_all(bytes(10_000_000))

        nursery.start_soon(upload)
        await application.receive()
        await application.send(answer(1))


async def test_a_caller_may_reuse_its_buffer_after_send_all() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    application = Application(far)
    async with Client(near, abort_timeout=0) as client, client.open({}) as exchange:
        buffer = bytearray(b"a" * 30_000)
        await exchange.stdin.send_all(buffer)
        buffer[:] = b"b" * 30_000
        while (record := await application.receive()) is None or record.kind != raw.STDIN:
            pass
        assert record.content == b"a" * 30_000
        await trio.aclose_forcefully(far)


async def test_all_request_ids_in_use_is_our_own_mistake(autojump_clock: object) -> None:
    async with connected(abort_timeout=0) as (client, _):
        client._connection._exchanges.update(dict.fromkeys(range(1, 65536)))  # type: ignore[arg-type]
        try:
            with pytest.raises(LocalProtocolError, match="65,535"):
                await client.request({})
        finally:
            client._connection._exchanges.clear()


async def test_an_exchange_outlives_no_connection() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(stdout(1, b"\r\nlast"))
        await application.close()
        await trio.testing.wait_all_tasks_blocked()
        await exchange.response()
        assert await exchange.stdout.receive_some() == b"last"
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await exchange.stdout.receive_some()
        with pytest.raises(ConnectionLost):
            await exchange.wait_ended()
        with pytest.raises(ConnectionLost):
            await exchange.stdin.send_all(b"x")
        await exchange.stdin.aclose()


async def test_bytes_that_are_not_fastcgi_fail_an_exchange() -> None:
    async with connected() as (client, application), client.open({}) as exchange:
        await application.send(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(ProtocolError):
            await exchange.response()
        with trio.fail_after(5):
            while await application.stream.receive_some():
                pass
