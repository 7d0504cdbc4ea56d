"""Python snippets as processes of their own, for what a test process cannot do to itself."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

import trifcgi

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


def others_can_run_python() -> bool:
    """Whether users other than this one reach the interpreter and what it imports."""
    return all(
        directory.stat().st_mode & 0o005 == 0o005
        for path in (sys.executable, os.__file__, trio.__file__, trifcgi.__file__)
        for directory in (Path(path), Path(path).resolve())
        for directory in directory.parents
    )
