"""What a front end sends to a server that stops is answered, or it was told in time."""

import array
import select
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.handlers import hello
from tests.server.raw import RawFrontEnd
from tests.server.test_timeouts import MemoryListener
from trifcgi import Handler, Request
from trifcgi.server import DataPlane, open_tcp_listeners, open_unix_listener
from trifcgi.server.handover import Handover
from trifcgi.server.share import SLOT, Share

PATIENCE = 15.0


@asynccontextmanager
async def in_memory(handler: Handler) -> AsyncGenerator[tuple[DataPlane, MemoryListener]]:
    listener = MemoryListener()
    async with DataPlane(handler) as plane, trio.open_nursery() as nursery:
        await nursery.start(plane.serve, [listener])
        yield plane, listener
        nursery.cancel_scope.cancel()


async def test_a_request_on_a_connection_that_was_just_used_is_answered(
    autojump_clock: object,
) -> None:
    async with in_memory(hello) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await front_end.answer()
        plane.drain()
        await trio.sleep(0.4)
        await front_end.send(raw.get())
        assert (await front_end.answer()).body == b"hello"
        assert await front_end.rest() == []


async def test_a_new_connection_has_a_moment_for_its_first_request(autojump_clock: object) -> None:
    async with in_memory(hello) as (plane, listener):
        first, silent = RawFrontEnd(listener.connect()), RawFrontEnd(listener.connect())
        await trio.testing.wait_all_tasks_blocked()
        plane.drain()
        began = trio.current_time()
        await trio.sleep(0.4)
        await first.send(raw.get())
        assert (await first.answer()).body == b"hello"
        assert await silent.rest() == []
        assert 0.5 <= trio.current_time() - began < 3


async def test_a_connection_that_was_idle_for_long_closes_at_once(autojump_clock: object) -> None:
    async with in_memory(hello) as (plane, listener):
        front_end = RawFrontEnd(listener.connect())
        await front_end.send(raw.get())
        await front_end.answer()
        await trio.sleep(10)
        began = trio.current_time()
        plane.drain()
        assert (await front_end.receive()) is None
        assert trio.current_time() == began


@asynccontextmanager
async def on_sockets(
    handler: Handler, family: str, directory: Path
) -> AsyncGenerator[tuple[DataPlane, socket.socket]]:
    """A served listener, and a socket connected to it."""
    listener: trio.abc.Listener[trio.SocketStream]
    if family == "tcp":
        (listener,) = await open_tcp_listeners(0, host="127.0.0.1")
        address = listener.socket.getsockname()
        client = socket.socket(socket.AF_INET)
    else:
        listener = await open_unix_listener(directory / "a.sock")
        address = str(directory / "a.sock")
        client = socket.socket(socket.AF_UNIX)
    with trio.fail_after(PATIENCE), client:
        async with DataPlane(handler) as plane, trio.open_nursery() as nursery:
            await nursery.start(plane.serve, [listener])
            client.connect(address)
            client.setblocking(False)
            yield plane, client
            nursery.cancel_scope.cancel()


