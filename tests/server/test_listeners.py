"""Listening: TCP, Unix sockets, inherited descriptors, who may connect and how many."""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.handlers import Recorder, hello, sleep
from tests.server.raw import RawFrontEnd
from trifcgi import ConfigurationError, Limits, serve_tcp, serve_unix
from trifcgi.server import (
    AllowList,
    DataPlane,
    address_of,
    inherited_listeners,
    is_listening,
    open_tcp_listeners,
    open_unix_listener,
    systemd_fds,
)
from trifcgi.server.listeners import Peer

pytestmark = pytest.mark.real


async def ask(stream: trio.abc.Stream) -> bytes:
    """One request's body."""
    front_end = RawFrontEnd(stream)
    with trio.fail_after(15):
        await front_end.send(raw.get())
        body = (await front_end.answer()).body
    await stream.aclose()
    return body


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
async def test_tcp_is_served_on_every_address_of_the_host(host: str | None) -> None:
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            await serve_tcp(hello, 0, host=host, task_status=task_status)

        listeners = await nursery.start(run)
        for listener in listeners:
            stream = await trio.testing.open_stream_to_socket_listener(listener)
            assert await ask(stream) == b"hello"
        nursery.cancel_scope.cancel()


async def test_addresses_are_written_as_front_ends_write_them(tmp_path: Path) -> None:
    [four] = await open_tcp_listeners(0, host="127.0.0.1")
    [six] = await open_tcp_listeners(0, host="::1")
    unix = await open_unix_listener(tmp_path / "app.sock")
    try:
        assert address_of(four) == f"127.0.0.1:{four.socket.getsockname()[1]}"
        assert address_of(six) == f"[::1]:{six.socket.getsockname()[1]}"
        assert address_of(unix) == f"unix:{tmp_path}/app.sock"
    finally:
        for listener in (four, six, unix):
            await listener.aclose()


async def test_a_taken_port_is_an_error() -> None:
    [listener] = await open_tcp_listeners(0, host="127.0.0.1")
    try:
        with pytest.raises(OSError, match="in use") as caught:
            await serve_tcp(hello, listener.socket.getsockname()[1], host="127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        await listener.aclose()


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
async def test_a_unix_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "app.sock"
    before = os.umask(0o077)
    try:
        listener = await open_unix_listener(path, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    await listener.aclose()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_unix, hello, path)
        assert await ask(await trio.open_unix_socket(path)) == b"hello"
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_live_socket_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_unix, hello, path)
        with pytest.raises(ConfigurationError, match="another process"):
            await serve_unix(sleep, path)
        assert await ask(await trio.open_unix_socket(path)) == b"hello"
        nursery.cancel_scope.cancel()


async def test_another_kind_of_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigurationError, match="not a socket"):
        await serve_unix(hello, path)
    assert path.read_text() == "data"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigurationError):
        await serve_unix(hello, link)
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["no/such/directory.sock", "x" * 200])
async def test_a_path_that_cannot_be_used_is_a_plain_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await serve_unix(hello, tmp_path / name)
    assert "\n" not in str(caught.value)


async def test_its_file_is_removed_although_the_directory_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(serve_unix, hello, "app.sock")
        assert address_of(listener) == "unix:app.sock"
        monkeypatch.chdir("/")
        assert listener.path == tmp_path / "app.sock"
        assert await ask(await trio.open_unix_socket(listener.path)) == b"hello"
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "app.sock").exists()


@pytest.mark.parametrize("current", ["there", "elsewhere"])
async def test_a_relative_path_can_start_from_a_directory_that_is_named(
    tmp_path: Path, current: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    (elsewhere / "app.sock").touch()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(there / "app.sock"))
    monkeypatch.chdir(tmp_path / current)
    listener = await open_unix_listener("app.sock", directory=there)
    assert (listener.path, address_of(listener)) == (there / "app.sock", "unix:app.sock")
    with pytest.raises(ConfigurationError, match=r"^cannot listen on app.sock: another process"):
        await open_unix_listener("app.sock", directory=there)
    await listener.aclose()
    assert not (there / "app.sock").exists()
    assert (elsewhere / "app.sock").exists()


async def test_closing_leaves_a_successors_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = await open_unix_listener(path)
    path.unlink()
    successor = await open_unix_listener(path)
    await listener.aclose()
    assert path.exists()
    await successor.aclose()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


