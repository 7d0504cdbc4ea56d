"""The commands for all workers of a supervisor: asked one by one, and summed."""

import logging
import math
import os
import platform
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import attrs
import trio

from trifcgi._version import __version__
from trifcgi.admin.local import describe_settings
from trifcgi.admin.source import About, CommandFailed, Data
from trifcgi.admin.views import count_tasks, describe_task
from trifcgi.errors import Error
from trifcgi.observe import metrics, process
from trifcgi.observe.stacks import task_tree

__all__ = ["Fleet", "FleetSource", "Member"]

_log: Final = logging.getLogger("trifcgi.admin")

_PATIENCE: Final = 1.0
"""Seconds for a worker's answer. One that does not answer by then is shown as such, with what it
said last."""

_MEMORY_PATIENCE: Final = 30.0
"""The same for what takes a worker long by itself: looking through all of its memory."""


_COUNTING: Final = 5.0
"""Seconds between two looks at all counts. A worker that stops tells its last ones itself; of one
that dies only what it counts between two looks is lost."""

_STARTING: Final = "starting"

_NOTHING: Final = metrics.add_up(())


class Member(Protocol):
    """A worker process, as its supervisor knows it."""

    @property
    def number(self) -> int:
        """Its number, from 1; never used again."""

    @property
    def pid(self) -> int:
        """Its process ID."""

    @property
    def generation(self) -> int:
        """Counts the reloads, from 1."""

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``draining`` or another plain word."""

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """Have its control handler answer; return the status and the JSON value.

        Raises:
            trifcgi.Error, OSError: it cannot be asked.
        """


class Fleet(Protocol):
    """The supervisor, as far as the control server may ask it for things."""

    @property
    def members(self) -> Sequence[Member]:
        """The workers that are alive, those that drain included."""

    @property
    def restarts(self) -> int:
        """Workers that have ended by themselves so far and were replaced."""

    @property
    def killed(self) -> int:
        """Requests that ran in workers which had to be killed since they did not stop."""

    @property
    def draining(self) -> bool:
        """Whether all are told to stop."""

    @property
    def addresses(self) -> Sequence[str]:
        """What they listen on."""

    @property
    def grace(self) -> float:
        """Seconds for which a graceful stop lets requests run on."""

    def stop(self) -> None:
        """Stop gracefully; called a second time, at once."""

    def reload(self) -> None:
        """Begin to replace the workers one by one."""

    def reopen_log(self) -> None:
        """Open the supervisor's own log anew."""


