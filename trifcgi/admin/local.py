"""The commands for the data plane of this process."""

import gc
import logging
import os
import platform
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import attrs
import trio

from trifcgi._version import __version__
from trifcgi.admin.source import About, CommandFailed, Data
from trifcgi.admin.views import (
    count_tasks,
    describe_connection,
    describe_request,
    describe_task,
    params_of,
)
from trifcgi.apps.threads import ThreadPool, threads_of
from trifcgi.limits import Limits
from trifcgi.observe import metrics, process
from trifcgi.observe.instrument import StopReason
from trifcgi.observe.masking import MASK, is_secret
from trifcgi.observe.stacks import request_tree, task_tree
from trifcgi.observe.trace import Tracer
from trifcgi.server import DataPlane
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase

__all__ = ["Controls", "LocalSource", "describe_settings"]

# Frames of each allocation that tracemalloc keeps: enough to see who asked for it; each costs.
_MEMORY_FRAMES: Final = 5


class Controls(Protocol):
    """What has to be asked of whoever runs the data plane."""

    @property
    def plane(self) -> DataPlane | None:
        """The data plane, once it takes requests."""

    @property
    def addresses(self) -> Sequence[str]:
        """What it listens on; once it drains, what it listened on."""

    @property
    def lines_lost(self) -> int:
        """Lines that a log of this process could not take."""

    def stop(self) -> None:
        """Stop gracefully; called a second time, at once."""

    def reopen_logs(self) -> None:
        """Open the log files anew."""


