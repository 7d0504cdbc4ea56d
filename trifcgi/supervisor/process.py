"""One worker process: started, asked, told to stop, waited for."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import trio

from trifcgi.client import Client
from trifcgi.errors import ConnectionLost, Error
from trifcgi.supervisor.policy import Member, State

__all__ = [
    "FAREWELL",
    "READY",
    "REOPEN_LOGS",
    "RETIRE",
    "STATE",
    "Ending",
    "Prepare",
    "Spawn",
    "WorkerProcess",
]

READY: Final = "/worker/ready"
"""A worker's control handler answers this once the worker serves."""

STATE: Final = "/worker/state"
"""What a worker has done and how it is."""

FAREWELL: Final = "/worker/farewell"
"""A worker answers this with all that it has counted, once there is nothing left to count. It ends
when that has been read, or a second later."""

REOPEN_LOGS: Final = "/worker/reopen-logs"
"""A worker opens its log files anew (POST)."""

RETIRE: Final = "/worker/retire"
"""A worker takes nothing new and ends when its last request has (POST)."""


# What a worker that has ended has left behind may take so long to be read (seconds): a process
# of the application's own may hold the connection open.
_LAST_WORDS: Final = 1.0


@attrs.frozen
class Spawn:
    """How to start one worker process.

    Attributes:
        command: program and arguments.
        pass_fds: descriptors that it inherits.
    """

    command: Sequence[str]
    pass_fds: Sequence[int]


Prepare: TypeAlias = Callable[[Member, int, int], AbstractContextManager[Spawn]]
"""Called with a worker, its end of the control connection and its slot on the board; gives what
is needed for as long as it takes to start the process."""


@attrs.frozen
class Ending:
    """How a process has ended.

    Attributes:
        status: its exit status; ``None``: a signal, or it never started.
        text: in words.
    """

    status: int | None
    text: str

    @classmethod
    def of(cls, returncode: int) -> "Ending":
        """From what ``wait`` gave."""
        if returncode >= 0:
            return cls(returncode, f"exit status {returncode}")
        try:
            return cls(None, signal.Signals(-returncode).name)
        except ValueError:
            return cls(None, f"signal {-returncode}")


@attrs.define(eq=False)
class WorkerProcess:
    """A worker, from here.

    Attributes:
        member: the same, for the policy.
        slot: its place on the board.
        pid: its process ID; 0 before there is one.
        running: requests that ran when it was last asked.
    """

    member: Member
    slot: int
    pid: int = 0
    running: int = 0
    _process: trio.Process | None = None
    _client: Client | None = None
    _told: list[signal.Signals] = attrs.field(factory=list)

    @property
    def number(self) -> int:
        """Counts the workers from 1; never used again."""
        return self.member.number

    @property
    def generation(self) -> int:
        """Counts the reloads from 1."""
        return self.member.generation + 1

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``draining`` or ``ended``."""
        return "running" if self.member.state is State.SERVING else self.member.state.value

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, or have it get one as soon as there is a process."""
        if self._process is None:
            self._told.append(number)
        else:
            self._process.send_signal(number)

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """Have its control handler answer; return the status and the JSON value.

        Args:
            method: ``GET`` or ``POST``.
            path: with a query, where there is one.
            body: the request's body.

        Raises:
            trifcgi.Error: it cannot be asked, or its answer makes no sense.
        """
        if self._client is None:
            raise ConnectionLost(f"worker {self.number} is not there")
        info, _, query = path.partition("?")
        response = await self._client.request(
            {
                "REQUEST_METHOD": method,
                "REQUEST_URI": path,
                "SCRIPT_NAME": "",
                "PATH_INFO": info,
                "QUERY_STRING": query,
                "CONTENT_LENGTH": str(len(body)),
                "SERVER_PROTOCOL": "HTTP/1.1",
            },
            body,
        )
        try:
            return response.status, json.loads(response.body)
        except ValueError as error:
            raise Error(f"worker {self.number} gave no JSON for {path}") from error

    async def run(self, prepare: Prepare, talk: Callable[[], Any]) -> Ending:
        """Start the process and wait until it has ended. A cancel is SIGTERM, and SIGKILL after
        five seconds.

        Args:
            prepare: says how to start it.
            talk: an async function that runs while the control connection is there.
        """
        ours, theirs = socket.socketpair()
        ending = Ending(None, "cannot be started")
        with ours:
            try:
                with theirs, prepare(self.member, theirs.fileno(), self.slot) as spawn:
                    async with trio.open_nursery() as nursery:
                        start = partial(
                            trio.run_process,
                            spawn.command,
                            pass_fds=spawn.pass_fds,
                            stdin=subprocess.DEVNULL,
                            check=False,
                        )
                        process: trio.Process = await nursery.start(start)
                        theirs.close()
                        ending = await self._attend(process, ours, talk)
            except* OSError as group:
                ending = Ending(None, f"cannot be started: {_first(group)}")
        return ending

    async def _attend(
        self, process: trio.Process, sock: socket.socket, talk: Callable[[], Any]
    ) -> Ending:
        self._process, self.pid = process, process.pid
        for number in self._told:
            process.send_signal(number)
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._converse, stream, talk, name="trifcgi worker control")
            returncode = await process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
        return Ending.of(returncode)

    async def _converse(self, stream: trio.abc.Stream, talk: Callable[[], Any]) -> None:
        # A request that is given up needs no wait for the abort's answer: who gives one up here
        # does so because the worker answers nothing.
        async with Client(stream, abort_timeout=0) as self._client:
            try:
                await talk()
            except* Error:
                pass  # its process ends, or does not obey: both are looked after elsewhere
            finally:
                self._client = None


def _first(group: BaseExceptionGroup[OSError]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
