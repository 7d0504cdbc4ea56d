"""``trifcgi`` as a process: started, read from, stopped."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

__all__ = ["Result", "Running", "run_trifcgi", "running"]

TRIFCGI = str(Path(sys.executable).parent / "trifcgi")
PATIENCE = 30.0
"""Seconds after which a test fails that waits for something; none waits so long otherwise."""


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would change what trifcgi does."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRIFCGI_", "LISTEN_", "NOTIFY_", "FCGI_"))
    }
    return {**inherited, "COLUMNS": "80", **(more or {})}


class Result:
    """What a ``trifcgi`` that has ended left: exit status, stdout, stderr."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]") -> None:
        self.status = process.returncode
        self.stdout: bytes = process.stdout
        self.stderr = process.stderr.decode()


async def run_trifcgi(
    *arguments: str,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    redirections: str = "",
) -> Result:
    """Run it to its end.

    Args:
        arguments: the command and its own.
        directory: the working directory.
        environment: what is set there beside what is inherited.
        stdin: what it reads.
        redirections: what a shell is to do to its descriptors: ``<&-`` closes stdin.
    """
    shell = ["sh", "-c", f'exec "$0" "$@" {redirections}'] if redirections else []
    with trio.fail_after(PATIENCE):
        return Result(
            await trio.run_process(
                [*shell, TRIFCGI, *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                stdin=stdin,
                cwd=directory,
                env=clean_environment(environment),
            )
        )


class Running:
    """A ``trifcgi run`` that has not ended yet.

    Attributes:
        process: the process.
        log: what it has written to stderr, as far as it was read.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.log = ""

    async def wait_for(self, pattern: str) -> "re.Match[str]":
        """Read stderr until it has a match."""
        assert self.process.stderr is not None
        with trio.fail_after(PATIENCE):
            while (match := re.search(pattern, self.log, re.MULTILINE)) is None:
                more = await self.process.stderr.receive_some()
                assert more, f"it ended before it said {pattern!r}:\n{self.log}"
                self.log += more.decode()
        return match

    async def wait_address(self) -> str:
        """The first address that it says it listens on."""
        return (await self.wait_for(r"listening on (\S+)\n"))[1]

    async def wait_end(self) -> int:
        """Read stderr to its end, and give the exit status."""
        assert self.process.stderr is not None
        with trio.fail_after(PATIENCE):
            async for more in self.process.stderr:
                self.log += more.decode()
            status = await self.process.wait()
        if status:
            sys.stdout.write(self.log)  # pytest shows it with a test that expected 0
        return status

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit status."""
        self.process.send_signal(number)
        return await self.wait_end()


@asynccontextmanager
async def running(
    *arguments: str,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (TRIFCGI, "run"),
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Running]:
    """Run ``trifcgi run`` in the background; killed when the block is left before it ended."""
    process = await trio.lowlevel.open_process(
        [*command, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        env=clean_environment(environment),
        pass_fds=pass_fds,
    )
    try:
        yield Running(process)
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()
