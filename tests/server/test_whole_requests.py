"""A request that comes in one read is served as one that comes in two."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import Recorder, hello
from trifcgi import Limits, Request, Role

METHOD = ("REQUEST_METHOD", "GET")


class AuthorizerOnly:
    roles = frozenset({Role.AUTHORIZER})

    async def __call__(self, request: Request) -> None:
        await hello(request)


Pieces = Callable[[bytes], list[bytes]]


@pytest.fixture(params=["whole", "in two"])
def pieces(request: pytest.FixtureRequest) -> Pieces:
    if request.param == "whole":
        return lambda data: [data]
    return lambda data: [data[:20], data[20:]]


async def ask(front_end: raw.RawFrontEnd, pieces: list[bytes]) -> raw.Answer:
    for piece in pieces:
        await front_end.send(piece)
        await trio.testing.wait_all_tasks_blocked(0.001)
    return await front_end.answer()


async def test_it_is_answered_again_and_again(serve: Serve, pieces: Pieces) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        for _ in range(3):
            answer = await ask(front_end, pieces(raw.get()))
            assert (answer.status, answer.body, answer.protocol_status) == (200, b"hello", 0)


async def test_its_stdin_is_empty_and_its_own(serve: Serve, pieces: Pieces) -> None:
    read: list[bytes | bytearray] = []

    async def app(request: Request) -> None:
        assert request.stdin.ended
        read.append(await request.stdin.receive_some())
        read.append(await request.data.receive_some())
        await request.stdin.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await request.stdin.receive_some()
        await hello(request)

    async with serve(app) as server, server.raw() as front_end:
        for _ in range(2):
            assert (await ask(front_end, pieces(raw.get()))).body == b"hello"
    assert read == [b""] * 4


@pytest.mark.parametrize("early", [False, True])
async def test_its_stdin_is_closed_when_it_has_ended(
    serve: Serve, pieces: Pieces, early: bool
) -> None:
    old: list[Request] = []

    async def app(request: Request) -> None:
        old.append(request)
        await hello(request)
        if early:
            request.stdout.end()
            with pytest.raises(trio.ClosedResourceError):
                await request.data.receive_some()

    async with serve(app) as server, server.raw() as front_end:
        await ask(front_end, pieces(raw.get()))
        with pytest.raises(trio.ClosedResourceError):
            await old[0].stdin.receive_some()


@pytest.mark.parametrize(
    ("params", "limits", "status"),
    [
        ([("REQUEST_URI", "/")], Limits(), 400),
        ([METHOD, ("CONTENT_LENGTH", "9")], Limits(max_body=8), 413),
        ([METHOD, ("A", "a" * 5000)], Limits(max_params=4096), 431),
        ([("A", "")] * 5000, Limits(), 431),
    ],
)
async def test_what_is_refused_is_refused(
    serve: Serve, pieces: Pieces, params: list[tuple[str, str]], limits: Limits, status: int
) -> None:
    app = Recorder(hello)
    refused = raw.begin() + raw.params(1, params) + raw.stdin()
    async with serve(app, limits=limits) as server, server.raw() as front_end:
        assert (await ask(front_end, pieces(refused))).status == status
        assert app.calls == 0
        assert (await ask(front_end, pieces(raw.get()))).status == 200


async def test_a_refusal_without_keep_connection_closes_it(serve: Serve, pieces: Pieces) -> None:
    refused = raw.begin(keep=False) + raw.params(1, [("REQUEST_URI", "/")]) + raw.stdin()
    async with serve(hello) as server, server.raw() as front_end:
        assert (await ask(front_end, pieces(refused))).status == 400
        assert await front_end.rest() == []


@pytest.mark.parametrize("params", [b"\x80", raw.pairs(METHOD)])
async def test_a_refused_role_is_refused_whatever_the_params(
    serve: Serve, pieces: Pieces, params: bytes
) -> None:
    request = raw.begin() + raw.record(raw.PARAMS, 1, params) + raw.params(1, [])[8:] + raw.stdin()
    async with serve(AuthorizerOnly()) as server, server.raw() as front_end:
        for _ in range(2):
            answer = await ask(front_end, pieces(request))
            assert (answer.stdout, answer.protocol_status) == (b"", raw.UNKNOWN_ROLE)


async def test_it_is_aborted_and_stopped_as_any_other(serve: Serve, pieces: Pieces) -> None:
    aborted = trio.Event()

    async def app(request: Request) -> None:
        await request.wait_aborted()
        aborted.set()

    async with serve(app) as server, server.raw() as front_end:
        for piece in pieces(raw.get()):
            await front_end.send(piece)
            await trio.testing.wait_all_tasks_blocked(0.001)
        await front_end.send(raw.abort())
        await aborted.wait()
        assert (await front_end.answer()).stdout == b""
