"""A file with this process's ID in it, and no second server beside it."""

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trifcgi.errors import ConfigurationError

__all__ = ["PidFile"]

_MODE: Final = 0o644
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST: Final = 32


class PidFile:
    """A PID file, held from ``__enter__`` to ``__exit__``.

    What says that a server is alive is a lock on the file, which the system drops with the
    process however that ends. The number in it may be anybody's by then, so a file that
    nobody has locked is stale and is replaced.

    Args:
        path: the file. Its directory must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._absolute = self.path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Write this process's ID.

        Raises:
            ConfigurationError: another server holds the file, or it is something else.
        """
        fd = self._open()
        try:
            # The app may have changed the directory by the time that the file is removed.
            self._absolute = self.path.absolute()
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(fd)
            raise self._unusable(error) from error
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the file; empty it where its directory is not ours to change any more."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            if _leads_to(self._absolute, fd):
                self._absolute.unlink()
        except OSError:
            # Opened as root in /run, left as somebody else.
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _open(self) -> int:
        """Open and lock it."""
        while True:
            try:
                fd = os.open(self.path, _FLAGS, _MODE)
            except OSError as error:
                raise self._unusable(error) from error
            try:
                self._lock(fd)
            except BaseException:
                os.close(fd)
                raise
            if _leads_to(self.path, fd):
                return fd
            # Its last owner has removed it between our two steps.
            os.close(fd)

    def _lock(self, fd: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigurationError(f"the PID file {self.path} is no regular file")
        held = os.pread(fd, _LONGEST, 0).strip()
        if held and not held.isdigit():
            raise ConfigurationError(
                f"the PID file {self.path} holds something else than a process ID;"
                " remove it or name another path"
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = f"process {held.decode()}" if held else "another process"
            raise ConfigurationError(
                f"{who} is running with the PID file {self.path}: stop it or name another path"
            ) from None

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"the PID file {self.path} cannot be written: {error.strerror}")


def _leads_to(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
