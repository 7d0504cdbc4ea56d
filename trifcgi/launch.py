"""The root of the program: start, signals, exit status."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import trio

from trifcgi.admin import FleetSource, LocalSource
from trifcgi.child import Assignment, interpreter
from trifcgi.config import Address, Configuration, InheritedSocket, available_cores
from trifcgi.control import ControlListeners, about, about_workers, open_control
from trifcgi.daemon import Service, as_service
from trifcgi.errors import ConfigurationError
from trifcgi.observe.logs import set_up_logs
from trifcgi.observe.metrics import Metrics
from trifcgi.observe.watchdog import dump_on_abort
from trifcgi.protocol import LISTENSOCK_FILENO
from trifcgi.server import UnixListener, address_of
from trifcgi.supervisor.board import Board, anonymous_file
from trifcgi.supervisor.policy import Member, Terms
from trifcgi.supervisor.process import Spawn, WorkerProcess
from trifcgi.supervisor.supervisor import Supervisor
from trifcgi.worker import (
    App,
    Listener,
    Worker,
    inherited_sockets,
    load,
    open_listeners,
    report_listening,
)

__all__ = ["launch"]

_Address: TypeAlias = Address | InheritedSocket

_log: Final = logging.getLogger("trifcgi")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_SIZE_SIGNALS: Final = (signal.SIGTTIN, signal.SIGTTOU)

# What a worker may take beyond the grace until it has stopped (seconds): 5 for cancelled requests,
# 10 for an ASGI app's shutdown, and a little for itself.
_OBEY_WITHIN: Final = 18.0

# Part of --start-timeout after which a worker says what it waits for: a little ahead of the
# supervisor, which ends it after the whole of it.
_LATE: Final = 0.9

# Room on the board for workers that are added later, or drain for long. One that finds none serves
# as well, and only shares the listeners less fairly.
_SPARE_SLOTS: Final = 16


def launch(configuration: Configuration) -> int:
    """Serve until a signal says stop.

    The app is loaded before the event loop runs, so that a module may run a loop of its
    own while it is imported, and before a listener is opened, so that a front end
    never meets a socket that nobody will answer on.

    Returns:
        the exit status: 0 after a stop that was asked for, 1 after a failure, which is
        on the log.

    Raises:
        ConfigurationError: the start failed over a mistake in the configuration, the app
            or its environment (an address that is taken, say).
    """
    set_up_logs(configuration.log_level, configuration.log_format)
    dump_on_abort()
    # Before anything is forked: systemd's are meant for this very process.
    inherited = inherited_sockets()
    try:
        with as_service(
            daemon=configuration.daemon,
            pid_file=configuration.pid_file,
            user=configuration.user,
            group=configuration.group,
        ) as service:
            return _run(configuration, configuration.listeners(inherited), service)
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 (the last border: every failure has its exit status)
        _log.exception("the server failed")
        return 1


def _run(configuration: Configuration, addresses: Sequence[_Address], service: Service) -> int:
    if configuration.workers is not None:
        return trio.run(_supervise, configuration, configuration.workers, addresses, service)
    if service.identity is None:
        return trio.run(_serve, configuration, load(configuration), addresses, service)
    # A loop of its own opens the sockets, and has ended by the time the app is loaded.
    opened = trio.run(_open, configuration, addresses)
    try:
        service.drop_privileges(_paths(opened.listeners))
        app = load(configuration)
    except BaseException:
        trio.run(opened.close)
        raise
    serve = partial(_serve, opened=opened)
    return trio.run(serve, configuration, app, addresses, service)


@attrs.frozen
class _Opened:
    """Sockets that were opened as another user than the one that serves them."""

    listeners: Sequence[Listener]
    control: ControlListeners | None

    async def close(self) -> None:
        for listener in self.listeners:
            await trio.aclose_forcefully(listener)
        if self.control is not None:
            await self.control.close()


async def _open(configuration: Configuration, addresses: Sequence[_Address]) -> _Opened:
    async with contextlib.AsyncExitStack() as stack:
        control = await _open_control(configuration, stack)
        listeners = await open_listeners(configuration, addresses, stack)
        stack.pop_all()
    return _Opened(listeners, control)


async def _open_control(
    configuration: Configuration, stack: contextlib.AsyncExitStack
) -> ControlListeners | None:
    """Open the control server's listeners, which the stack closes."""
    control = await open_control(configuration)
    if control is not None:
        stack.push_async_callback(control.close)
    return control


def _paths(listeners: Sequence[Listener]) -> list[Path]:
    return [listener.path for listener in listeners if isinstance(listener, UnixListener)]


# Without worker processes


async def _serve(
    configuration: Configuration,
    app: App,
    addresses: Sequence[_Address],
    service: Service,
    *,
    opened: _Opened | None = None,
) -> int:
    def tell_ready(listeners: Sequence[Listener]) -> None:
        report_listening(configuration, app.name, app.kind, listeners)
        service.ready([address_of(listener) for listener in listeners])

    counter = Metrics()
    worker = Worker(
        configuration,
        app,
        addresses,
        tell_ready,
        listeners=None if opened is None else opened.listeners,
        # Counting costs a tenth of a small request: only where somebody can ask.
        instruments=[counter] if configuration.has_control else [],
    )
    source = LocalSource(about(configuration, app.name, app.kind), worker, counter)
    failure: Exception | None = None
    # Signals count from before the first listener opens: what is sent while the app
    # starts up, which may take long, is obeyed as well.
    async with contextlib.AsyncExitStack() as stack:
        if opened is None:
            control = await _open_control(configuration, stack)
        else:
            control = opened.control
            stack.push_async_callback(opened.close)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey, signals, worker, service, name="trifcgi signals")
                nursery.start_soon(service.systemd.keep_watchdog)
                if control is not None:
                    nursery.start_soon(control.serve, source, name="trifcgi control server")
                    nursery.start_soon(source.watch, name="trifcgi loop lag")
                try:
                    await worker.run()
                except Exception as error:  # noqa: BLE001 (raised again below)
                    failure = error  # carried past the nursery, which would wrap it in a group
                nursery.cancel_scope.cancel(reason="the server has stopped")
    if failure is not None:
        raise failure
    if worker.cut:
        _log.error("requests cut: %d", worker.cut)
    _log.info("stopped")
    return 1 if worker.cut else 0


