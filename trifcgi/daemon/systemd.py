"""Telling systemd how it goes (``sd_notify(3)``), where that has asked to be told."""

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final, Self

import trio

__all__ = ["Systemd"]

_log: Final = logging.getLogger("trifcgi")


class Systemd:
    """The socket that systemd listens on. Without one nothing is sent.

    Args:
        path: ``NOTIFY_SOCKET``: a path, or ``@`` and a name in the abstract namespace.
        watchdog: seconds within which it wants to hear from us; ``None``: it does not care.
    """

    def __init__(self, path: str | None = None, watchdog: float | None = None) -> None:
        self._path = path
        self.watchdog = watchdog
        self._is_ready = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """What systemd has set for this process."""
        path = environ.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return cls()
        return cls(path, _watchdog(environ))

    def ready(self, addresses: Sequence[str], *, main_pid: int | None = None) -> None:
        """The listeners take connections.

        Args:
            addresses: where.
            main_pid: the process to be watched from here on, where it is not the one that
                systemd has started.
        """
        self._is_ready = True
        text = f"READY=1\nSTATUS=listening on {', '.join(addresses)}"
        self.notify(text if main_pid is None else f"{text}\nMAINPID={main_pid}")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows: one line."""
        self.notify(f"STATUS={text}")

    def reloading(self) -> None:
        """A reload has begun; :meth:`ready` or :meth:`reloaded` ends it."""
        # What Type=notify-reload (systemd 253) goes by.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def reloaded(self) -> None:
        """A reload has ended, well or not: what serves now is ready."""
        self.notify("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self.notify("STOPPING=1")

    async def keep_watchdog(self) -> None:
        """Say that the event loop is alive, for as long as it is; until cancelled.

        Returns at once where systemd does not ask. A loop that does not come round says
        nothing, whereupon systemd sends SIGABRT (``WatchdogSec=``). It counts from READY on, so
        nothing is said before: the few messages that its socket holds must not be these ones.
        """
        if self.watchdog is None:
            return
        while True:
            if self._is_ready:
                self.notify("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)

    def notify(self, message: str) -> None:
        """Send lines of ``NAME=value``. What cannot be sent is a warning on the log."""
        if self._path is None:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.sendto(message.encode(), socket.MSG_DONTWAIT, address)
        except OSError as error:
            what = message.partition("\n")[0]
            _log.warning("systemd cannot be told %s: %s", what, error.strerror)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    # For another process, our parent say, that has left its environment to us.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
