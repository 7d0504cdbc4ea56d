"""A worker process: ``python -m trifcgi.child FD``, as the supervisor starts it.

It serves the app on listeners that it inherits, and a control handler on its end of a socket pair.
When the other end is gone, so is the supervisor, and the worker stops.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import attrs
import trio

from trifcgi.admin import ControlHandler, LocalSource
from trifcgi.apps.loader import format_cause
from trifcgi.apps.threads import threads_of
from trifcgi.cgi import encode_head
from trifcgi.config import OPTIONS, Configuration, InheritedSocket, Origin, Source
from trifcgi.control import about
from trifcgi.errors import AppLoadError, ConfigurationError
from trifcgi.limits import Timeouts
from trifcgi.observe import process
from trifcgi.observe.logs import set_up_logs
from trifcgi.observe.metrics import Metrics
from trifcgi.observe.stacks import format_tree, task_tree
from trifcgi.observe.stdio import settle_stderr
from trifcgi.observe.watchdog import dump_on_abort
from trifcgi.request import Request
from trifcgi.server import DataPlane
from trifcgi.supervisor.board import Board
from trifcgi.supervisor.process import FAREWELL, READY, REOPEN_LOGS, RETIRE, STATE
from trifcgi.worker import App, Worker, load

__all__ = ["Assignment", "interpreter", "main"]

_log: Final = logging.getLogger("trifcgi")

_USAGE_MISTAKE: Final = 2

# How long the supervisor may take to read the last answer (seconds).
_LAST_WORDS: Final = 1.0

_MOST_LINES: Final = 500

# A terminal sends some of them to all processes of a group: they are the supervisor's business.
_NOT_OURS: Final = (
    signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


@attrs.frozen
class Assignment:
    """What a worker is to do.

    Attributes:
        configuration: the effective options.
        number: the worker's, from 1.
        listeners: descriptors of the listening sockets.
        control: descriptor of the control connection.
        board: descriptor of the memory that all workers share.
        slots: how many workers that has room for.
        handover: descriptors of the sockets through which connections change hands.
        slot: this worker's; -1: none.
        spawned: whether a front end has started the supervisor.
        late_at: when it has to say what its start waits for (``time.monotonic()``, which is the
            same in all processes; seconds).
    """

    configuration: Configuration
    number: int
    listeners: Sequence[int]
    control: int
    board: int
    slots: int
    handover: Sequence[int]
    slot: int
    spawned: bool
    late_at: float

    def write(self, fd: int) -> None:
        """Write it into an empty file."""
        values = attrs.asdict(self, recurse=False)
        values["configuration"] = _values(self.configuration)
        values["directory"] = self.configuration.directory
        values["origins"] = {
            name: (origin.source, origin.where)
            for name, origin in self.configuration.origins.items()
        }
        data = json.dumps(values).encode()
        while data:
            data = data[os.write(fd, data) :]

    @classmethod
    def read(cls, fd: int) -> Self:
        """Read it back, and close the file."""
        with open(fd, "rb") as file:
            file.seek(0)
            values = json.loads(file.read())
        origins = {
            name: Origin(Source(source), where)
            for name, (source, where) in values.pop("origins").items()
        }
        values["configuration"] = Configuration(
            **{
                option.attribute: _value(name, values["configuration"][name])
                for name, option in OPTIONS.items()
            },
            origins=origins,
            directory=values.pop("directory"),
        )
        return cls(**values)


def _values(configuration: Configuration) -> dict[str, Any]:  # Any: what JSON has
    found = {name: getattr(configuration, option.attribute) for name, option in OPTIONS.items()}
    return {
        name: [str(part) for part in value] if isinstance(value, tuple) else value
        for name, value in found.items()
    }


def _value(name: str, value: Any) -> Any:  # Any: each option has a type of its own
    return OPTIONS[name].kind.from_toml(value) if isinstance(value, list) else value


def interpreter() -> list[str]:
    """The command of this interpreter, with the options that it was started with, for a child
    that sees the same modules.
    """
    flags = [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():
        flags.append(f"-X{name}" if value is True else f"-X{name}={value}")
    letters = {
        "I": sys.flags.isolated,
        "E": sys.flags.ignore_environment,
        "s": sys.flags.no_user_site,
        "S": sys.flags.no_site,
        "b": sys.flags.bytes_warning,
        "B": sys.flags.dont_write_bytecode,
        "O": sys.flags.optimize,
    }
    flags += ["-" + letter * times for letter, times in letters.items() if times]
    # With -m the current directory comes ahead of everything else. Only where this process has it
    # there too, a module of the application's must not hide one of the server's.
    if str(Path.cwd()) != sys.path[0]:
        flags.append("-P")
    return [sys.executable, *flags]


class Control:
    """What the supervisor may ask of this worker.

    Args:
        worker: what they ask about.
        app: what it serves.
        ready: is set once it does.
        counter: counts what it does.
        commands: answers for everything that operators ask.
    """

    def __init__(
        self,
        worker: Worker,
        app: App,
        ready: trio.Event,
        counter: Metrics,
        commands: ControlHandler,
    ) -> None:
        self._worker = worker
        self._commands = commands
        self._app = app
        self._ready = ready
        self._counter = counter
        self._stopped = trio.Event()
        self._left = trio.Event()

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        path = request.params.get("PATH_INFO", "")
        answer: dict[str, Any] = {}
        if path == READY:
            await self._ready.wait()
            answer = {"app": self._app.name, "kind": self._app.kind}
        elif path == STATE:
            answer = self._state()
        elif path == FAREWELL:
            await self._stopped.wait()
            answer = self._counter.counts()
        elif path == REOPEN_LOGS and request.params.get("REQUEST_METHOD") == "POST":
            self._worker.reopen_logs()
        elif path == RETIRE and request.params.get("REQUEST_METHOD") == "POST":
            self._worker.retire()
        else:
            await self._commands(request)
            return
        body = json.dumps(answer).encode()
        head = encode_head(200, [(b"Content-Type", b"application/json")])
        await request.stdout.send_all(head + body)

    def _state(self) -> dict[str, Any]:
        plane = self._worker.plane
        return {
            "begun": 0 if plane is None else plane.begun,
            "running": 0 if plane is None else plane.running,
            "draining": plane is not None and plane.draining,
            "rss": process.rss(),
        }

    async def serve(self, fd: int) -> None:
        """Answer the supervisor for as long as it is there."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        # The connection is idle while nobody wants anything: that is not a reason to close it.
        async with DataPlane(self, timeouts=Timeouts(keep_alive=None)) as plane:
            await plane.serve_stream(stream)
        self._left.set()
        if not self._stopped.is_set():
            _log.error("the supervisor is gone")
            self._worker.stop()

    async def part(self) -> None:
        """Tell the supervisor what was counted, now that there is nothing left to count, and wait
        until it has read that. One that is too busy to will read it later.
        """
        self._stopped.set()
        if self._ready.is_set():
            with trio.move_on_after(_LAST_WORDS):
                await self._left.wait()


