"""The standard streams of a process: at its start, in the background, and at its end."""

import logging
import os
import stat
import sys
from pathlib import Path
from typing import IO, Final

__all__ = ["StderrFile", "ensure_standard_streams", "is_regular", "let_go", "settle_stderr"]

_log: Final = logging.getLogger("trifcgi")

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_STREAMS: Final = (
    ("stdin", os.O_RDONLY, "r"),
    ("stdout", os.O_WRONLY, "w"),
    ("stderr", os.O_WRONLY, "w"),
)
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
_MODE: Final = 0o640


def ensure_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that this process was started without.

    What is open stays, whatever it is. To be called before anything else opens a file, which
    would be given the number that is free.

    Raises:
        OSError: /dev/null cannot be opened.
    """
    # §2.2 has a front end start an application with nothing but its listening socket, on 0, and
    # Python leaves closed what is closed. A pipe, the PID file or the event loop's descriptor
    # would get the number, and go when a daemon lets go of its standard streams.
    for fd, (name, flags, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, flags)  # the lowest number that is free: this one
            os.set_inheritable(null, True)
            # Python has None there, which applications that write to it do not expect.
            stream = os.fdopen(
                null, mode, 1, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)


class StderrFile:
    """Stderr, as it is when this is made.

    Attributes:
        path: of the regular file that it goes to; ``None`` where it goes elsewhere.
    """

    def __init__(self) -> None:
        self.path = _path_of(_STDERR)

    def reopen(self) -> None:
        """Open the file at that path again, or make it. What fails leaves all as it was."""
        if self.path is None:
            return
        try:
            fd = os.open(self.path, _FLAGS, _MODE)
        except OSError as error:
            _log.error("the log %s cannot be reopened: %s", self.path, error.strerror)
            return
        os.dup2(fd, _STDERR)
        os.close(fd)


def let_go() -> None:
    """Let go of whoever started this process: stdin is empty from here on, and stdout and
    stderr go nowhere, unless they were redirected to a file.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (_STDIN, _STDOUT, _STDERR):
        if fd == _STDIN or not is_regular(fd):
            os.dup2(null, fd)
    if null > _STDERR:
        os.close(null)


def settle_stderr() -> None:
    """Give up what stderr cannot take, a full disk say, as the process is about to end: Python
    would try once more, and make that the exit status (120).
    """
    stream: IO[str] | None = sys.stderr
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _STDERR)
        os.close(null)


def is_regular(fd: int) -> bool:
    """Whether a descriptor is a regular file, not a terminal, a pipe or nothing at all."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _path_of(fd: int) -> Path | None:
    if not is_regular(fd):
        return None
    try:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return path if path.samefile(f"/proc/self/fd/{fd}") else None
    except OSError:
        return None  # no /proc, or the file has been unlinked
