"""One data plane in this process: from a configuration to a server, and back to nothing."""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import trio

from trifcgi.apps.loader import as_handler, load_app
from trifcgi.apps.threads import threads_of
from trifcgi.config import Configuration, InheritedSocket, Source, TcpAddress, UnixAddress
from trifcgi.errors import AppLoadError, ConfigurationError
from trifcgi.failure import divide, in_words
from trifcgi.observe.access_log import AccessLog
from trifcgi.observe.instrument import Instrument
from trifcgi.observe.log_file import STDOUT, LogFile
from trifcgi.observe.logs import keep_logging
from trifcgi.observe.slow_log import slow_log
from trifcgi.observe.stdio import StderrFile, let_go
from trifcgi.observe.watchdog import watch_loop
from trifcgi.protocol import LISTENSOCK_FILENO
from trifcgi.request import Handler
from trifcgi.server import (
    AllowList,
    DataPlane,
    UnixListener,
    address_of,
    inherited_listeners,
    is_listening,
    open_tcp_listeners,
    open_unix_listener,
    systemd_fds,
)
from trifcgi.server.handover import Handover
from trifcgi.server.share import Share

__all__ = [
    "App",
    "Listener",
    "Worker",
    "inherited_sockets",
    "load",
    "open_listeners",
    "report_listening",
]

Listener: TypeAlias = trio.SocketListener | UnixListener

_log: Final = logging.getLogger("trifcgi")


@attrs.frozen
class App:
    """What is to be served.

    Attributes:
        handler: what answers the requests.
        name: how the log and ``trifcgi check`` call it.
        kind: in words.
    """

    handler: Handler
    name: str
    kind: str


_KINDS: Final = {"asgi": "ASGI app", "wsgi": "WSGI app", "handler": "native handler"}


def load(configuration: Configuration) -> App:
    """Load the app that a configuration names, or make ready to run scripts.

    Raises:
        AppLoadError: there is no such app, or it cannot be loaded.
        ConfigurationError: the directory of the scripts is none.
    """
    if configuration.app is None:
        return _script_host(configuration)
    found = load_app(configuration.app, configuration.interface, directory=Path.cwd())
    handler = as_handler(
        found.target, found.interface, mount=configuration.mount, threads=configuration.threads
    )
    keep_logging()
    return App(handler, found.spec, _KINDS[found.interface])


def _script_host(configuration: Configuration) -> App:
    # A server of one app need not know how scripts are found and watched.
    from trifcgi.apps.scripts import scripts  # noqa: PLC0415

    root = Path(configuration.root)
    if not root.is_dir():
        raise ConfigurationError(
            f"there is no directory {configuration.root!r} to run scripts from: "
            "name one with --root, or an app as module:attribute"
        )
    handler = scripts(root, mount=configuration.mount, threads=configuration.threads)
    return App(handler, f"scripts below {root.resolve()}", "script host")


def inherited_sockets() -> list[int]:
    """File descriptors of listening sockets that this process was started with.

    Descriptor 0 where it is one (§2.2), and what systemd passes; systemd's variables
    are taken out of the environment, so this tells them only once.
    """
    spawned = [LISTENSOCK_FILENO] if is_listening(LISTENSOCK_FILENO) else []
    return [*spawned, *systemd_fds()]