class LocalSource:
    """Answers for one data plane, in the event loop that it runs in.

    :meth:`watch` has to run beside it.

    Args:
        about: what is served.
        controls: runs the data plane.
        counter: counts what that does, being among its instruments.

    Attributes:
        lag: watches the event loop.
    """

    def __init__(self, about: About, controls: Controls, counter: metrics.Metrics) -> None:
        self._about = about
        self._controls = controls
        self._tracer: Tracer | None = None
        self._counter = counter
        self.lag = process.LoopLag()

    async def watch(self) -> None:
        """Watch the event loop until cancelled."""
        await self.lag.run()

    # Reading

    async def health(self) -> Data:
        """See :class:`~trifcgi.admin.source.Source`, as for all that follow."""
        return {"healthy": True, "version": __version__}

    async def ready(self) -> Data:
        return {"ready": self._state() == "running", "state": self._state()}

    async def status(self) -> Data:
        state = self._state()
        worker = self._worker()
        return {
            "version": __version__,
            "python": platform.python_version(),
            "trio": trio.__version__,
            "app": self._about.app,
            "kind": self._about.kind,
            "pid": os.getpid(),
            "began": self._about.began,
            "uptime": round(time.time() - self._about.began, 3),
            "ready": state == "running",
            "state": state,
            "listeners": list(self._controls.addresses),
            "connections": worker["connections"],
            "requests": worker["requests"],
            "totals": worker["totals"],
            "threads": worker["threads"],
            "restarts": 0,
            "workers": [worker],
        }

    def _worker(self) -> Data:
        plane = self._controls.plane
        return {
            "number": 0,
            "pid": os.getpid(),
            "generation": 1,
            "state": self._state(),
            "answers": True,
            "uptime": round(time.time() - self._about.began, 3),
            "rss": process.rss(),
            "lag": round(self.lag.worst, 6),
            "connections": 0 if plane is None else plane.connections,
            "requests": 0 if plane is None else plane.running,
            "threads": self._threads(),
            "totals": metrics.totals(self._counter.counts()),
        }

    def _state(self) -> str:
        plane = self._controls.plane
        if plane is None:
            return "starting"
        return "draining" if plane.draining else "running"

    def _threads(self) -> Data:
        plane = self._controls.plane
        pool = getattr(plane.handler, "pool", None) if plane is not None else None
        crew = pool.crew if isinstance(pool, ThreadPool) else None
        if crew is None:
            return {"size": 0, "busy": 0, "waiting": 0, "abandoned": 0}
        return {
            "size": crew.size,
            "busy": crew.busy,
            "waiting": crew.waiting,
            "abandoned": crew.abandoned,
        }

    async def requests(self) -> Data:
        now = trio.current_time()
        return {"requests": [describe_request(each, now) for each in self._exchanges()]}

    async def request(self, id: str) -> Data:
        exchange = self._find(id)
        found = describe_request(exchange, trio.current_time())
        tree = request_tree(exchange, threads_of)
        found["params"] = params_of(exchange)
        found["task"] = None if tree is None else describe_task(tree)
        return {"request": found}

    async def tasks(self) -> Data:
        root = trio.lowlevel.current_root_task()
        assert root is not None  # there is one wherever this can run
        tree = describe_task(task_tree(root, self._exchanges(), threads_of))
        return {
            "workers": [
                {"number": 0, "pid": os.getpid(), "tasks": count_tasks(tree), "tree": tree}
            ]
        }

    async def connections(self) -> Data:
        plane = self._controls.plane
        now = trio.current_time()
        found = [] if plane is None else plane.open_connections()
        return {"connections": [describe_connection(each, now) for each in found]}

    async def memory(self, top: int) -> Data:
        tracing = tracemalloc.is_tracing()
        found: Data = {
            "number": 0,
            "pid": os.getpid(),
            "rss": process.rss(),
            "peak_rss": process.peak_rss(),
            "open_files": process.open_files(),
            "gc": process.garbage(),
            "tracing": tracing,
        }
        if tracing:
            # In a thread, as it takes seconds where much is allocated.
            found["traced"] = tracemalloc.get_traced_memory()[0]
            found["top"] = await trio.to_thread.run_sync(_allocations, top)
        return {"workers": [found]}

    async def config(self) -> Data:
        plane = self._controls.plane
        return {
            "options": describe_settings(self._about),
            "limits": {} if plane is None else attrs.asdict(plane.limits),
        }

    async def metrics(self) -> Data:
        worker = self._worker()
        lost = self._controls.lines_lost
        worker |= {"open_files": process.open_files(), "log_lines_lost": lost}
        return {
            "version": __version__,
            "python": platform.python_version(),
            "app": self._about.app,
            "kind": self._about.kind,
            "ready": self._state() == "running",
            "uptime": time.time() - self._about.began,
            "restarts": 0,
            "counts": self._counter.counts(),
            "workers": [worker],
        }

    def _exchanges(self) -> list[Exchange]:
        plane = self._controls.plane
        return [] if plane is None else plane.exchanges()

    def _find(self, id: str) -> Exchange:
        for exchange in self._exchanges():
            if str(exchange.number) == id:
                return exchange
        raise CommandFailed(404, f"There is no request {id}: it has ended, or never was.")

    # Changing

    async def cancel(self, id: str) -> Data:
        exchange = self._find(id)
        if exchange.phase is Phase.PARAMS:
            raise CommandFailed(409, f"Request {id} has not begun: its params are not whole.")
        exchange.stop(StopReason.CANCELLED)
        return {"cancelled": id}

    async def stop(self, now: bool) -> Data:
        plane = self._controls.plane
        if now and (plane is None or not plane.draining):
            self._controls.stop()
        self._controls.stop()
        return self._stopping()

    async def drain(self) -> Data:
        plane = self._controls.plane
        if plane is None or not plane.draining:
            self._controls.stop()
        return self._stopping()

    def _stopping(self) -> Data:
        plane = self._controls.plane
        grace = 0.0 if plane is None else plane.timeouts.grace
        return {
            "stopping": True,
            "requests": 0 if plane is None else plane.running,
            "grace": None if grace == float("inf") else grace,
        }

    async def reload(self) -> Data:
        raise CommandFailed(
            409,
            "There are no worker processes to replace: the server runs without --workers.",
        )

    async def log_level(self, level: str) -> Data:
        logging.getLogger("trifcgi").setLevel(level.upper())
        return {"workers": [{"number": 0, "pid": os.getpid(), "level": level}]}

    async def reopen_logs(self) -> Data:
        self._controls.reopen_logs()
        return {"workers": [{"number": 0, "pid": os.getpid(), "reopened": True}]}

    async def limits(self, changes: Mapping[str, int | None]) -> Data:
        plane = self._plane()
        try:
            plane.change_limits(Limits(**(attrs.asdict(plane.limits) | dict(changes))))
        except (TypeError, ValueError) as error:
            raise CommandFailed(400, f"These limits will not do: {error}.") from error
        limits = attrs.asdict(plane.limits)
        return {"workers": [{"number": 0, "pid": os.getpid(), "limits": limits}]}

    async def trace(self, count: int) -> Data:
        self._tracer = self._plane().tracer = Tracer(count)
        return {"workers": [{"number": 0, "pid": os.getpid(), "armed": count}]}

    async def traces(self) -> Data:
        tracer = self._tracer
        if tracer is None:
            return {"traces": [], "awaited": 0}
        if tracer.done and self._plane().tracer is tracer:
            self._plane().tracer = None
        return {
            "traces": [{"worker": 0, **trace.as_json()} for trace in tracer.traces],
            "awaited": tracer.count - len(tracer.traces),
        }

    async def collect_garbage(self) -> Data:
        began = time.perf_counter()
        found = gc.collect()
        return {
            "workers": [
                {
                    "number": 0,
                    "pid": os.getpid(),
                    "found": found,
                    "seconds": round(time.perf_counter() - began, 6),
                    "rss": process.rss(),
                }
            ]
        }

    async def trace_memory(self, on: bool) -> Data:
        if on and not tracemalloc.is_tracing():
            tracemalloc.start(_MEMORY_FRAMES)
        elif not on:
            tracemalloc.stop()
        return {"workers": [{"number": 0, "pid": os.getpid(), "tracing": on}]}

    def _plane(self) -> DataPlane:
        plane = self._controls.plane
        if plane is None:
            raise CommandFailed(409, "The server has not started yet.")
        return plane


def describe_settings(about: About) -> list[Data]:
    """The options as JSON values; the value of one whose name says secret is masked."""
    return [
        {
            "name": setting.name,
            # A file's name is none, even where the file holds one.
            "value": MASK
            if is_secret(setting.name) and not setting.name.endswith("-file")
            else setting.value,
            "origin": setting.origin,
        }
        for setting in about.settings
    ]


def _allocations(top: int) -> list[Data]:
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, tracemalloc.__file__)]
    )
    return [
        {
            "file": found.traceback[0].filename,
            "line": found.traceback[0].lineno,
            "bytes": found.size,
            "blocks": found.count,
        }
        for found in snapshot.statistics("lineno")[:top]
    ]
