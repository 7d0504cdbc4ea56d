"""The client's own life: entering, leaving, values, exceptions."""

from typing import Any

import pytest
import trio
import trio.testing

from tests.client.application import Application, answer, connected
from tests.server import raw
from trifcgi import Client, ConnectionLost


async def test_leaving_the_block_closes_the_stream() -> None:
    async with connected() as (client, application):
        usable = [client.usable]
    usable.append(client.usable)
    assert usable == [True, False]
    assert await application.receive() is None


async def test_a_client_must_be_entered_and_only_once() -> None:
    near, _far = trio.testing.memory_stream_pair()
    client = Client(near)
    assert not client.usable
    with pytest.raises(RuntimeError, match="enter the Client"):
        await client.request({})
    async with client:
        with pytest.raises(RuntimeError, match="only once"):
            await client.__aenter__()
    with pytest.raises(trio.ClosedResourceError):
        await client.request({})
    with pytest.raises(trio.ClosedResourceError):
        await client.get_values(["FCGI_MAX_CONNS"])


@pytest.mark.parametrize("options", [{"window": 0}, {"abort_timeout": -1}])
def test_arguments_are_checked(options: dict[str, Any]) -> None:
    near, _far = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match=next(iter(options))):
        Client(near, **options)


async def test_the_blocks_exception_comes_out_unwrapped() -> None:
    with pytest.raises(KeyError):
        async with connected():
            raise KeyError


async def test_a_cancel_leaves_nothing(autojump_clock: object) -> None:
    me = trio.lowlevel.current_task()
    before = list(me.child_nurseries)
    near, far = trio.testing.memory_stream_pair()
    with trio.move_on_after(5) as scope:
        async with Client(near, abort_timeout=1) as client, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.request, {})
    assert scope.cancelled_caught
    assert trio.current_time() <= 7
    records = await Application(far).receive_request()
    assert records[0].kind == raw.BEGIN
    assert list(me.child_nurseries) == before


async def test_requests_left_behind_by_the_block_end_with_it() -> None:
    async with trio.open_nursery() as nursery, connected() as (client, application):

        async def ask() -> None:
            with pytest.raises(ConnectionLost, match="client was closed"):
                await client.request({})

        nursery.start_soon(ask)
        await application.receive_request()


async def test_an_idle_connection_that_the_server_closes_is_noticed() -> None:
    async with connected() as (client, application):
        await application.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not client.usable
        with pytest.raises(ConnectionLost, match="closed the connection"):
            await client.request({})


async def test_a_server_that_takes_no_more_input_is_noticed(nursery: trio.Nursery) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with Client(near, abort_timeout=0) as client:
        far.receive_stream.close()
        with trio.move_on_after(0.01):
            await client.request({})
        assert not client.usable
        with pytest.raises(ConnectionLost):
            await client.request({})


async def test_an_early_answer_survives_a_server_that_stops_reading() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with Client(near) as client, client.open({}) as exchange:
        await Application(far).receive()
        far.receive_stream.close()
        with pytest.raises(trio.BrokenResourceError):
            await exchange.stdin.send_all(bytes(1_000_000))
        await far.send_stream.send_all(answer(1, b"\r\nearly"))
        await exchange.response()
        assert await exchange.stdout.receive_some() == b"early"


class _Stuck(trio.abc.Stream):
    """Never closes by itself, as a TLS stream whose peer does not answer."""

    async def send_all(self, data: object) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.sleep_forever()


async def test_closing_is_bounded(autojump_clock: object) -> None:
    with trio.fail_after(10):
        async with Client(_Stuck(), abort_timeout=1) as client:
            with trio.move_on_after(1):
                await client.request({})


async def test_values_are_asked_for_and_told() -> None:
    async with connected() as (client, application):
        values: list[dict[str, str]] = []

        async def ask(*names: str) -> None:
            values.append(await client.get_values(names))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")
            assert await application.receive() == raw.Record(
                raw.GET_VALUES, 0, raw.pairs(("FCGI_MAX_REQS", ""), ("FCGI_MPXS_CONNS", ""))
            )
            content = raw.pairs(("FCGI_MAX_REQS", "10"))
            await application.send(raw.record(raw.GET_VALUES_RESULT, 0, content))
    assert values == [{"FCGI_MAX_REQS": "10"}]


async def test_a_cancelled_question_does_not_take_the_next_ones_answer(
    autojump_clock: object,
) -> None:
    async with connected() as (client, application):
        with trio.move_on_after(1):
            await client.get_values(["FCGI_MAX_CONNS"])
        first, second = ("FCGI_MAX_CONNS", "1"), ("FCGI_MAX_REQS", "2")
        await application.send(raw.record(raw.GET_VALUES_RESULT, 0, raw.pairs(first)))
        await application.send(raw.record(raw.GET_VALUES_RESULT, 0, raw.pairs(second)))
        assert await client.get_values(["FCGI_MAX_REQS"]) == {"FCGI_MAX_REQS": "2"}


async def test_a_server_without_values_has_none() -> None:
    async with connected() as (client, application):

        async def answer_unknown() -> None:
            await application.receive()
            unknown = bytes([raw.GET_VALUES]) + bytes(7)
            await application.send(raw.record(raw.UNKNOWN_TYPE, 0, unknown))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_unknown)
            assert await client.get_values(["FCGI_MAX_CONNS"]) == {}


async def test_a_question_fails_with_the_connection() -> None:
    async with connected() as (client, application), trio.open_nursery() as nursery:

        async def close() -> None:
            await application.receive()
            await application.close()

        nursery.start_soon(close)
        with pytest.raises(ConnectionLost):
            await client.get_values(["FCGI_MAX_CONNS"])