class Worker:
    """Serves one app until it is told to stop.

    Args:
        configuration: every option.
        app: what to serve.
        addresses: where to listen.
        ready: called with the listeners once the app has started and connections are
            accepted.
        spawned: whether a front end has started the server with its listener on
            descriptor 0; by default that is seen from the addresses.
        listeners: those addresses' listeners, where they are open already; they are closed
            in the end.
        share: fair sharing of the listeners with other processes.
        handover: passes kept connections on to them, and takes theirs.
        instruments: observers of the data plane.

    Attributes:
        plane: the data plane, once it takes requests.
        addresses: what it listens on, also once that is closed.
    """

    def __init__(
        self,
        configuration: Configuration,
        app: App,
        addresses: Sequence[TcpAddress | UnixAddress | InheritedSocket],
        ready: Callable[[Sequence[Listener]], None],
        *,
        spawned: bool | None = None,
        listeners: Sequence[Listener] | None = None,
        share: Share | None = None,
        handover: Handover | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.plane: DataPlane | None = None
        self.addresses: list[str] = []
        self._configuration = configuration
        self._app = app
        self._addresses = addresses
        self._spawned = _is_spawned(addresses) if spawned is None else spawned
        self._given = listeners
        self._stderr = StderrFile() if configuration.daemon else None
        self._share = share
        self._handover = handover
        self._instruments = instruments
        self._tell_ready = ready
        self._scope = trio.CancelScope()
        self._cut_at_once = 0
        self._access_log: LogFile | None = None

    @property
    def cut(self) -> int:
        """Requests that the stop has cut."""
        by_drain = 0 if self.plane is None else self.plane.cut_by_drain
        return by_drain + self._cut_at_once

    @property
    def lines_lost(self) -> int:
        """Lines that the log and the access log could not take."""
        logs = [*logging.getLogger("trifcgi").handlers, self._access_log]
        return sum(getattr(log, "lost", 0) for log in logs)

    async def run(self) -> None:
        """Serve until :meth:`stop` or a cancel; then nothing is left open.

        Raises:
            ConfigurationError: a listener or a log file cannot be opened, or the app
                says that it cannot start.
        """
        with self._scope:
            async with contextlib.AsyncExitStack() as stack:
                access_log = stack.enter_context(self._open_access_log())
                listeners = await self._open_listeners(stack)
                plane = self._data_plane(access_log)
                # Before any nursery: a start that fails raises its reason as it is, not
                # as a group.
                await self._start(plane, stack)
                if access_log is not None:
                    await stack.enter_async_context(_running(access_log))
                await self._watch(plane, stack)
                keep_logging()
                self.plane = plane
                self.addresses = [address_of(listener) for listener in listeners]
                await plane.serve(listeners, task_status=_Ready(self._is_ready))

    async def _open_listeners(self, stack: contextlib.AsyncExitStack) -> list[Listener]:
        if self._given is None:
            return await open_listeners(self._configuration, self._addresses, stack)
        for listener in self._given:
            stack.push_async_callback(trio.aclose_forcefully, listener)
        return list(self._given)

    async def _start(self, plane: DataPlane, stack: contextlib.AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(plane)
        except ConfigurationError:
            raise
        except BaseException as error:
            # A handler's lifespan is its author's code and may raise anything.
            if divide(error)[1] is not None:
                raise
            reason = f"the app's startup failed: {in_words(error)}"
            raise AppLoadError(reason) from error  # noqa: ASYNC104 - no Cancelled is in it

    def _is_ready(self, listeners: Sequence[Listener]) -> None:
        self._tell_ready(listeners)
        if self._configuration.daemon:
            let_go()  # nothing is left to say to whoever started it

    async def _watch(self, plane: DataPlane, stack: contextlib.AsyncExitStack) -> None:
        configuration = self._configuration
        # Ahead of the supervisor, which ends a worker after the whole of it: a block may have
        # lasted half a second when the watch first sees it.
        whole = configuration.hang_timeout
        hang_timeout = max(0.6 * whole, min(0.9 * whole, whole - 1.0))
        await stack.enter_async_context(
            watch_loop(plane, hang_timeout=hang_timeout, threads_of=threads_of)
        )
        await stack.enter_async_context(slow_log(plane, configuration.slow_request, threads_of))

    def stop(self) -> None:
        """Stop gracefully; called a second time, or before the app is ready, at once."""
        plane = self.plane
        if plane is None or (plane.draining and not plane.patient):
            _log.info("stopping at once")
            if plane is not None:
                # Those that the drain has cut may still be cleaning up.
                self._cut_at_once = max(0, plane.running - plane.cut_by_drain)
            self._scope.cancel(reason="told to stop at once")
        else:
            _log.info("stopping: requests running: %d", plane.running)
            plane.drain()

    def retire(self) -> None:
        """Take nothing new, and end when the last request has, however long that takes;
        :meth:`stop` still stops gracefully then. Does nothing to a worker that stops already.
        """
        plane = self.plane
        if plane is not None and not plane.draining:
            _log.info("retiring: requests running: %d", plane.running)
            plane.drain(patient=True)

    def reopen_logs(self) -> None:
        """Open the log files anew, after something has moved them away."""
        if self._stderr is not None:
            self._stderr.reopen()
        if self._access_log is not None:
            self._access_log.reopen()
        elif self._stderr is None:
            _log.info("there is no log file to reopen")

    @contextlib.contextmanager
    def _open_access_log(self) -> Iterator[AccessLog | None]:
        path = self._configuration.access_log
        if path is None:
            yield None
            return
        try:
            place = path if path == STDOUT else self._configuration.absolute(path)
            file = LogFile(place, name=path)
        except OSError as error:
            raise ConfigurationError(
                f"the access log {path} cannot be opened: {error.strerror}"
            ) from error
        self._access_log = file
        try:
            yield AccessLog(file, self._configuration.log_format)
        finally:
            self._access_log = None  # a signal that comes now finds nothing to reopen
            file.close()

    def _data_plane(self, access_log: AccessLog | None) -> DataPlane:
        configuration = self._configuration
        return DataPlane(
            self._app.handler,
            limits=configuration.limits(),
            timeouts=configuration.timeouts(spawned=self._spawned),
            instruments=[*self._instruments, *filter(None, [access_log])],
            allow=AllowList(configuration.allow),
            share=self._share,
            handover=self._handover,
        )


def _is_spawned(addresses: Sequence[TcpAddress | UnixAddress | InheritedSocket]) -> bool:
    return InheritedSocket(LISTENSOCK_FILENO) in addresses


async def open_listeners(
    configuration: Configuration,
    addresses: Sequence[TcpAddress | UnixAddress | InheritedSocket],
    stack: contextlib.AsyncExitStack,
) -> list[Listener]:
    """Open listeners, which the stack closes.

    Raises:
        ConfigurationError: one of them cannot be opened.
    """
    listeners: list[Listener] = []
    for address in addresses:
        for listener in await _open(address, configuration):
            stack.push_async_callback(trio.aclose_forcefully, listener)
            listeners.append(listener)
    return listeners


async def _open(
    address: TcpAddress | UnixAddress | InheritedSocket, configuration: Configuration
) -> Sequence[Listener]:
    try:
        if isinstance(address, TcpAddress):
            return await open_tcp_listeners(address.port, host=address.host)
        if isinstance(address, UnixAddress):
            return [
                await open_unix_listener(
                    address.path, mode=configuration.unix_mode, directory=configuration.directory
                )
            ]
        return inherited_listeners([address.fd])
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {address}: {error.strerror or error}"
        ) from error


def report_listening(
    configuration: Configuration, app: str, kind: str, listeners: Sequence[Listener]
) -> None:
    """Put on the log where an app is served, and who cannot reach it there.

    Args:
        configuration: every option.
        app: the app's name.
        kind: what it is, in words.
        listeners: where it is served.
    """
    for listener in listeners:
        _log.info("%s (%s) listening on %s", app, kind, address_of(listener))
    if configuration.origin("allow").source is Source.DEFAULT:
        for listener in filter(_is_public, listeners):
            _log.warning("peers that are not on loopback are refused on %s: "
                         "name your front end with --allow", address_of(listener))  # fmt: skip


class _Ready:
    """A task status that passes the news on, so that no task of its own has to wait."""

    def __init__(self, tell: Callable[[Sequence[Listener]], None]) -> None:
        self._tell = tell

    def started(self, value: Any = None) -> None:  # Any: whatever the server gives
        self._tell(value)


def _is_public(listener: Listener) -> bool:
    if listener.socket.family == socket.AF_UNIX:
        return False
    host = listener.socket.getsockname()[0]
    return not (host.startswith("127.") or host == "::1")


@contextlib.asynccontextmanager
async def _running(access_log: AccessLog) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access_log.keep_flushed, name="trifcgi access log")
        yield
        nursery.cancel_scope.cancel(reason="the server has stopped")