def main() -> NoReturn:
    """Do what the assignment in the file with the descriptor ``sys.argv[1]`` says."""
    for number in _NOT_OURS:
        # A handler and not SIG_IGN, which the application's own child processes would inherit.
        signal.signal(number, _leave_to_the_supervisor)
    try:
        status = run(Assignment.read(int(sys.argv[1])))
    finally:
        settle_stderr()
    sys.exit(status)


def _leave_to_the_supervisor(number: int, frame: object) -> None:
    """Do nothing."""


def run(assignment: Assignment) -> int:
    """Serve, and give the exit status: 0; 1 after a failure, or where the stop has cut requests;
    2 after a usage mistake, which has been told on stderr.
    """
    configuration = assignment.configuration
    set_up_logs(configuration.log_level, configuration.log_format)
    _name_in_logs(assignment.number)
    dump_on_abort()
    try:
        app = load(configuration)
        return trio.run(_serve, assignment, app)
    except ConfigurationError as error:
        cause = format_cause(error) if isinstance(error, AppLoadError) else ""
        sys.stderr.write(f"{cause}trifcgi: {error}\n")
        return _USAGE_MISTAKE
    except Exception:  # noqa: BLE001 (the last border: every failure has its exit status)
        _log.exception("worker %d failed", assignment.number)
        return 1


def _name_in_logs(number: int) -> None:
    """Say in each of the server's log lines which worker it is from."""

    def name(record: logging.LogRecord) -> bool:
        record.msg = f"worker {number}: {record.msg}"
        return True

    for handler in logging.getLogger("trifcgi").handlers:
        handler.addFilter(name)


async def _serve(assignment: Assignment, app: App) -> int:
    giving, taking = (socket.socket(fileno=fd) for fd in assignment.handover)
    with contextlib.closing(Board(assignment.board, assignment.slots, giving, taking)) as board:
        return await _work(assignment, app, board)


async def _work(assignment: Assignment, app: App, board: Board) -> int:
    share = board.share(assignment.slot)
    ready = trio.Event()
    counter = Metrics()
    worker = Worker(
        assignment.configuration,
        app,
        [InheritedSocket(fd) for fd in assignment.listeners],
        lambda _: ready.set(),
        spawned=assignment.spawned,
        share=share,
        handover=board.handover(share),
        instruments=[counter] if assignment.configuration.has_control else [],
    )
    source = LocalSource(about(assignment.configuration, app.name, app.kind), worker, counter)
    control = Control(worker, app, ready, counter, ControlHandler(source))
    failure: Exception | None = None
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, worker, name="trifcgi signals")
            nursery.start_soon(control.serve, assignment.control, name="trifcgi control")
            task = trio.lowlevel.current_task()
            nursery.start_soon(_tell_late, task, ready, assignment.late_at)
            if assignment.configuration.has_control:
                nursery.start_soon(source.watch, name="trifcgi loop lag")
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 (raised again below)
                failure = error  # carried past the nursery, which would wrap it in a group
            await control.part()
            nursery.cancel_scope.cancel(reason="the worker has stopped")
    if assignment.slot >= 0:
        board.cut[assignment.slot] = worker.cut
    if failure is not None:
        raise failure
    return 1 if worker.cut else 0


async def _obey(signals: AsyncIterator[int], worker: Worker) -> None:
    async for _ in signals:
        worker.stop()


async def _tell_late(task: trio.lowlevel.Task, ready: trio.Event, late_at: float) -> None:
    """Say on the log what the app's startup waits for, when it takes too long.

    Args:
        task: the one that starts the app.
        ready: is set once the app has started.
        late_at: when to say it.
    """
    with trio.move_on_after(max(0.0, late_at - time.monotonic())):
        await ready.wait()
        return
    tree = task_tree(task, threads_of=threads_of)
    tree = attrs.evolve(tree, nurseries=tree.nurseries[1:])  # without this very task's
    _log.error("the app's startup takes long\n%s", format_tree(tree, most_lines=_MOST_LINES))


if __name__ == "__main__":
    main()
