"""Python snippets as processes of their own, for what a test process cannot do to itself."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 30.0
"""Seconds after which a test fails that waits for something; none waits so long otherwise."""


def run_python(
    code: str, *arguments: str | os.PathLike[str], stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[bytes]":
    """Run ``code`` to the end of the process that was started."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=PATIENCE,
        check=False,
    )


def wait_until(seen: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
