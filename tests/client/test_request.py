"""Whole requests: what goes out, what comes back."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.client.application import Application, answer, connected, end, stderr, stdout
from tests.server import raw
from trifcgi import Client, ConnectionLost, ProtocolError, ProtocolStatus, Role
from trifcgi.client import Response

HEAD = b"Status: 201 Created\r\nContent-Type: text/plain\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n"


async def ask(
    client: Client, results: list[Response], body: bytes = b"", role: Role = Role.RESPONDER
) -> None:
    results.append(await client.request({"REQUEST_METHOD": "GET"}, body, role=role))


async def test_a_request_without_a_body_goes_out_as_its_records(nursery: trio.Nursery) -> None:
    async with connected() as (client, application):
        nursery.start_soon(ask, client, [])
        assert await application.receive_request() == [
            raw.Record(raw.BEGIN, 1, b"\0\1\1\0\0\0\0\0"),
            raw.Record(raw.PARAMS, 1, raw.pairs(("REQUEST_METHOD", "GET"))),
            raw.Record(raw.PARAMS, 1, b""),
            raw.Record(raw.STDIN, 1, b""),
        ]
        await application.send(answer())


async def test_a_whole_response_is_taken_apart(nursery: trio.Nursery) -> None:
    results: list[Response] = []
    async with connected() as (client, application):
        nursery.start_soon(ask, client, results)
        await application.receive_request()
        await application.send(
            stdout(1, HEAD + b"one "), stderr(1, b"warning\n"), stdout(1, b"two"), end(1, 3)
        )
        await trio.testing.wait_all_tasks_blocked()
    [response] = results
    assert response.status == 201
    assert response.reason == "Created"
    assert response.headers == [
        ("Content-Type", "text/plain"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]
    assert response.header("content-type") == "text/plain"
    assert response.header("x-none", "absent") == "absent"
    assert response.body == b"one two"
    assert response.stderr == b"warning\n"
    assert response.app_status == 3
    assert response.protocol_status is ProtocolStatus.REQUEST_COMPLETE


async def test_a_body_is_sent_whole(nursery: trio.Nursery) -> None:
    body = bytes(range(256)) * 1000
    async with connected() as (client, application):
        nursery.start_soon(ask, client, [], body)
        records = await application.receive_request()
        await application.send(answer())
    assert b"".join(r.content for r in records if r.kind == raw.STDIN) == body


async def test_a_filter_gets_its_data_after_its_body(nursery: trio.Nursery) -> None:
    async def ask_filter(client: Client) -> None:
        await client.request({}, b"body", role=Role.FILTER, data=b"data")

    async with connected() as (client, application):
        nursery.start_soon(ask_filter, client)
        await application.receive_request()
        assert await application.receive() == raw.Record(raw.DATA, 1, b"data")
        assert await application.receive() == raw.Record(raw.DATA, 1, b"")
        await application.send(answer())


@pytest.mark.parametrize("body", [b"", b"ignored"])
async def test_an_authorizer_gets_no_stdin(nursery: trio.Nursery, body: bytes) -> None:
    async with connected() as (client, application):
        nursery.start_soon(ask, client, [], body, Role.AUTHORIZER)
        for _ in range(3):
            await application.receive()
        with trio.move_on_after(0.01) as scope:
            await application.receive()
        assert scope.cancelled_caught
        await application.send(answer())


@pytest.mark.parametrize("body", [b"", bytes(10_000_000)])
async def test_an_early_answer_needs_no_end_of_the_body(
    nursery: trio.Nursery, body: bytes
) -> None:
    results: list[Response] = []
    async with connected() as (client, application):
        nursery.start_soon(ask, client, results, body)
        await application.receive()
        await application.send(answer(1, b"Status: 413 Too Large\r\n\r\n"))
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].status == 413


async def test_requests_on_one_connection_are_multiplexed(nursery: trio.Nursery) -> None:
    async with connected() as (client, application):
        bodies: dict[str, bytes] = {}

        async def fetch(path: str) -> None:
            bodies[path] = (await client.request({"SCRIPT_NAME": path})).body

        for number in range(1, 4):
            nursery.start_soon(fetch, f"/{number}")
            await application.receive_request()
        await application.send(stdout(2, b"\r\nse"), stdout(3, b"\r\nthird"), end(3))
        await application.send(stdout(1, b"\r\nfirst"), stdout(2, b"cond"), end(2), end(1))
        await trio.testing.wait_all_tasks_blocked()
        assert bodies == {"/1": b"first", "/2": b"second", "/3": b"third"}


async def test_the_lowest_free_request_id_is_taken(nursery: trio.Nursery) -> None:
    async with connected() as (client, application):
        for expected in (1, 2, 3):
            nursery.start_soon(ask, client, [])
            assert (await application.receive_request())[0].request_id == expected
        await application.send(answer(2))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, client, [])
        assert (await application.receive_request())[0].request_id == 2
        await application.send(answer(1), answer(2), answer(3))


async def test_params_may_be_pairs_of_bytes_that_repeat(nursery: trio.Nursery) -> None:
    async with connected() as (client, application):

        async def ask_pairs() -> None:
            await client.request([("A", b"\xff"), (b"A", "\udcff"), ("é", "")])

        nursery.start_soon(ask_pairs)
        records = await application.receive_request()
        assert records[1].content == b"\1\1A\xff\1\1A\xff\2\0\xc3\xa9"
        await application.send(answer())


async def test_params_of_another_type_are_refused_before_anything_is_sent() -> None:
    async with connected() as (client, application):
        with pytest.raises(TypeError, match="str or bytes"):
            await client.request({"A": 1})  # type: ignore[arg-type]
        with trio.move_on_after(0.01) as scope:
            await application.receive()
        assert scope.cancelled_caught


async def test_without_keep_connection_the_flag_is_clear(nursery: trio.Nursery) -> None:
    async def ask_once(client: Client) -> None:
        await client.request({}, keep_connection=False)

    async with connected() as (client, application):
        nursery.start_soon(ask_once, client)
        assert (await application.receive_request())[0].content == b"\0\1\0\0\0\0\0\0"
        await application.send(answer())
        await application.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not client.usable
        with pytest.raises(ConnectionLost):
            await client.request({})


@pytest.mark.parametrize("status", [1, 2, 3, 9])
async def test_a_protocol_status_is_shown_not_raised(nursery: trio.Nursery, status: int) -> None:
    results: list[Response] = []
    async with connected() as (client, application):
        nursery.start_soon(ask, client, results)
        await application.receive_request()
        await application.send(end(1, 0, status))
        await trio.testing.wait_all_tasks_blocked()
    assert results[0].protocol_status == status
    assert (results[0].status, results[0].headers, results[0].body) == (0, [], b"")


async def test_output_without_a_head_is_all_body(nursery: trio.Nursery) -> None:
    results: list[Response] = []
    async with connected() as (client, application):
        nursery.start_soon(ask, client, results)
        await application.receive_request()
        await application.send(answer(1, b"Traceback (most recent call last):\n\nbody"))
        await trio.testing.wait_all_tasks_blocked()
    [response] = results
    assert (response.status, response.headers) == (0, [])
    assert response.body == b"Traceback (most recent call last):\n\nbody"


async def lose(application: Application) -> None:
    await application.close()


async def send_garbage(application: Application) -> None:
    await application.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("cause", "error"), [(lose, ConnectionLost), (send_garbage, ProtocolError)]
)
@pytest.mark.parametrize("body", [b"", bytes(1_000_000)])
async def test_every_open_request_fails_when_the_connection_does(
    cause: Callable[[Application], Awaitable[None]], error: type[Exception], body: bytes
) -> None:
    failures: list[type[Exception]] = []

    async def ask_failing(client: Client) -> None:
        with pytest.raises((ConnectionLost, ProtocolError)) as caught:
            await client.request({}, body)
        failures.append(caught.type)

    async with connected() as (client, application), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask_failing, client)
        await application.receive()
        await application.send(stdout(1, b"\r\nhalf"))
        await cause(application)
    assert failures == [error] * 3


async def test_a_lost_connection_fails_even_a_response_that_looks_whole() -> None:
    async with connected() as (client, application), trio.open_nursery() as nursery:

        async def ask_failing() -> None:
            with pytest.raises(ConnectionLost):
                await client.request({})

        nursery.start_soon(ask_failing)
        await application.receive_request()
        await application.send(stdout(1, b"Content-Length: 2\r\n\r\nok"), stdout(1))
        await application.close()


async def test_a_cancelled_request_is_aborted_and_its_id_free_again(
    nursery: trio.Nursery,
) -> None:
    async with connected() as (client, application):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, client, [])
                await application.receive_request()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    assert await application.receive() == raw.Record(raw.ABORT, 1, b"")
                    await application.send(stdout(1, b"late"), end(1, 1))
        nursery.start_soon(ask, client, [])
        assert (await application.receive_request())[0].request_id == 1
        await application.send(answer())


async def test_a_cancelled_upload_leaves_whole_records_on_the_wire(
    nursery: trio.Nursery,
) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    application = Application(far)
    async with Client(near) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, client, [], bytes(1_000_000))
                await far.receive_some(1000)
                scope.cancel()
                await trio.lowlevel.cancel_shielded_checkpoint()
                with trio.CancelScope(shield=True):
                    # What is left of the records that were cut at 1,000 bytes.
                    rest = bytearray()
                    while not rest.endswith(raw.abort()):
                        rest += await far.receive_some()
                    await application.send(end(1))
        nursery.start_soon(ask, client, [])
        records = await application.receive_request()
        assert [record.kind for record in records] == [
            raw.BEGIN,
            raw.PARAMS,
            raw.PARAMS,
            raw.STDIN,
        ]
        await application.send(answer())