async def receive(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    return client.recv(65536)


@pytest.mark.real
class TestOnSockets:
    async def test_on_tcp_the_end_comes_with_the_last_response(self, tmp_path: Path) -> None:
        begun, release = trio.Event(), trio.Event()

        async def app(request: Request) -> None:
            begun.set()
            await release.wait()
            await hello(request)

        async with on_sockets(app, "tcp", tmp_path) as (plane, client):
            client.send(raw.get())
            await begun.wait()
            plane.drain()
            poll = select.poll()
            poll.register(client, select.POLLIN | select.POLLRDHUP)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def watch() -> None:
                    # In a thread, which wakes with the first byte, whatever the server does next.
                    ((_, seen),) = await trio.to_thread.run_sync(poll.poll, PATIENCE * 1000)
                    assert seen & select.POLLRDHUP, "the response was there before the end"

                release.set()
            assert b"hello" in client.recv(65536)
            assert client.recv(65536) == b""

    @pytest.mark.parametrize("family", ["tcp", "unix"])
    async def test_what_is_large_arrives_whole(self, family: str, tmp_path: Path) -> None:
        begun = trio.Event()
        body = bytes(2_000_000)

        async def app(request: Request) -> None:
            begun.set()
            await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n" + body)

        async with on_sockets(app, family, tmp_path) as (plane, client):
            client.send(raw.get())
            await begun.wait()
            plane.drain()
            received = b""
            while data := await receive(client):
                received += data
            assert len(received) > len(body)
            assert received.endswith(raw.record(raw.END, 1, bytes(8)))

    @pytest.mark.parametrize("family", ["tcp", "unix"])
    async def test_input_that_waits_unread_is_seen_before_an_idle_connection_closes(
        self, family: str, tmp_path: Path
    ) -> None:
        async with on_sockets(hello, family, tmp_path) as (plane, client):
            client.send(raw.get())
            await receive(client)
            (connection,) = plane.open_connections()
            client.send(raw.get())
            # As the reaper does where it runs ahead of the poller.
            plane.state.draining = True
            connection.check(plane.now() + 100)
            assert not connection.closing
            assert b"hello" in await receive(client)


@asynccontextmanager
async def two_planes(
    handler: Handler, directory: Path
) -> AsyncGenerator[tuple[DataPlane, DataPlane, socket.socket]]:
    """Two processes' worth of server on one listener, and a socket that the first has accepted."""
    counts = memoryview(array.array(SLOT, [0, 0]))
    shares = [Share(counts, 0), Share(counts, 1)]
    giving, taking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = await open_unix_listener(directory / "a.sock")
    async with AsyncExitStack() as stack:
        for sock in (giving, taking):
            stack.enter_context(sock)
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        planes = []
        for share in shares:

            def wanted(share: Share = share) -> bool:
                return not share.alone()

            # A descriptor of its own, as each process has.
            handover = Handover(giving, stack.enter_context(taking.dup()), wanted)
            plane = DataPlane(handler, share=share, handover=handover)
            planes.append(await stack.enter_async_context(plane))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(planes[0].serve, [listener])
                client.connect(str(directory / "a.sock"))
                client.setblocking(False)
                client.send(raw.get())
                await receive(client)
                await nursery.start(planes[1].serve, [])
                yield planes[0], planes[1], client
                nursery.cancel_scope.cancel()


@pytest.mark.real
class TestHandover:
    async def test_an_idle_connection_goes_on_in_the_other_process(self, tmp_path: Path) -> None:
        async with two_planes(hello, tmp_path) as (first, second, client):
            first.drain()
            await first.wait_drained()
            client.send(raw.get())
            assert b"hello" in await receive(client)
            assert (first.begun, second.begun) == (1, 1)

    async def test_it_takes_along_what_was_sent_but_not_read(self, tmp_path: Path) -> None:
        async with two_planes(hello, tmp_path) as (first, second, client):
            client.send(raw.get())
            first.drain()
            assert b"hello" in await receive(client)
            await first.wait_drained()
            client.send(raw.get())
            assert b"hello" in await receive(client)
            assert first.begun + second.begun == 3

    async def test_a_request_that_runs_is_answered_where_it_began(self, tmp_path: Path) -> None:
        begun, release = trio.Event(), trio.Event()

        async def app(request: Request) -> None:
            if "LATER" in request.params:
                begun.set()
                await release.wait()
            await hello(request)

        async with two_planes(app, tmp_path) as (first, second, client):
            client.send(raw.get(LATER="1"))
            await begun.wait()
            first.drain()
            release.set()
            assert b"hello" in await receive(client)
            client.send(raw.get())
            assert b"hello" in await receive(client)
            assert (first.begun, second.begun) == (2, 1)

    async def test_only_the_one_that_stops_tells_its_requests(self, tmp_path: Path) -> None:
        stopping = []

        async def app(request: Request) -> None:
            if "LATER" in request.params:
                await request.wait_stopping()
            stopping.append(request.stopping)
            await hello(request)

        async with two_planes(app, tmp_path) as (first, second, client):
            client.send(raw.get(LATER="1"))
            await until(lambda: first.running == 1)
            first.drain()
            assert b"hello" in await receive(client)
            await first.wait_drained()
            client.send(raw.get())
            assert b"hello" in await receive(client)
            assert (first.begun, second.begun) == (2, 1)
        assert stopping == [False, True, False]

    async def test_half_a_request_is_no_place_to_part(self, tmp_path: Path) -> None:
        async with two_planes(hello, tmp_path) as (first, second, client):
            request = raw.get()
            client.send(request[:50])
            await until(lambda: first.open_connections()[0].protocol.inside_record)
            first.drain()
            client.send(request[50:])
            assert b"hello" in await receive(client)
            await first.wait_drained()
            client.send(raw.get())
            assert b"hello" in await receive(client)
            assert (first.begun, second.begun) == (2, 1)

    async def test_one_that_was_to_close_closes_whenever_its_request_came(
        self, tmp_path: Path
    ) -> None:
        async with two_planes(hello, tmp_path) as (first, _, client):
            request = raw.get(keep=False)
            client.send(request[:50])
            await until(lambda: first.open_connections()[0].protocol.inside_record)
            first.drain()
            client.send(request[50:])
            assert b"hello" in await receive(client)
            assert await receive(client) == b""

    async def test_one_that_multiplexes_is_known_for_it(self, tmp_path: Path) -> None:
        async with two_planes(hello, tmp_path) as (first, second, client):
            client.send(raw.get(3))
            await receive(client)
            first.drain()
            await first.wait_drained()
            await until(lambda: second.connections == 1)
            (connection,) = second.open_connections()
            assert connection.window.multiplexed

    async def test_where_nobody_takes_it_it_closes(self, tmp_path: Path) -> None:
        async with two_planes(hello, tmp_path) as (first, second, client):
            second.drain()
            first.drain()
            assert await receive(client) == b""


async def until(condition: Callable[[], bool]) -> None:
    """Return once something holds that nothing tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)
