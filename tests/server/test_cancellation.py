"""Cancel the server wherever it is: nothing stays behind."""

import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

import trifcgi
from tests.server import raw
from tests.server.conftest import MEMORY_PAIRS
from tests.server.handlers import HEAD, Recorder, echo, hello, sleep
from tests.server.raw import RawFrontEnd
from trifcgi import Request, serve_listeners, serve_stream, serve_tcp, serve_unix
from trifcgi.testing import MemoryServer, open_client, params


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when trio is about to take its n-th step."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


def descendants(task: trio.lowlevel.Task) -> int:
    """Tasks below ``task``."""
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return len(children) + sum(descendants(child) for child in children)


async def converse(near: trio.abc.Stream) -> None:
    """A request with a body, a streamed answer, an abort, and a request that goes on."""
    front_end = RawFrontEnd(near)
    await front_end.send(raw.head(1, REQUEST_METHOD="POST"), raw.stdin(1, b"one "))
    await front_end.receive()
    await front_end.send(raw.stdin(1, b"two"), raw.stdin(1), raw.get(2, SCRIPT_NAME="/sleep"))
    await front_end.answer(1)
    await front_end.send(raw.abort(2))
    await front_end.answer(2)
    await front_end.send(raw.get(3, SCRIPT_NAME="/sleep"))
    await trio.sleep_forever()


class App:
    """Counts what it has open: handlers and lifespans."""

    def __init__(self) -> None:
        self.open = 0

    async def __call__(self, request: Request) -> None:
        self.open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                await (sleep if request.params["SCRIPT_NAME"] == "/sleep" else echo)(request)
        finally:
            self.open -= 1

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self.open += 1
        try:
            await trio.lowlevel.checkpoint()
            yield
        finally:
            self.open -= 1


@pytest.mark.parametrize("pair", ["memory", "lockstep"])
async def test_serve_stream_can_be_cancelled_at_every_step(pair: str) -> None:
    me = trio.lowlevel.current_task()
    steps = 0
    done = False
    while not done:
        steps += 1
        app = App()
        near, far = MEMORY_PAIRS[pair]()
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, steps)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_stream, app, far)
                nursery.start_soon(converse, near)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                    done = True
                    nursery.cancel_scope.cancel()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        assert app.open == 0, steps
        assert descendants(me) == 0, steps
        with trio.fail_after(5), pytest.raises(trio.ClosedResourceError):
            await far.send_all(b"x")
    assert steps > 30


async def test_a_client_can_be_cancelled_at_every_step(autojump_clock: object) -> None:
    me = trio.lowlevel.current_task()
    start = trio.current_time()
    async with MemoryServer(echo) as server:
        before = descendants(me)
        steps = 0
        done = False
        while not done:
            steps += 1
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with server.client() as client:
                        response = await client.request(params(), bytes(100_000))
                        assert len(response.body) == 100_000
                        async with client.open(params()) as exchange:
                            await exchange.stdin.send_all(b"some")
                            await exchange.response()
                        done = True
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await trio.testing.wait_all_tasks_blocked()
            assert descendants(me) == before, steps
            assert (server.plane.connections, server.plane.running) == (0, 0), steps
        assert steps > 30
    # Its aborts were sent and answered, though everything around it was cancelled.
    assert trio.current_time() - start < 0.1


def open_descriptors() -> set[int]:
    """Numbers of what is open."""
    return {number for number in range(1024) if Path(f"/proc/self/fd/{number}").exists()}


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Descriptors and threads are what they were."""
    descriptors, threads = open_descriptors(), threading.active_count()
    yield
    assert open_descriptors() == descriptors
    assert threading.active_count() == threads


@pytest.mark.real
@pytest.mark.parametrize("kind", ["tcp", "unix", "listeners"])
async def test_cancelled_servers_leave_no_task_socket_file_or_thread(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    me = trio.lowlevel.current_task()
    # What trio and the resolver open once and keep shall not count.
    for listener in await trio.open_tcp_listeners(0, host="127.0.0.1"):
        await listener.aclose()
    app = Recorder(sleep)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            if kind == "tcp":
                listeners = await nursery.start(_tcp, app)
                stream: trio.abc.Stream = await trio.testing.open_stream_to_socket_listener(
                    listeners[0]
                )
            elif kind == "unix":
                await nursery.start(serve_unix, app, path)
                stream = await trio.open_unix_socket(path)
            else:
                own = await trio.open_tcp_listeners(0, host="127.0.0.1")
                await nursery.start(serve_listeners, app, own)
                stream = await trio.testing.open_stream_to_socket_listener(own[0])
            front_end = RawFrontEnd(stream)
            await front_end.send(raw.get())
            await app.began.wait()
            nursery.cancel_scope.cancel()
        assert isinstance(app.error, trio.Cancelled)
        with contextlib.suppress(trio.BrokenResourceError):
            while await front_end.receive() is not None:
                pass
        await stream.aclose()
    assert not path.exists()
    assert descendants(me) == 0


async def _tcp(
    app: trifcgi.Handler, task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    await serve_tcp(app, 0, host="127.0.0.1", task_status=task_status)


@pytest.mark.real
async def test_a_handler_nursery_outlives_the_listeners() -> None:
    """As with ``trio.serve_listeners``: cancel the accept loops, and let requests finish."""
    go_on, stopped = trio.Event(), trio.Event()

    async def app(request: Request) -> None:
        await go_on.wait()
        await hello(request)

    recorder = Recorder(app)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(15):
        async with trio.open_nursery() as handlers:
            accepting = trio.CancelScope()

            async def accept(task_status: trio.TaskStatus[object]) -> None:
                with accepting:
                    await serve_listeners(
                        recorder, listeners, handler_nursery=handlers, task_status=task_status
                    )
                stopped.set()

            await handlers.start(accept)
            stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
            front_end = RawFrontEnd(stream)
            await front_end.send(raw.get())
            await recorder.began.wait()
            accepting.cancel()
            await stopped.wait()
            go_on.set()
            assert (await front_end.answer()).body == b"hello"
            await stream.aclose()


async def test_the_lifespan_is_entered_first_and_left_last() -> None:
    order: list[str] = []

    class Living:
        @contextlib.asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            order.append("start")
            yield
            order.append("stop")

        async def __call__(self, request: Request) -> None:
            order.append("request")
            try:
                await request.stdout.send_all(HEAD)
                await trio.sleep_forever()
            finally:
                order.append("clean-up")

    async with open_client(Living()) as client, client.open(params()) as exchange:
        await exchange.response()
    assert order == ["start", "request", "clean-up", "stop"]


async def test_a_lifespan_that_fails_to_start_fails_the_server() -> None:
    class Stillborn:
        def lifespan(self) -> contextlib.AbstractAsyncContextManager[None]:
            raise RuntimeError("no database")

        async def __call__(self, request: Request) -> None:
            raise AssertionError

    with pytest.raises(RuntimeError, match="no database"):
        async with open_client(Stillborn()):
            pytest.fail("it must not come this far")


async def test_the_blocks_exception_comes_out_unwrapped() -> None:
    with pytest.raises(KeyError):
        async with open_client(hello):
            raise KeyError