async def _obey(signals: AsyncIterator[int], worker: Worker, service: Service) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        match number:
            case signal.SIGHUP:
                _log.warning("SIGHUP: there are no worker processes to replace")
            case signal.SIGUSR1:
                worker.reopen_logs()
            case _:
                _log.info("%s received", name)
                service.systemd.stopping()
                worker.stop()


# With worker processes


async def _supervise(
    configuration: Configuration, workers: int, addresses: Sequence[_Address], service: Service
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        control = await _open_control(configuration, stack)
        listeners = await open_listeners(configuration, addresses, stack)
        service.drop_privileges(_paths(listeners))
        size = workers or available_cores()
        board = Board.create(_SPARE_SLOTS + 2 * size)
        stack.callback(board.close)
        spawned = InheritedSocket(LISTENSOCK_FILENO) in addresses
        grace = configuration.timeouts(spawned=spawned).grace

        def tell_ready(facts: dict[str, Any]) -> None:
            report_listening(configuration, facts["app"], facts["kind"], listeners)
            service.ready([address_of(listener) for listener in listeners])

        supervisor = Supervisor(
            Terms(
                size=size,
                obey_within=grace + _OBEY_WITHIN,
                ready_within=configuration.start_timeout,
                max_requests=configuration.max_worker_requests,
                max_rss=configuration.max_worker_rss,
            ),
            partial(_prepare, configuration, listeners, board, spawned),
            board,
            hang_timeout=configuration.hang_timeout,
            on_ready=tell_ready,
        )
        supervisor.tell_reload = service.reloading
        with trio.open_signal_receiver(*_SIGNALS, *_SIZE_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey_all, signals, supervisor, service, name="trifcgi signals")
                nursery.start_soon(service.systemd.keep_watchdog)
                nursery.start_soon(_close_on_stop, supervisor, listeners)
                if control is not None:
                    addressed = [address_of(listener) for listener in listeners]
                    fleet = _Fleet(supervisor, addressed, grace, service)
                    nursery.start_soon(_serve_control, control, configuration, fleet)
                status = await supervisor.run()
                nursery.cancel_scope.cancel(reason="the server has stopped")
        if supervisor.stopping.is_set():
            _log.info("stopped")
    return status


@contextlib.contextmanager
def _prepare(
    configuration: Configuration,
    listeners: Sequence[Listener],
    board: Board,
    spawned: bool,
    member: Member,
    control: int,
    slot: int,
) -> Iterator[Spawn]:
    """Write one worker's assignment, and say how to start it."""
    fds = [listener.socket.fileno() for listener in listeners]
    assignment = Assignment(
        configuration=configuration,
        number=member.number,
        listeners=fds,
        control=control,
        board=board.fd,
        slots=board.slots,
        handover=board.handover_fds,
        slot=slot,
        spawned=spawned,
        late_at=time.monotonic() + _LATE * configuration.start_timeout,
    )
    fd = anonymous_file("trifcgi assignment")
    try:
        assignment.write(fd)
        command = [*interpreter(), "-m", "trifcgi.child", str(fd)]
        yield Spawn(command, [*fds, control, board.fd, *board.handover_fds, fd])
    finally:
        os.close(fd)


@attrs.frozen
class _Fleet:
    """The supervisor, as the control server wants it."""

    supervisor: Supervisor
    addresses: Sequence[str]
    grace: float
    service: Service

    @property
    def members(self) -> Sequence[WorkerProcess]:
        return self.supervisor.members

    @property
    def restarts(self) -> int:
        return self.supervisor.restarts

    @property
    def killed(self) -> int:
        return self.supervisor.killed

    @property
    def draining(self) -> bool:
        return self.supervisor.draining

    def stop(self) -> None:
        self.supervisor.stop()

    def reload(self) -> None:
        self.supervisor.reload()

    def reopen_log(self) -> None:
        self.service.reopen_log()


async def _serve_control(
    control: ControlListeners, configuration: Configuration, fleet: _Fleet
) -> None:
    source = FleetSource(about_workers(configuration), fleet)
    fleet.supervisor.greet = source.bring_up_to_date
    fleet.supervisor.part = source.take_leave
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.watch, name="trifcgi counts of workers")
        await control.serve(source)


async def _close_on_stop(supervisor: Supervisor, listeners: Sequence[Listener]) -> None:
    # The workers close theirs; once ours are closed too the front end asks elsewhere.
    await supervisor.stopping.wait()
    for listener in listeners:
        await trio.aclose_forcefully(listener)


async def _obey_all(signals: AsyncIterator[int], supervisor: Supervisor, service: Service) -> None:
    async for number in signals:
        _log.info("%s received", signal.Signals(number).name)
        match number:
            case signal.SIGHUP:
                supervisor.reload()
            case signal.SIGUSR1:
                service.reopen_log()
                supervisor.reopen_logs()
            case signal.SIGTTIN:
                supervisor.add()
            case signal.SIGTTOU:
                supervisor.remove()
            case _:
                service.systemd.stopping()
                supervisor.stop()