async def test_an_inherited_socket_is_served(listening: socket.socket) -> None:
    address = listening.getsockname()
    [listener] = inherited_listeners([os.dup(listening.fileno())])
    async with DataPlane(hello) as plane, trio.open_nursery() as nursery:
        await nursery.start(plane.serve, [listener])
        assert await ask(await trio.open_tcp_stream(*address)) == b"hello"
        nursery.cancel_scope.cancel()


def test_only_a_listening_stream_socket_can_be_inherited(
    listening: socket.socket, tmp_path: Path
) -> None:
    assert is_listening(listening.fileno())
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        for sock in (idle, datagram):
            assert not is_listening(sock.fileno())
            with pytest.raises(ConfigurationError, match="not a listening socket"):
                inherited_listeners([sock.fileno()])
    with (tmp_path / "file").open("w") as file:
        assert not is_listening(file.fileno())
    assert not is_listening(987_654)


@pytest.mark.parametrize(
    ("pid", "count", "expected"),
    [("own", "2", [3, 4]), ("1", "2", []), ("own", "many", []), (None, None, [])],
)
def test_systemds_sockets_are_taken_once(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, count: str | None, expected: list[int]
) -> None:
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", "a:b")):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    assert systemd_fds() == expected
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(os.environ)


@pytest.mark.parametrize(
    ("allowed", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8, ::1", "10.255.0.1", True),
        ("10.0.0.0/8, ::1", "::1", True),
        ("10.0.0.0/8", "::ffff:10.1.1.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", None, True),
    ],
)
def test_an_allow_list_knows_its_peers(allowed: str, host: str | None, expected: bool) -> None:
    assert (Peer(host, 1) in AllowList.parse(allowed)) is expected


@pytest.mark.parametrize("text", ["", "example.test", "10.0.0.0/33", "1.2.3.4,,5.6.7.8"])
def test_a_bad_allow_list_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a network"):
        AllowList.parse(text)


@pytest.mark.parametrize(("allowed", "served"), [("127.0.0.0/8", True), ("192.0.2.1", False)])
async def test_a_peer_that_is_not_allowed_is_closed_and_logged(
    allowed: str, served: bool, caplog: pytest.LogCaptureFixture
) -> None:
    listeners = await open_tcp_listeners(0, host="127.0.0.1")
    async with (
        DataPlane(hello, allow=AllowList.parse(allowed)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, listeners)
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        if served:
            assert await ask(stream) == b"hello"
        else:
            with trio.fail_after(15):
                assert await stream.receive_some() == b""
            await stream.aclose()
        nursery.cancel_scope.cancel()
    refused = [line for line in caplog.records if "not among the allowed" in line.getMessage()]
    assert len(refused) == (0 if served else 1)
    assert all(line.levelno == logging.WARNING for line in refused)


async def test_connections_past_the_limit_wait_in_the_backlog() -> None:
    app = Recorder(sleep)
    listeners = await open_tcp_listeners(0, host="127.0.0.1")
    async with (
        DataPlane(app, limits=Limits(max_connections=1)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, listeners)
        first = await trio.testing.open_stream_to_socket_listener(listeners[0])
        await first.send_all(raw.get())
        with trio.fail_after(15):
            await app.began.wait()
        second = await trio.testing.open_stream_to_socket_listener(listeners[0])
        await second.send_all(raw.get())
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (plane.connections, app.calls) == (1, 1)
        await first.aclose()
        with trio.fail_after(15):
            while app.calls < 2:
                await trio.lowlevel.checkpoint()
        assert plane.connections == 1
        await second.aclose()
        nursery.cancel_scope.cancel()


async def test_the_limit_holds_for_all_listeners_together() -> None:
    """Also for those that find many waiting at one time."""
    listeners = [
        listener for _ in range(3) for listener in await open_tcp_listeners(0, host="127.0.0.1")
    ]
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            address = listener.socket.getsockname()
            for _ in range(8):
                stack.enter_context(socket.create_connection(address))
        async with (
            DataPlane(sleep, limits=Limits(max_connections=10)) as plane,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(plane.serve, listeners)
            with trio.fail_after(15):
                while plane.connections < 10:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (plane.connections, plane.room) == (10, 0)
            nursery.cancel_scope.cancel()
