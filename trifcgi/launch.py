"""The root of the program: start, signals, exit status."""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any, Final

import trio

from trifcgi.child import Assignment, interpreter
from trifcgi.config import Configuration, InheritedSocket, available_cores
from trifcgi.errors import ConfigurationError
from trifcgi.observe.logs import set_up_logs
from trifcgi.observe.watchdog import dump_on_abort
from trifcgi.protocol import LISTENSOCK_FILENO
from trifcgi.server import address_of
from trifcgi.supervisor.board import Board, anonymous_file
from trifcgi.supervisor.policy import Member, Terms
from trifcgi.supervisor.process import Spawn
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

_log: Final = logging.getLogger("trifcgi")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_SIZE_SIGNALS: Final = (signal.SIGTTIN, signal.SIGTTOU)

# What a worker may take beyond the grace until it has stopped (seconds): 5 for cancelled requests,
# 10 for an ASGI app's shutdown, and a little for itself.
_OBEY_WITHIN: Final = 18.0

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
    inherited = inherited_sockets()
    try:
        if configuration.workers is not None:
            return trio.run(_supervise, configuration, configuration.workers, inherited)
        return trio.run(_serve, configuration, load(configuration), inherited)
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 (the last border: every failure has its exit status)
        _log.exception("the server failed")
        return 1


# Without worker processes


async def _serve(configuration: Configuration, app: App, inherited: list[int]) -> int:
    def tell_ready(listeners: Sequence[Listener]) -> None:
        report_listening(configuration, app.name, app.kind, listeners)
        _tell_ready(listeners)

    worker = Worker(configuration, app, configuration.listeners(inherited), tell_ready)
    failure: Exception | None = None
    # Signals count from before the first listener opens: what is sent while the app
    # starts up, which may take long, is obeyed as well.
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, worker, name="trifcgi signals")
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


async def _obey(signals: AsyncIterator[int], worker: Worker) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        match number:
            case signal.SIGHUP:
                _log.warning("SIGHUP: there are no worker processes to replace")
            case signal.SIGUSR1:
                worker.reopen_logs()
            case _:
                _log.info("%s received", name)
                _notify("STOPPING=1")
                worker.stop()


# With worker processes


async def _supervise(configuration: Configuration, workers: int, inherited: list[int]) -> int:
    addresses = configuration.listeners(inherited)
    async with contextlib.AsyncExitStack() as stack:
        listeners = await open_listeners(configuration, addresses, stack)
        size = workers or available_cores()
        board = Board.create(_SPARE_SLOTS + 2 * size)
        stack.callback(board.close)
        spawned = InheritedSocket(LISTENSOCK_FILENO) in addresses

        def tell_ready(facts: dict[str, Any]) -> None:
            report_listening(configuration, facts["app"], facts["kind"], listeners)
            _tell_ready(listeners)

        supervisor = Supervisor(
            Terms(
                size=size,
                obey_within=configuration.timeouts(spawned=spawned).grace + _OBEY_WITHIN,
                max_requests=configuration.max_worker_requests,
                max_rss=configuration.max_worker_rss,
            ),
            partial(_prepare, configuration, listeners, board, spawned),
            board,
            hang_timeout=configuration.hang_timeout,
            on_ready=tell_ready,
        )
        with trio.open_signal_receiver(*_SIGNALS, *_SIZE_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey_all, signals, supervisor, name="trifcgi signals")
                nursery.start_soon(_close_on_stop, supervisor, listeners)
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
    )
    fd = anonymous_file("trifcgi assignment")
    try:
        assignment.write(fd)
        command = [*interpreter(), "-m", "trifcgi.child", str(fd)]
        yield Spawn(command, [*fds, control, board.fd, *board.handover_fds, fd])
    finally:
        os.close(fd)


async def _close_on_stop(supervisor: Supervisor, listeners: Sequence[Listener]) -> None:
    # The workers close theirs; once ours are closed too the front end asks elsewhere.
    await supervisor.stopping.wait()
    for listener in listeners:
        await trio.aclose_forcefully(listener)


async def _obey_all(signals: AsyncIterator[int], supervisor: Supervisor) -> None:
    async for number in signals:
        _log.info("%s received", signal.Signals(number).name)
        match number:
            case signal.SIGHUP:
                supervisor.reload()
            case signal.SIGUSR1:
                supervisor.reopen_logs()
            case signal.SIGTTIN:
                supervisor.add()
            case signal.SIGTTOU:
                supervisor.remove()
            case _:
                _notify("STOPPING=1")
                supervisor.stop()


# systemd


def _tell_ready(listeners: Sequence[Listener]) -> None:
    addresses = ", ".join(address_of(listener) for listener in listeners)
    _notify(f"READY=1\nSTATUS=listening on {addresses}")


def _notify(message: str) -> None:
    """Tell systemd, where it asked to be told (``sd_notify(3)``)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), socket.MSG_DONTWAIT, address)
    except OSError as error:
        _log.warning("systemd cannot be told %s: %s", message.partition("\n")[0], error.strerror)
