"""Going to the background, with a terminal that hears how the start went.

Two forks, as ever: the first makes a process that is no group leader, so that it can begin a
session of its own; the second one that leads no session, so that no terminal it opens
becomes its own. The process in between stays until the start is over, and hands the
outcome on: whatever ends the daemon before it is ready, a sentence and a status, a signal, a
crash, the terminal gets it.
"""

import contextlib
import logging
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

from trifcgi.observe.stdio import is_regular, let_go

__all__ = ["Background", "go_to_background"]

_log: Final = logging.getLogger("trifcgi")

_STDERR: Final = 2
_READY: Final = b"r"
_FAILED: Final = 1

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def go_to_background() -> "Background":
    """Go on in a background process; the calling one waits for it and exits.

    It exits with 0 once :meth:`Background.ready` is called. When the background process ends
    before that, it exits with that one's status. Until then stdin, stdout and stderr are
    shared, and SIGINT, SIGTERM and SIGHUP are passed on.

    To be called before there are threads, an event loop, or anything written to a buffer
    that both processes would flush. The working directory and the umask stay.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = _fork()
    if child:
        _exit_as(child)
    os.setsid()
    reader, writer = os.pipe()
    child = _fork()
    if child:
        os.close(writer)
        _exit_when_ready(child, reader)
    os.close(reader)
    return Background(writer)


def _fork() -> int:
    """Fork; a signal that comes to the parent from here on goes to the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:
        _forward_signals(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _exit_as(child: int) -> NoReturn:
    _, status = os.waitpid(child, 0)
    # Past every handler and buffer: they are the background process's now.
    os._exit(_exit_status(status))


def _exit_when_ready(child: int, reader: int) -> NoReturn:
    # Nobody answers EOF with success: the end of a process closes its pipe, too.
    if os.read(reader, 1) == _READY:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os._exit(_exit_status(status) or _FAILED)


def _forward_signals(child: int) -> None:
    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)


def _exit_status(wait_status: int) -> int:
    status = os.waitstatus_to_exitcode(wait_status)
    return status if status >= 0 else 128 - status  # as shells tell of signals


class Background:
    """The background process's side of its start."""

    def __init__(self, writer: int) -> None:
        self._writer: int | None = writer
        os.set_inheritable(writer, False)

    def ready(self) -> None:
        """Say that the start went well, and let go of the terminal.

        What stdout and stderr were redirected to stays if it is a file; anything else (a
        terminal, a pipe whose reader waits for its end) is let go of.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not is_regular(_STDERR):
            _log.info("the log ends here, in the background; 2>>FILE keeps it")
        let_go()
        # The process that reads it may have been killed, and what is written is no news then.
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, _READY)
        os.close(writer)
