"""The four functions that embed trifcgi in a trio program."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from trifcgi.limits import Limits, Timeouts
from trifcgi.observe.instrument import Instrument
from trifcgi.request import Handler
from trifcgi.server.listeners import UnixListener, open_tcp_listeners, open_unix_listener
from trifcgi.server.plane import DataPlane

__all__ = ["serve_listeners", "serve_stream", "serve_tcp", "serve_unix"]


async def serve_tcp(
    handler: Handler,
    port: int,
    *,
    host: str | None = None,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    instruments: Iterable[Instrument] = (),
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve FastCGI on a TCP port until cancelled.

    A cancel closes the listeners and every connection at once and cancels the handlers that
    run; nothing is left behind. With a ``handler_nursery`` the connections run there, and
    they end with it.

    Args:
        handler: answers the requests; see :data:`trifcgi.Handler`.
        port: 0 takes a free one; the listeners tell which.
        host: the address to listen on; ``None``: all interfaces, which lets anyone who
            reaches the port run requests with any params.
        backlog: connections that may wait to be accepted; ``None``: the system's most.
        handler_nursery: where the connections' tasks run.
        limits: how much is taken on at once.
        timeouts: how long things may take.
        instruments: observers of connections and requests.
        task_status: gets the list of listeners when they are being accepted from and the
            handler's lifespan has started.

    Raises:
        OSError: the port cannot be listened on.
    """
    listeners = await open_tcp_listeners(port, host=host, backlog=backlog)
    await serve_listeners(
        handler,
        listeners,
        handler_nursery=handler_nursery,
        limits=limits,
        timeouts=timeouts,
        instruments=instruments,
        task_status=task_status,
    )


async def serve_unix(
    handler: Handler,
    path: str | os.PathLike[str],
    *,
    mode: int = 0o660,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    instruments: Iterable[Instrument] = (),
    task_status: trio.TaskStatus[list[UnixListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve FastCGI on a Unix socket until cancelled; its file is removed at the end.

    Args:
        handler: answers the requests; see :data:`trifcgi.Handler`.
        path: the socket's file. A stale socket is replaced; a live one, or another kind of
            file, never is.
        mode: permissions of the socket's file: who may write to it may connect.
        backlog: see :func:`serve_tcp`, as for the other arguments.
        handler_nursery: see :func:`serve_tcp`.
        limits: see :func:`serve_tcp`.
        timeouts: see :func:`serve_tcp`.
        instruments: see :func:`serve_tcp`.
        task_status: see :func:`serve_tcp`.

    Raises:
        ConfigurationError: the path is taken or cannot be used.
    """
    listener = await open_unix_listener(path, mode=mode, backlog=backlog)
    await serve_listeners(
        handler,
        [listener],
        handler_nursery=handler_nursery,
        limits=limits,
        timeouts=timeouts,
        instruments=instruments,
        task_status=task_status,
    )


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    handler_nursery: trio.Nursery | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    instruments: Iterable[Instrument] = (),
    task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve FastCGI on any trio listeners until cancelled, and close them.

    See :func:`serve_tcp` for the arguments.
    """
    plane = DataPlane(handler, limits=limits, timeouts=timeouts, instruments=instruments)
    try:
        if handler_nursery is None:
            async with plane:
                await plane.serve(listeners, task_status=task_status)
        else:
            connections = await handler_nursery.start(_hold, plane)
            try:
                await plane.serve(listeners, handler_nursery=connections, task_status=task_status)
            finally:
                plane.drain()
    finally:
        for listener in listeners:
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(listener)


async def _hold(
    plane: DataPlane, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a data plane and its connections until the last one has ended after a drain.

    It runs in the caller's nursery: the connections, and the poller that they cannot do
    without, outlive the accept loops as the handlers of ``trio.serve_listeners`` do.
    """
    async with plane, trio.open_nursery() as connections:
        task_status.started(connections)
        await plane.wait_drained()


async def serve_stream(
    handler: Handler,
    stream: trio.abc.Stream,
    *,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    instruments: Iterable[Instrument] = (),
) -> None:
    """Serve one FastCGI connection over any trio stream until it ends, and close the stream.

    See :func:`serve_tcp` for the arguments. On a stream that is not a socket of our own a
    peer that goes away is noticed only by reading, so a body that its handler does not read
    goes on to a temporary file, up to 64 MiB.
    """
    try:
        async with DataPlane(
            handler, limits=limits, timeouts=timeouts, instruments=instruments
        ) as plane:
            await plane.serve_stream(stream)
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.aclose_forcefully(stream)
