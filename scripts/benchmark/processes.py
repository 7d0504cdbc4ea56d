"""Servers as processes: started on their cores, asked what they use, and stopped."""

import contextlib
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["HOME", "Running", "cores", "cpu_seconds", "on_cores", "raise_open_files"]

HOME = Path(__file__).parents[1]
"""Where the apps can be imported from."""

_ERROR = re.compile(r"(Error|Exception)\b.*:|^error", re.IGNORECASE)
_START = 30.0  # seconds that a server may take to start
# Seconds: how long a server may take to come to rest, how often it is looked at, and how much it
# uses between two looks that is rest.
_REST = 2.0
_LOOK = 0.01
_AT_REST = 0.0005


def cores() -> tuple[set[int], set[int]]:
    """Cores for the servers and for everything else; the same where there is only one."""
    have = sorted(os.sched_getaffinity(0))
    return ({have[0]}, {have[1]}) if len(have) > 1 else (set(have), set(have))


@contextlib.contextmanager
def on_cores(chosen: Collection[int]) -> Iterator[None]:
    """What is started meanwhile stays on those cores, from its first instruction on.

    A Go program, for one, asks only once how many there are.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files(wanted: int) -> int:
    """Let this process and its children have that many files open, if it may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
            return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def cpu_seconds(processes: Iterable[int]) -> float:
    """Processor time that they have used so far, in user and kernel mode."""
    seconds = 0.0
    for process in processes:
        with contextlib.suppress(OSError):
            # A process's CPU clock, as clock_getcpuclockid(3) makes its ID. It is the sum of utime
            # and stime in /proc/PID/stat, which counts in hundredths of a second.
            seconds += time.clock_gettime(~process << 3 | 2)
    return seconds


class Running:
    """A server: a process that leads a session, and all processes of that session.

    Args:
        name: for messages.
        command: with its arguments.
        log: where its output goes.
        chosen: the cores that it may use.
        environment: to be set besides this process's own, less TRIFCGI_* and PYTHON*.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        chosen: Collection[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        inherited = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(("TRIFCGI_", "PYTHON"))
        }
        with log.open("ab") as output, on_cores(chosen):
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=HOME,
                env=inherited | dict(environment or {}),
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """The IDs of its processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self._popen.pid:
                        found.append(int(entry.name))
        return found

    def rest(self) -> None:
        """Wait until it is done with what the load has left it, two seconds at most: connections
        that were closed, requests that were aborted.
        """
        until = time.monotonic() + _REST
        used = cpu_seconds(self.processes())
        while time.monotonic() < until:
            time.sleep(_LOOK)
            before, used = used, cpu_seconds(self.processes())
            if used - before < _AT_REST:
                break

    def open_files(self) -> int:
        """How many files, sockets among them, its processes have open."""
        folders = [Path(f"/proc/{process}/fd") for process in self.processes()]
        return sum(len(list(folder.iterdir())) for folder in folders)

    def memory(self) -> int:
        """Bytes of memory that its processes occupy."""
        kib = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Rss:"):
                        kib += int(line.split()[1])
        return kib * 1024

    def wait_for(self, address: str | tuple[str, int]) -> None:
        """Return once it takes connections.

        Raises:
            RuntimeError: it does not, in 30 seconds; the message has the last error in its log.
        """
        deadline = time.monotonic() + _START
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        while self._popen.poll() is None and time.monotonic() < deadline:
            with socket.socket(family) as probe, contextlib.suppress(OSError):
                probe.connect(address)
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"it does not serve: {self._last_words()}")

    def obituary(self) -> str | None:
        """What it said last, if it has ended; None while it runs."""
        if self._popen.poll() is None:
            return None
        return f"the server ended with {self._popen.returncode}: {self._last_words()}"

    def _last_words(self) -> str:
        lines = [line.strip(" |+-") for line in self.log.read_text(errors="replace").splitlines()]
        errors = [line for line in lines if _ERROR.search(line)]
        return next(filter(None, reversed(errors or lines)), "without a word")

    def ask_to_stop(self) -> None:
        """Have it begin to stop."""
        self._popen.terminate()

    def stop(self) -> None:
        """End it and its children."""
        processes = self.processes()
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process) == self._popen.pid:
                    os.kill(process, 9)
        self._popen.wait()
