"""How many system calls a server makes, as strace counts them."""

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .contenders import BUILT, find_program

__all__ = ["Counter", "read_summary"]

_ATTACHING = 10.0  # seconds
_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


def read_summary(text: str) -> dict[str, int]:
    """The calls in the table that ``strace -c`` prints, by their names."""
    return {name: int(count) for count, name in _LINE.findall(text) if name != "total"}


class Counter:
    """Counts with strace."""

    def __init__(self) -> None:
        self.program = find_program("strace")

    def obstacle(self) -> str | None:
        """Why nothing can be counted here, or None if it can."""
        if self.program is None:
            reason = BUILT / "left-out" / "strace"
            return reason.read_text().strip() if reason.is_file() else "there is no strace"
        tried = subprocess.run(
            [self.program, "-qq", "-o", "/dev/null", "true"],
            check=False,
            capture_output=True,
            text=True,
        )
        return tried.stderr.strip() or "strace may not trace here" if tried.returncode else None

    @contextlib.contextmanager
    def counting(self, processes: Sequence[int]) -> Iterator[dict[str, int]]:
        """Count what these processes do meanwhile; what is yielded is filled at the end.

        Raises:
            RuntimeError: strace does not attach to them.
        """
        assert self.program is not None
        counted: dict[str, int] = {}
        with tempfile.TemporaryDirectory(prefix="trifcgi-bench-") as directory:
            table = Path(directory) / "table"
            command = [self.program, "-c", "-f", "-o", str(table)]
            for process in processes:
                command += ["-p", str(process)]
            tracer = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                _await_attached(tracer, processes)
                yield counted
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.wait(_ATTACHING)
            counted.update(read_summary(table.read_text()))


def _await_attached(tracer: "subprocess.Popen[bytes]", processes: Sequence[int]) -> None:
    deadline = time.monotonic() + _ATTACHING
    tasks = [task for process in processes for task in Path(f"/proc/{process}/task").iterdir()]
    while time.monotonic() < deadline:
        if all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks):
            return
        if tracer.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError("strace did not attach")
