"""The control server: listeners of its own, limits of its own, FastCGI and HTTP on one socket.

Which of the two a connection speaks its first byte tells: FastCGI's is the version, 1 (§3.3), and
no HTTP request begins with a control character. The server runs in a nursery beside the data
plane; whatever goes wrong in it is logged, and it starts again.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Sequence
from typing import Final

import trio

from trifcgi.admin.guard import Guard
from trifcgi.admin.handler import ControlHandler
from trifcgi.admin.source import Source
from trifcgi.http import Endpoint, serve_http
from trifcgi.limits import Limits, Timeouts
from trifcgi.protocol import VERSION_1
from trifcgi.request import Request
from trifcgi.server import DataPlane, UnixListener
from trifcgi.server.listeners import Peer

__all__ = ["serve_control"]

_log: Final = logging.getLogger("trifcgi.admin")

_MAX_CONNECTIONS: Final = 64
"""At once; more wait in the backlog. People, a page or two, a scraper: 64 is plenty."""

_LIMITS: Final = Limits(
    max_connections=_MAX_CONNECTIONS, max_requests=64, max_params=64 * 1024, max_body=64 * 1024
)
_TIMEOUTS: Final = Timeouts(
    request_timeout=60, read_timeout=10, write_timeout=10, keep_alive=30, grace=1
)

_LAST_WORDS: Final = 1.0
"""Seconds for answers that are on their way when the server ends, such as that to /stop."""

_IN_FLIGHT: Final = 0.02

# Descriptors or memory have run out: the connections wait in the backlog meanwhile.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATH: Final = 0.1

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
_STEADY: Final = 60.0
"""Seconds after which a server that then fails counts as one that had recovered."""

_FASTCGI: Final = bytes([VERSION_1])

Listener = trio.SocketListener | UnixListener


async def serve_control(
    source: Source,
    listeners: Sequence[Listener],
    *,
    token: str | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control server until cancelled; it never raises over its own failures.

    A cancel ends it within a second: answers that are on their way may still get there.

    Args:
        source: what the commands work on.
        listeners: they stay the caller's, who closes them.
        token: what every request has to present; ``None``: nothing.
        task_status: told once connections are accepted.
    """
    handler = ControlHandler(source, Guard(token))
    pause = _FIRST_PAUSE
    while True:
        began = trio.current_time()
        try:
            await _Server(handler, listeners).run(task_status)
        except Exception:  # noqa: BLE001 - the border between control server and data plane
            if trio.current_time() - began > _STEADY:
                pause = _FIRST_PAUSE
            _log.exception("the control server failed; it starts again in %g s", pause)
        task_status = trio.TASK_STATUS_IGNORED
        await trio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


class _Server:
    """One life of the control server."""

    def __init__(self, handler: ControlHandler, listeners: Sequence[Listener]) -> None:
        self._handler = handler
        self._listeners = listeners
        self._under_way = _UnderWay()
        self._plane = DataPlane(
            _Counted(handler, self._under_way), limits=_LIMITS, timeouts=_TIMEOUTS
        )
        self._room = trio.CapacityLimiter(_MAX_CONNECTIONS)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Accept and serve until cancelled."""
        async with self._plane, trio.open_nursery() as outer:
            connections: trio.Nursery = await outer.start(self._hold_connections)
            try:
                async with trio.open_nursery() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    task_status.started()
            finally:
                with trio.move_on_after(_LAST_WORDS, shield=True):
                    await self._wait_answered()
                connections.cancel_scope.cancel(reason="the control server has ended")

    async def _hold_connections(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        # A cancel that is here already would not be seen behind the shield, and started() tells
        # nobody then: start() would never return.
        await trio.lowlevel.checkpoint_if_cancelled()
        # Shielded, so that a cancel leaves the last answers to run(), which bounds them.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await trio.sleep_forever()

    async def _wait_answered(self) -> None:
        await self._under_way.wait_none()
        # What was answered last is in the hands of the tasks that write.
        await trio.sleep(_IN_FLIGHT)

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        while True:
            connection = object()
            await self._room.acquire_on_behalf_of(connection)
            try:
                stream = await _accepted(listener)
            except BaseException:
                self._room.release_on_behalf_of(connection)
                raise
            connections.start_soon(
                self._serve, stream, connection, name="trifcgi control connection"
            )

    async def _serve(self, stream: trio.SocketStream, connection: object) -> None:
        try:
            await self._converse(stream)
        except Exception:  # noqa: BLE001 - one connection's failure is one connection's
            _log.exception("a control connection failed")
        finally:
            self._room.release_on_behalf_of(connection)
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        first = b""
        with trio.move_on_after(_TIMEOUTS.keep_alive), contextlib.suppress(OSError):
            first = await stream.socket.recv(1, socket.MSG_PEEK)
        if first == _FASTCGI:
            await self._plane.serve_stream(stream, peer=_peer(stream))
        elif first:
            endpoint = _endpoint(stream)
            handler = self._handler.over_http(direct=endpoint.client is not None)
            await serve_http(
                _Counted(handler, self._under_way),
                stream,
                endpoint=endpoint,
                limits=_LIMITS,
                timeouts=_TIMEOUTS,
            )


class _UnderWay:
    """How many requests are being answered."""

    def __init__(self) -> None:
        self._number = 0
        self._none = trio.lowlevel.ParkingLot()

    def __enter__(self) -> None:
        self._number += 1

    def __exit__(self, *_: object) -> None:
        self._number -= 1
        if not self._number:
            self._none.unpark_all()

    async def wait_none(self) -> None:
        """Wait until all have been answered."""
        while self._number:
            await self._none.park()


class _Counted:
    """A handler whose requests are counted while they are answered."""

    roles = ControlHandler.roles

    def __init__(self, handler: ControlHandler, under_way: _UnderWay) -> None:
        self._handler = handler
        self._under_way = under_way

    async def __call__(self, request: Request) -> None:
        with self._under_way:
            await self._handler(request)


async def _accepted(listener: Listener) -> trio.SocketStream:
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("cannot accept: %s; trying again", error.strerror)
            await trio.sleep(_BREATH)


def _endpoint(stream: trio.SocketStream) -> Endpoint:
    sock = stream.socket
    if sock.family == socket.AF_UNIX:
        return Endpoint()
    client, server = sock.getpeername(), sock.getsockname()
    return Endpoint(client=(client[0], client[1]), server=(server[0], server[1]))


def _peer(stream: trio.SocketStream) -> str:
    client = _endpoint(stream).client
    return "unix" if client is None else str(Peer(*client))
