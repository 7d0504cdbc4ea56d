"""The same server behind every kind of stream.

``serve`` runs a test over memory streams, lockstep streams, TCP and Unix sockets: the first two
pass through the server's stream wire, the others through its poller. Tests with mock time take
``memory_serve``, since mock time and real sockets do not go together.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing

import trifcgi
from tests.server.raw import RawFrontEnd
from trifcgi.observe.instrument import Instrument
from trifcgi.server import UnixListener
from trifcgi.testing import MemoryServer

Connect = Callable[[], Awaitable[trio.abc.Stream]]


Pair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]
MEMORY_PAIRS: dict[str, Pair] = {
    "memory": trio.testing.memory_stream_pair,
    "lockstep": trio.testing.lockstep_stream_pair,
}


class Served:
    """A running server, and ways to reach it."""

    def __init__(self, connect: Connect, transport: str) -> None:
        self.connect = connect
        self.transport = transport

    @asynccontextmanager
    async def raw(self) -> AsyncGenerator[RawFrontEnd]:
        """A connection in plain bytes."""
        stream = await self.connect()
        try:
            yield RawFrontEnd(stream)
        finally:
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[trifcgi.Client]:
        """A connection with the project's own client."""
        async with trifcgi.Client(await self.connect()) as client:
            yield client


class Serve(Protocol):
    def __call__(
        self,
        handler: trifcgi.Handler,
        *,
        limits: trifcgi.Limits | None = None,
        timeouts: trifcgi.Timeouts | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> AbstractAsyncContextManager[Served]: ...


@pytest.fixture(
    params=[
        "memory",
        "lockstep",
        pytest.param("tcp", marks=pytest.mark.real),
        pytest.param("unix", marks=pytest.mark.real),
    ]
)
def transport(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


def _patience() -> float:
    """Seconds that a test may take: what hangs shall fail here, with its tasks' tracebacks."""
    return 10_000 if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock) else 15


def _serve_over(transport: str, directory: Path) -> Serve:
    @asynccontextmanager
    async def serve(
        handler: trifcgi.Handler,
        *,
        limits: trifcgi.Limits | None = None,
        timeouts: trifcgi.Timeouts | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> AsyncGenerator[Served]:
        if transport in MEMORY_PAIRS:
            server = MemoryServer(
                handler, limits=limits, timeouts=timeouts, instruments=instruments
            )

            async def connect_memory() -> trio.abc.Stream:
                return server.connect(MEMORY_PAIRS[transport])

            async with server:
                with trio.fail_after(_patience()):
                    yield Served(connect_memory, transport)
            return

        async def run(
            task_status: trio.TaskStatus[Sequence[trio.SocketListener | UnixListener]],
        ) -> None:
            if transport == "tcp":
                await trifcgi.serve_tcp(
                    handler, 0, host="127.0.0.1", limits=limits, timeouts=timeouts,
                    instruments=instruments, task_status=task_status,
                )  # fmt: skip
            else:
                await trifcgi.serve_unix(
                    handler, str(directory / "app.sock"), limits=limits, timeouts=timeouts,
                    instruments=instruments, task_status=task_status,
                )  # fmt: skip

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(run)
            address = listeners[0].socket.getsockname()

            async def connect_socket() -> trio.abc.Stream:
                if transport == "tcp":
                    return await trio.open_tcp_stream(*address)
                return await trio.open_unix_socket(address)

            with trio.fail_after(_patience()):
                yield Served(connect_socket, transport)
            nursery.cancel_scope.cancel()

    return serve


@pytest.fixture
def serve(transport: str, tmp_path: Path) -> Serve:
    """The server over each kind of stream."""
    return _serve_over(transport, tmp_path)


@pytest.fixture
def memory_serve(tmp_path: Path) -> Serve:
    """The server over memory streams only."""
    return _serve_over("memory", tmp_path)


@pytest.fixture
def tcp_serve(tmp_path: Path) -> Serve:
    """The server over TCP only."""
    return _serve_over("tcp", tmp_path)
