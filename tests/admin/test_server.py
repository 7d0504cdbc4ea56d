"""The control server on real sockets: two protocols, one port, and what goes wrong there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.admin.rig import Rig, local_rig
from trifcgi import Client
from trifcgi.admin import serve_control
from trifcgi.server import UnixListener, open_tcp_listeners, open_unix_listener
from trifcgi.testing import params

Listener = trio.SocketListener | UnixListener


@asynccontextmanager
async def served(rig: Rig, listeners: list[Listener]) -> AsyncGenerator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, rig.source, listeners)
        with trio.fail_after(20):
            yield nursery
        nursery.cancel_scope.cancel()
    for listener in listeners:
        await trio.aclose_forcefully(listener)


async def _connect(listener: Listener) -> trio.SocketStream:
    if isinstance(listener, UnixListener):
        return await trio.open_unix_socket(listener.path)
    return await trio.open_tcp_stream(*listener.socket.getsockname()[:2])


async def _get(listener: Listener, path: str = "/health") -> bytes:
    async with await _connect(listener) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b"".join([piece async for piece in stream])


async def test_the_first_byte_tells_the_protocol(tmp_path: Path) -> None:
    listeners: list[Listener] = [
        *await open_tcp_listeners(0, host="127.0.0.1"),
        await open_unix_listener(tmp_path / "c", mode=0o600),
    ]
    async with local_rig() as rig, served(rig, listeners):
        for listener in listeners:
            assert (await _get(listener)).startswith(b"HTTP/1.1 200 OK\r\n")
            async with Client(await _connect(listener)) as client:
                assert (await client.request(params("/health"))).status == 200
        for garbage in (b"\x02" * 100, b"\0", b"\xff" * 70_000):
            async with await _connect(listeners[0]) as stream:
                await stream.send_all(garbage)
                await stream.send_eof()
                assert b"".join([piece async for piece in stream])[:10] in (b"", b"HTTP/1.1 4")
        assert (await _get(listeners[0])).startswith(b"HTTP/1.1 200 OK\r\n")


class Broken(UnixListener):
    """A listener that fails as none should, and then works."""

    failures = 2

    async def accept(self) -> trio.SocketStream:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("broken on purpose")
        return await super().accept()


async def test_after_a_failure_it_starts_again_and_the_data_plane_never_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = await open_unix_listener(tmp_path / "c", mode=0o600)
    listener = Broken(good.socket, good.path)
    async with local_rig() as rig, rig.held() as held, served(rig, [listener]):
        assert (await _get(listener)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert [request["id"] for request in (await rig.get("/requests"))["requests"]] == [held]
    assert listener.failures == 0


async def test_an_answer_on_its_way_gets_there_although_the_server_ends(tmp_path: Path) -> None:
    listener = await open_unix_listener(tmp_path / "c", mode=0o600)
    async with local_rig() as rig:
        stop = rig.controls[0].stop
        async with served(rig, [listener]) as nursery:

            def stop_all() -> None:
                stop()
                nursery.cancel_scope.cancel()

            rig.controls[0].stop = stop_all  # type: ignore[method-assign]
            async with await _connect(listener) as stream:
                with trio.CancelScope(shield=True):
                    await stream.send_all(b"POST /stop HTTP/1.0\r\n\r\n")
                    answer = b"".join([piece async for piece in stream])
                assert b'{"stopping": true' in answer


async def test_idle_connections_do_not_keep_it_from_ending(tmp_path: Path) -> None:
    listener = await open_unix_listener(tmp_path / "c", mode=0o600)
    async with local_rig() as rig:
        began = trio.current_time()
        async with served(rig, [listener]):
            silent = [await _connect(listener) for _ in range(3)]
            assert (await _get(listener)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert trio.current_time() - began < 5
        for stream in silent:
            await stream.aclose()


async def test_one_that_is_cancelled_before_it_serves_ends() -> None:
    """As where the data plane fails to start: behind a shield it would wait for ever."""
    async with local_rig() as rig:
        with trio.fail_after(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await serve_control(rig.source, [])
    assert scope.cancelled_caught
