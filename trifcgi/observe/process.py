"""What the operating system and the event loop say about this process."""

import gc
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import trio

__all__ = ["LoopLag", "garbage", "open_files", "peak_rss", "rss"]

_PAGE: Final = resource.getpagesize()
_STATM: Final = Path("/proc/self/statm")
_FDS: Final = Path("/proc/self/fd")

# ru_maxrss is in KiB on Linux and in bytes on macOS.
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


def rss() -> int:
    """Resident memory in bytes; where there is no ``/proc``, the most that there ever was."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE
    except OSError:
        return peak_rss()


def peak_rss() -> int:
    """The most resident memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def open_files() -> int | None:
    """File descriptors in use; ``None`` where the system does not say."""
    try:
        return sum(1 for _ in _FDS.iterdir()) - 1  # without the one that reads the directory
    except OSError:
        return None


def garbage() -> dict[str, Any]:
    """The state of Python's garbage collector, as JSON can hold it."""
    return {
        "enabled": gc.isenabled(),
        "counts": list(gc.get_count()),
        "thresholds": list(gc.get_threshold()),
        "frozen": gc.get_freeze_count(),
        "generations": gc.get_stats(),
    }


class LoopLag:
    """How late the event loop is: the time by which it missed its appointments.

    :meth:`run` has to run beside the server. It wakes up once a second, which costs an idle
    process about 0.005 % of a core; what blocks the loop shows up when it is over.

    Attributes:
        last: the latest lag, in seconds.
    """

    INTERVAL: Final = 1.0
    """Seconds between two appointments."""

    KEPT: Final = 60
    """Appointments that :attr:`worst` looks back on."""

    def __init__(self) -> None:
        self.last = 0.0
        self._recent: deque[float] = deque(maxlen=self.KEPT)

    @property
    def worst(self) -> float:
        """The greatest lag within the last minute, in seconds."""
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Keep appointments until cancelled."""
        # Not the trio clock: what is to be seen is how late that runs.
        while True:
            due = time.monotonic() + self.INTERVAL
            await trio.sleep(self.INTERVAL)
            self.last = max(0.0, time.monotonic() - due)
            self._recent.append(self.last)
