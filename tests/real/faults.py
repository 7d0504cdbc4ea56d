"""Faults that happen to a server from outside, without a change to its code."""

import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["BreakableControl", "full_disk"]

# Runs trifcgi with a thread beside it that takes its control listener away: shut down, a listening
# socket fails every accept with EINVAL, until it listens again.
_LAUNCHER = """
import os, socket, sys, threading, time
from pathlib import Path
port, here = int(sys.argv.pop(1)), Path(__file__).parent

def listener():
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and found.family == socket.AF_INET and found.getsockname()[1] == port:
            return found
        found.close()

def watch():
    found = None
    while True:
        time.sleep(0.01)
        if found is None and (here / "break").exists():
            found = listener()
            found.shutdown(socket.SHUT_RDWR)
        elif found is not None and not (here / "break").exists():
            found.listen()
            found.close()
            found = None

threading.Thread(target=watch, daemon=True).start()
from trifcgi.cli import main
main()
"""


@attrs.frozen
class BreakableControl:
    """A trifcgi whose control server can be made to crash, again and again.

    Attributes:
        directory: where it is started; for two small files.
        port: the control server's.
    """

    directory: Path
    port: int

    @property
    def program(self) -> list[str]:
        """The command, in place of ``trifcgi``."""
        launcher = self.directory / "launch_trifcgi.py"
        launcher.write_text(_LAUNCHER)
        return [sys.executable, str(launcher), str(self.port)]

    @contextmanager
    def broken(self) -> Iterator[None]:
        """It crashes whenever it starts, for as long as the block lasts."""
        mark = self.directory / "break"
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()


@contextmanager
def full_disk(pids: Iterable[int], size: int) -> Iterator[None]:
    """For some processes a file can be no larger than ``size`` bytes, for as long as the block
    lasts: as on a full disk, a write goes as far as there is room, and then fails.
    """
    before = {
        pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        for pid in pids
    }
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
