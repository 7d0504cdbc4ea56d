"""The root of the program: start, signals, exit status."""

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Final

import trio

from trifcgi.config import Configuration
from trifcgi.errors import ConfigurationError
from trifcgi.observe.logs import set_up_logs
from trifcgi.worker import App, Worker, inherited_sockets, load

__all__ = ["launch"]

_log: Final = logging.getLogger("trifcgi")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


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
    inherited = inherited_sockets()
    app = load(configuration)
    try:
        trio.run(_serve, configuration, app, inherited)
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 (the last border: every failure has its exit status)
        _log.exception("the server failed")
        return 1
    return 0


async def _serve(configuration: Configuration, app: App, inherited: list[int]) -> None:
    worker = Worker(configuration, app, inherited, _tell_ready)
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
    _log.info("stopped")


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


def _tell_ready(addresses: list[str]) -> None:
    _notify(f"READY=1\nSTATUS=listening on {', '.join(addresses)}")


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