class FleetSource:
    """Answers for all workers of a supervisor.

    Args:
        about: what is served.
        fleet: the supervisor.
    """

    def __init__(self, about: About, fleet: Fleet) -> None:
        self._about = about
        self._fleet = fleet
        self._last: dict[Member, metrics.Counts] = {}
        self._gone: metrics.Counts = metrics.add_up(())
        # Those whose counts are in that sum. An answer of theirs may still come.
        self._settled: weakref.WeakSet[Member] = weakref.WeakSet()
        self._known: dict[Member, Data] = {}  # the last status
        self._traced = 0
        self._level: str | None = None
        self._limits: dict[str, int | None] = {}

    async def bring_up_to_date(self, member: Member) -> None:
        """Tell a worker that has just become ready what operators have changed since the start
        (log level, limits), so that it is as the one that it replaces.

        Raises:
            trifcgi.Error, OSError: it cannot be asked.
        """
        if self._level is not None:
            await member.ask("POST", "/log-level?" + urlencode({"level": self._level}))
        if self._limits:
            await member.ask("POST", "/limits?" + _limits_query(self._limits))

    def take_leave(self, member: Member, counts: metrics.Counts) -> None:
        """Take the counts of a worker that has stopped: it will count nothing more. Never raises:
        after an upgrade a new worker may count what an older supervisor does not know.
        """
        try:
            self._note(member, counts)
            self._settle(member)
        except Exception:  # noqa: BLE001 - as in serve_control: the workers go on
            _log.exception("the last counts of worker %d cannot be taken", member.number)

    async def count(self) -> None:
        """Take every worker's counts, so that those of one that dies soon are not all lost."""
        self._note_all(await self._ask_all("GET", "/metrics?format=json"))

    async def watch(self) -> None:
        """Take the workers' counts now and then, until cancelled."""
        while True:
            await trio.sleep(_COUNTING)
            try:
                await self.count()
            except Exception:  # noqa: BLE001 - as in serve_control: the workers go on
                _log.exception("the workers' counts cannot be taken")

    # Asking

    async def _ask_all(
        self, method: str, path: str, *, patience: float = _PATIENCE
    ) -> list[tuple[Member, Data | None]]:
        """Ask every worker at once; ``None`` for those that do not answer."""
        members = list(self._fleet.members)
        answers: dict[int, Data] = {}
        failures: list[CommandFailed] = []

        async def ask(member: Member) -> None:
            try:
                answer = await self._ask(member, method, path, patience)
            except CommandFailed as error:
                failures.append(error)  # raised below, where no group wraps it
                return
            if answer is not None:
                answers[member.pid] = answer

        async with trio.open_nursery() as nursery:
            for member in members:
                if member.state != _STARTING:  # which could say nothing, and only after a while
                    nursery.start_soon(ask, member)
        if failures:
            raise failures[0]
        return [(member, answers.get(member.pid)) for member in members]

    async def _ask(
        self, member: Member, method: str, path: str, patience: float = _PATIENCE
    ) -> Data | None:
        with trio.move_on_after(patience):  # noqa: ASYNC912 - what it asks decides
            try:
                status, answer = await member.ask(method, path)
            except (Error, OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                return None  # it is ending, or has
            if status >= 400:
                message = answer.get("error") if isinstance(answer, dict) else None
                raise CommandFailed(status, message or f"Worker {member.number} says {status}.")
            return answer if isinstance(answer, dict) else None
        return None

    async def _join(
        self, method: str, path: str, key: str, *, patience: float = _PATIENCE
    ) -> list[Data]:
        """One list of what all workers list under ``key``; each item says whose it is."""
        return [
            _owned(item, member, key)
            for member, answer in await self._ask_all(method, path, patience=patience)
            for item in ([] if answer is None else answer[key])
        ]

    async def _of(self, method: str, id: str, rest: str = "") -> tuple[Member, Data]:
        """Ask the worker that a request's ID names."""
        number, dot, inner = id.partition(".")
        for member in self._fleet.members if dot and inner.isdigit() else ():
            if str(member.number) != number:
                continue
            try:
                answer = await self._ask(member, method, f"/requests/{inner}{rest}")
            except CommandFailed as error:
                if error.status != 404:
                    raise
                continue  # during a reload two workers can share a number
            if answer is None:
                raise CommandFailed(504, f"Worker {number} does not answer.")
            return member, answer
        raise CommandFailed(404, f"There is no request {id}: it has ended, or never was.")

    # Reading

    async def health(self) -> Data:
        """See :class:`~trifcgi.admin.source.Source`, as for all that follow."""
        return {"healthy": True, "version": __version__}

    async def ready(self) -> Data:
        return {"ready": self._state() == "running", "state": self._state()}

    def _state(self) -> str:
        if self._fleet.draining:
            return "draining"
        running = any(member.state == "running" for member in self._fleet.members)
        return "running" if running else "starting"

    async def status(self) -> Data:
        workers = await self._workers(await self._ask_all("GET", "/metrics?format=json"))
        counts = self._counts()
        return {
            "version": __version__,
            "python": platform.python_version(),
            "trio": trio.__version__,
            "app": self._about.app,
            "kind": self._about.kind,
            "pid": os.getpid(),
            "began": self._about.began,
            "uptime": round(time.time() - self._about.began, 3),
            "ready": self._state() == "running",
            "state": self._state(),
            "listeners": list(self._fleet.addresses),
            "connections": sum(worker["connections"] for worker in workers),
            "requests": sum(worker["requests"] for worker in workers),
            "totals": metrics.totals(counts),
            "threads": _sum_threads(workers),
            "restarts": self._fleet.restarts,
            "workers": workers,
        }

    async def _workers(self, answers: list[tuple[Member, Data | None]]) -> list[Data]:
        self._note_all(answers)
        workers = []
        for member, answer in answers:
            if answer is not None:
                self._known[member] = answer["workers"][0]
                # A supervisor does not load the app: its workers know what that is.
                self._about = attrs.evolve(self._about, app=answer["app"], kind=answer["kind"])
            known = self._known.get(member, _UNKNOWN)
            workers.append(
                {
                    **known,
                    "number": member.number,
                    "pid": member.pid,
                    "generation": member.generation,
                    "state": member.state,
                    "answers": answer is not None or member.state == _STARTING,
                }
            )
        for member in self._known.keys() - set(self._fleet.members):
            del self._known[member]
        return sorted(workers, key=lambda worker: (worker["number"], worker["generation"]))

    # Counting: no sum may ever fall, nor count anything twice, in whichever order answers come.

    def _counts(self) -> metrics.Counts:
        killed = metrics.killed(self._fleet.killed)
        return metrics.add_up([self._gone, *self._last.values(), killed])

    def _note_all(self, answers: list[tuple[Member, Data | None]]) -> None:
        for member, answer in answers:
            if answer is not None:
                self._note(member, answer["counts"])
        for member in self._last.keys() - set(self._fleet.members):
            self._settle(member)

    def _note(self, member: Member, counts: metrics.Counts) -> None:
        known = self._last.get(member, _NOTHING)
        if member not in self._settled and metrics.progress(counts) >= metrics.progress(known):
            self._last[member] = counts

    def _settle(self, member: Member) -> None:
        self._gone = metrics.add_up([self._gone, self._last.pop(member, _NOTHING)])
        self._settled.add(member)

    async def requests(self) -> Data:
        found = await self._join("GET", "/requests", "requests")
        return {"requests": sorted(found, key=lambda request: -request["age"])}

    async def request(self, id: str) -> Data:
        member, answer = await self._of("GET", id)
        return {"request": _owned(answer["request"], member, "requests")}

    async def tasks(self) -> Data:
        root = trio.lowlevel.current_root_task()
        assert root is not None  # there is one wherever this can run
        tree = describe_task(task_tree(root))
        own = {"number": 0, "pid": os.getpid(), "tasks": count_tasks(tree), "tree": tree}
        return {"workers": [own, *await self._join("GET", "/tasks", "workers")]}

    async def connections(self) -> Data:
        return {"connections": await self._join("GET", "/connections", "connections")}

    async def memory(self, top: int) -> Data:
        path = f"/memory?top={top}"
        own = {
            "number": 0,
            "pid": os.getpid(),
            "rss": process.rss(),
            "peak_rss": process.peak_rss(),
            "open_files": process.open_files(),
            "gc": process.garbage(),
            "tracing": False,
        }
        joined = await self._join("GET", path, "workers", patience=_MEMORY_PATIENCE)
        return {"workers": [own, *joined]}

    async def config(self) -> Data:
        limits: Data = {}
        for _, answer in await self._ask_all("GET", "/config"):
            if answer is not None:
                limits = answer["limits"]
                break
        return {"options": describe_settings(self._about), "limits": limits}

    async def metrics(self) -> Data:
        workers = await self._workers(await self._ask_all("GET", "/metrics?format=json"))
        return {
            "version": __version__,
            "python": platform.python_version(),
            "app": self._about.app,
            "kind": self._about.kind,
            "ready": self._state() == "running",
            "uptime": time.time() - self._about.began,
            "restarts": self._fleet.restarts,
            "counts": self._counts(),
            "workers": workers,
        }

    async def traces(self) -> Data:
        # Each worker traces as many, as nobody knows which one gets the next request.
        traces = [
            {**trace, "worker": member.number}
            for member, answer in await self._ask_all("GET", "/trace")
            for trace in ([] if answer is None else answer["traces"])
        ]
        first = sorted(traces, key=lambda trace: trace["began"])[: self._traced]
        return {"traces": first, "awaited": self._traced - len(first)}

    # Changing

    async def cancel(self, id: str) -> Data:
        await self._of("POST", id, "/cancel")
        return {"cancelled": id}

    async def stop(self, now: bool) -> Data:
        if now and not self._fleet.draining:
            self._fleet.stop()
        self._fleet.stop()
        return await self._stopping()

    async def drain(self) -> Data:
        if not self._fleet.draining:
            self._fleet.stop()
        return await self._stopping()

    async def _stopping(self) -> Data:
        answers = await self._ask_all("GET", "/status")
        running = sum(answer["requests"] for _, answer in answers if answer is not None)
        grace = self._fleet.grace
        return {
            "stopping": True,
            "requests": running,
            "grace": None if grace == math.inf else grace,
        }

    async def reload(self) -> Data:
        if self._fleet.draining:
            raise CommandFailed(409, "The server is stopping: nothing is replaced any more.")
        self._fleet.reload()
        return {"reloading": True}

    async def log_level(self, level: str) -> Data:
        self._level = level
        logging.getLogger("trifcgi").setLevel(level.upper())
        path = "/log-level?" + urlencode({"level": level})
        told = await self._join("POST", path, "workers")
        return {"workers": [{"number": 0, "pid": os.getpid(), "level": level}, *told]}

    async def reopen_logs(self) -> Data:
        self._fleet.reopen_log()
        told = await self._join("POST", "/logs/reopen", "workers")
        return {"workers": [{"number": 0, "pid": os.getpid(), "reopened": True}, *told]}

    async def limits(self, changes: Mapping[str, int | None]) -> Data:
        path = "/limits?" + _limits_query(changes)
        told = await self._join("POST", path, "workers")
        self._limits |= changes
        return {"workers": told}

    async def trace(self, count: int) -> Data:
        self._traced = count
        return {"workers": await self._join("POST", f"/trace?count={count}", "workers")}

    async def trace_memory(self, on: bool) -> Data:
        path = f"/memory/tracing?state={'on' if on else 'off'}"
        return {"workers": await self._join("POST", path, "workers")}

    async def collect_garbage(self) -> Data:
        joined = await self._join("POST", "/gc", "workers", patience=_MEMORY_PATIENCE)
        return {"workers": joined}


_UNKNOWN: Final[Data] = {
    "uptime": 0.0,
    "rss": 0,
    "lag": 0.0,
    "connections": 0,
    "requests": 0,
    "threads": {"size": 0, "busy": 0, "waiting": 0, "abandoned": 0},
    "totals": metrics.totals(metrics.add_up(())),
    "open_files": None,
    "log_lines_lost": 0,
}
"""What is shown of a worker that has never answered."""


def _owned(item: Data, member: Member, key: str) -> Data:
    """A worker's own word about something, as its supervisor's."""
    number = member.number
    if key == "workers":
        return {**item, "number": number, "pid": member.pid}
    owned = {**item, "worker": number}
    if "id" in item:
        owned["id"] = f"{number}.{item['id']}"
    if key == "connections":
        owned["requests"] = [f"{number}.{request}" for request in item["requests"]]
    return owned


def _sum_threads(workers: Sequence[Data]) -> Data:
    return {
        name: sum(worker["threads"][name] for worker in workers)
        for name in ("size", "busy", "waiting", "abandoned")
    }


def _limits_query(changes: Mapping[str, int | None]) -> str:
    return urlencode(
        {
            name.replace("_", "-"): "none" if value is None else str(value)
            for name, value in changes.items()
        }
    )
