"""A file of log lines that never blocks, and never fails its writer."""

import logging
import os
import select
import stat
from collections.abc import Callable
from typing import Final

__all__ = ["FLUSH_SIZE", "STDOUT", "LogFile"]

_log: Final = logging.getLogger("trifcgi.access_log")

STDOUT: Final = "-"
_STDOUT_FD: Final = 1
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FLUSH_SIZE: Final = 64 * 1024
"""Bytes of lines that are written without waiting for more."""
_MOST_UNSENT: Final = 1 << 20
_PIPE_BUF: Final = 4096  # PIPE_BUF of Linux; POSIX promises an eighth of it


class LogFile:
    """Lines appended to a file, a pipe or a terminal.

    Lines are collected, and written by :meth:`flush` or when 64 KiB have come together.
    What cannot be written (the disk is full, the reader is gone, or is 1 MiB behind) is
    dropped and counted; the log is told once when that begins and once when it ends.

    Args:
        path: the file, created where it does not exist; ``-`` is stdout. Absolute where the
            current directory may change before :meth:`reopen`.
        name: what messages call it; its path by default.

    Attributes:
        lost: lines dropped so far.
        lines: those that have come together, one or more in a piece, always in the same list.
            Whoever appends to it calls :meth:`flush` once they are :data:`FLUSH_SIZE` long.
        complete: called before the lines are looked at: append those that are still to be formed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, *, name: str | None = None) -> None:
        self.lost = 0
        self._path = path
        self._name = "stdout" if path == STDOUT else name or path
        self.lines: list[bytes] = []
        self.complete: list[Callable[[], object]] = []
        self._size = 0
        self._unsent = bytearray()
        self._torn = False
        self._lost_before: int | None = None
        self._fd = self._open()
        self._regular = _is_regular(self._fd)

    @property
    def interactive(self) -> bool:
        """Whether somebody may be watching, so that lines should come without delay."""
        return os.isatty(self._fd)

    @property
    def empty(self) -> bool:
        """Whether every line has been written or dropped."""
        self._complete()
        return not self.lines and not self._unsent

    def add(self, line: bytes) -> None:
        """Append a line, given with its newline. Never raises."""
        self.lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what has come together, as far as it goes without waiting. Never raises."""
        self._complete()
        self._unsent += b"".join(self.lines)
        self.lines.clear()
        self._size = 0
        if not self._unsent:
            return
        try:
            self._write()
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return
        if len(self._unsent) > _MOST_UNSENT:
            self._give_up("its reader is too slow")
        elif self._lost_before is not None and not self._unsent:
            lost = self.lost - self._lost_before
            self._lost_before = None
            _log.warning("%s can be written again; lines lost: %d", self._name, lost)

    def reopen(self) -> None:
        """Go on in a new file of the same name, after the old one was moved away.

        Where that fails the old one stays in use. Stdout stays what it is.
        """
        self.flush()
        if self._path == STDOUT:
            return
        try:
            fd = self._open()
        except OSError as error:
            _log.error("%s cannot be reopened: %s", self._name, error.strerror)
            return
        os.close(self._fd)
        self._fd = fd
        self._regular = _is_regular(fd)
        self._torn = False
        if self._unsent.startswith(b"\n"):
            del self._unsent[:1]  # the line that it ends is in the old file
        _log.info("%s is reopened", self._name)

    def close(self) -> None:
        """Write what is left, as far as it goes without waiting, and close the file."""
        self.flush()
        if self._path != STDOUT:
            os.close(self._fd)

    def _complete(self) -> None:
        for complete in self.complete:
            complete()

    def _open(self) -> int:
        return _STDOUT_FD if self._path == STDOUT else os.open(self._path, _FLAGS, 0o666)

    def _write(self) -> None:
        while self._unsent and self._writable():
            chunk = self._unsent if self._regular else self._unsent[:_PIPE_BUF]
            try:
                sent = os.write(self._fd, chunk)
            except BlockingIOError:
                return
            self._torn = chunk[sent - 1] != ord("\n")
            del self._unsent[:sent]

    def _writable(self) -> bool:
        # A regular file takes bytes at once. A pipe may not, and stdout must not be made
        # non-blocking, as it shares that flag with other processes; but a pipe that
        # polls writable takes PIPE_BUF bytes without waiting (POSIX).
        if self._regular:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _give_up(self, why: str) -> None:
        if self._lost_before is None:
            self._lost_before = self.lost
            _log.error("%s cannot be written: %s; lines are lost until it can be",
                       self._name, why)  # fmt: skip
        mended = self._unsent.startswith(b"\n")
        self.lost += self._unsent.count(b"\n") - mended
        # A line that was cut gets its end before the next one begins.
        self._unsent = bytearray(b"\n" if self._torn else b"")


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)
