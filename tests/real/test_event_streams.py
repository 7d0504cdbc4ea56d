"""Endless event streams behind nginx, whose server stops or is replaced."""

import contextlib
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import h11
import pytest
import trio

from tests.real.front_ends import Site, Upstream
from tests.real.front_ends.nginx import NGINX
from tests.real.http_client import HOST, Origin
from tests.real.ports import PortBlock
from tests.real.serving import Serving

HELLO = b"data: hello\n\n"
GOODBYE = b"data: goodbye\n\n"

# Short, so that a stream that is not told fails its test soon; far more than they need.
GRACE = 8.0
PATIENCE = 30.0

# Clients that may be connecting at once; the rest would only wait in nginx's backlog.
_AT_ONCE = 50

_SET_UPS = {set_up.name: set_up for set_up in NGINX.set_ups}

Start = Callable[..., tuple[Serving, Origin]]


@pytest.fixture
def start(short_directory: Path, ports: PortBlock) -> Iterator[Start]:
    """Starts a ``trifcgi run`` of the test's own, and an nginx in front of it."""
    with contextlib.ExitStack() as stack:

        def start(app: str, set_up: str, *options: str) -> tuple[Serving, Origin]:
            port, unix = ports.take(), short_directory / "a.sock"
            serving = Serving(
                "trifcgi",
                [f"tests.real.apps.streams_app:{app}", "--port", str(port), "--unix", str(unix),
                 "--unix-mode", "666", "--grace", str(GRACE), *options],
                log=short_directory / "log",
            )  # fmt: skip
            stack.callback(serving.kill)
            if "--workers" in options:
                serving.wait_log("is ready", int(options[options.index("--workers") + 1]))
            else:
                serving.wait_addresses(2)
            site = Site(
                set_up=_SET_UPS[set_up],
                app=app,
                port=ports.take(),
                root=short_directory,
                upstream=Upstream(port, unix),
                launcher=short_directory,
            )
            stack.callback(NGINX.start(short_directory, [site]).kill)
            return serving, site.origin

        yield start


@asynccontextmanager
async def event_stream(origin: Origin) -> AsyncGenerator["EventStream"]:
    """Ask for the stream; its beginning is there when the block is entered."""
    stream = await trio.open_tcp_stream("127.0.0.1", origin.port)
    try:
        events = EventStream(stream)
        await events.begin(origin)
        yield events
    finally:
        await trio.aclose_forcefully(stream)


class EventStream:
    """One client's, as a browser sees it.

    Attributes:
        body: what has come so far.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.body = b""
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def begin(self, origin: Origin) -> None:
        """Send the request, and read the head and the first event."""
        request = h11.Request(method="GET", target=f"{origin.prefix}/x", headers=[("Host", HOST)])
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await self._stream.send_all(data)
        head = await self._next()
        assert isinstance(head, h11.Response)
        assert head.status_code == 200
        while len(self.body) < len(HELLO):
            assert await self._more(), "the stream has ended before it began"

    async def read_rest(self) -> None:
        """Read to the end.

        Raises:
            h11.RemoteProtocolError: the response was cut.
        """
        while await self._more():
            pass

    async def _more(self) -> bool:
        event = await self._next()
        if isinstance(event, h11.Data):
            self.body += event.data
        return isinstance(event, h11.Data)

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._stream.receive_some())
        return event


@attrs.define
class Audience:
    """Clients that have streams open.

    Attributes:
        origin: the site.
        comes_back: whether a client whose stream has ended asks for another, as browsers do.
        open: streams that are open now.
        ended: when each of those that have ended did (trio clock).
    """

    origin: Origin
    comes_back: bool = False
    open: int = 0
    ended: list[float] = attrs.field(factory=list)
    _entrance: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(_AT_ONCE))

    async def watch(self) -> None:
        """Watch one stream to its end, which has to be a whole one."""
        while True:
            async with contextlib.AsyncExitStack() as stack:
                async with self._entrance:
                    events = await stack.enter_async_context(event_stream(self.origin))
                self.open += 1
                await events.read_rest()
                self.open -= 1
                assert events.body == HELLO + GOODBYE
                self.ended.append(trio.current_time())
            if not self.comes_back:
                return

    async def wait_open(self, count: int) -> None:
        """Return once so many streams are open."""
        while self.open < count:  # noqa: ASYNC110 - bounded by the test
            await trio.sleep(0.01)

    async def wait_moved(self, count: int) -> None:
        """Return once so many streams have ended, and as many are open again."""
        while len(self.ended) < count:  # noqa: ASYNC110 - bounded by the test
            await trio.sleep(0.01)
        await self.wait_open(count)


@pytest.mark.parametrize("app", ["native", "starlette"])
@pytest.mark.parametrize(
    ("set_up", "options"),
    [("nginx-split", ()), ("nginx-recommended", ("--workers", "2"))],
    ids=["one process", "workers"],
)
async def test_five_hundred_are_told_and_end_within_the_grace(
    start: Start, app: str, set_up: str, options: tuple[str, ...]
) -> None:
    serving, origin = start(app, set_up, *options)
    audience = Audience(origin)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(audience.watch)
            await audience.wait_open(500)
            assert audience.ended == []
            began = trio.current_time()
            serving.send_signal(signal.SIGTERM)
        taken = max(audience.ended) - began
        status = await trio.to_thread.run_sync(serving.wait)
        stopped = trio.current_time() - began
    log = serving.read_log()
    assert (len(audience.ended), status) == (500, 0), log
    assert taken < GRACE
    assert "requests cut" not in log
    assert "WARN" not in log
    assert "ERROR" not in log
    print(f"\n{app}, {set_up}: 500 streams ended in {taken:.2f} s, the server in {stopped:.2f} s")


@pytest.mark.parametrize(
    ("number", "leave"), [(signal.SIGHUP, 2), (signal.SIGTTOU, 1)], ids=["reload", "removal"]
)
async def test_streams_move_on_from_a_worker_that_stops(
    start: Start, number: signal.Signals, leave: int
) -> None:
    serving, origin = start("native", "nginx-recommended", "--workers", "2")
    async with moving_on(serving, origin, 20) as audience:
        serving.send_signal(number)
        await trio.to_thread.run_sync(serving.wait_log, "has ended: exit status 0", leave)
        # Connections are shared among workers, if not quite evenly at times.
        await audience.wait_moved(20 if leave == 2 else 1)


async def test_they_move_on_from_a_worker_that_is_recycled(start: Start) -> None:
    serving, origin = start(
        "starlette", "nginx-recommended", "--workers", "1", "--max-worker-requests", "40"
    )
    async with moving_on(serving, origin, 10) as audience:
        while "it is replaced" not in serving.read_log():
            async with event_stream(origin):
                pass
        await trio.to_thread.run_sync(serving.wait_log, "has ended: exit status 0")
        await audience.wait_moved(10)


@asynccontextmanager
async def moving_on(serving: Serving, origin: Origin, count: int) -> AsyncGenerator[Audience]:
    """Open streams whose clients come back; at the end of the block stop the server."""
    audience = Audience(origin, comes_back=True)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(audience.watch)
            await audience.wait_open(count)
            yield audience
            await audience.wait_open(count)
            audience.comes_back = False
            moved = len(audience.ended)
            serving.send_signal(signal.SIGTERM)
        status = await trio.to_thread.run_sync(serving.wait)
    assert (status, len(audience.ended)) == (0, moved + count)
    assert "requests cut" not in serving.read_log()
