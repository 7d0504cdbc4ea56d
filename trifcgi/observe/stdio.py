"""The standard streams of a process: in the background, and at its end."""

import logging
import os
import stat
import sys
from pathlib import Path
from typing import IO, Final

__all__ = ["StderrFile", "is_regular", "let_go", "settle_stderr"]

_log: Final = logging.getLogger("trifcgi")

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
_MODE: Final = 0o640


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
