"""The long versions of what ``test_workers`` tries for a moment; see ``scripts/chaos``."""

import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.real.control import Control
from tests.real.faults import BreakableControl, full_disk
from tests.real.http_client import Origin
from tests.real.load import Load
from tests.real.ports import PortBlock
from tests.real.workers import SITES, Workers, params, wait_until

__all__ = ["MODES", "main"]

_CLIENTS = 8
_WORKERS = 4
_KILLS = 30  # one a second
_RELOADS = 50
_HUPS = 25
_FLOOD = 500
_CRASHES = 5
_FULL = 5  # seconds
_ROUNDS = 20

_ports = PortBlock()


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trifcgi-", dir="/tmp") as path:
        directory = Path(path)
        directory.chmod(0o755)
        yield directory


@contextmanager
def _running(
    name: str, *options: str, control: Control | None = None
) -> Iterator[tuple[Workers, Origin]]:
    with _directory() as directory:
        workers = Workers(directory, _ports)
        if control is not None:
            workers.program = BreakableControl(directory, control.port).program
            options += ("--admin-port", str(control.port))
        try:
            workers.start(*options, count=_WORKERS)
            yield workers, workers.site(name).origin
            assert workers.stop() == 0, workers.log[-2000:]
        finally:
            workers.close()


def _report(what: str, name: str, load: Load, seconds: float, more: str = "") -> int:
    lost = load.failures.total()
    print(
        f"{what:8} {name:18} {seconds:6.1f} s  {load.answered:7} answered  {lost:4} lost  {more}",
        flush=True,
    )
    for failure, times in load.failures.most_common(5):
        print(f"         {times:4} times {failure}")
    return lost


def kills(name: str) -> int:
    """SIGKILL of a random worker every second. Only requests that ran in it may fail, and where
    the front end tries again, as nginx does with a GET on a kept connection, not even those.
    """
    retried = name in ("nginx-recommended", "nginx-kept-unix")
    with _running(name) as (workers, origin):
        began = time.monotonic()
        with Load(origin, clients=_CLIENTS, posts=not retried) as load:
            for times in range(1, _KILLS + 1):
                time.sleep(1)
                workers.signal_worker(signal.SIGKILL, random.randrange(len(workers.pids)))
                workers.wait_log("has died (SIGKILL)", times)
            load.wait_answered(100)
        more = f"{_KILLS} kills, {'GET' if retried else 'GET and POST'}"
        lost = _report("kills", name, load, time.monotonic() - began, more)
        return lost if retried else max(0, lost - _KILLS * _CLIENTS)


def reloads(name: str) -> int:
    """Reloads one after the other."""
    with _running(name) as (workers, origin):
        began = time.monotonic()
        with Load(origin, clients=_CLIENTS) as load:
            for _ in range(_RELOADS):
                workers.reload()
            load.wait_answered(100)
        more = f"{_RELOADS} reloads, {workers.log.count('is ready')} workers started"
        return _report("reloads", name, load, time.monotonic() - began, more)


def _signals(name: str, what: str, pauses: list[float]) -> int:
    with _running(name) as (workers, origin):
        began = time.monotonic()
        with Load(origin, clients=_CLIENTS) as load:
            for pause in pauses:
                workers.send(signal.SIGHUP)
                time.sleep(pause)
            workers.wait_log("reloaded:")
            load.wait_answered(100)
        more = f"{len(pauses)} HUPs, {workers.log.count('is ready')} workers started"
        return _report(what, name, load, time.monotonic() - began, more)


def hups(name: str) -> int:
    """SIGHUPs 0 to 25 ms apart."""
    return _signals(name, "hups", [random.uniform(0, 0.025) for _ in range(_HUPS)])


def flood(name: str) -> int:
    """SIGHUPs without a pause."""
    return _signals(name, "flood", [0.0] * _FLOOD)


def stopped(name: str) -> int:
    """A worker that is stopped (SIGSTOP) is replaced after --hang-timeout; what it was working on
    is lost, and nothing else.
    """
    with _running(name, "--hang-timeout", "2") as (workers, origin):
        began = time.monotonic()
        with Load(origin, clients=_CLIENTS, posts=False) as load:
            load.wait_answered(100)
            stalled = time.monotonic()
            workers.signal_worker(signal.SIGSTOP)
            workers.wait_log("is ready", _WORKERS + 1)
            replaced = time.monotonic() - stalled
            load.wait_answered(100)
        more = f"replaced after {replaced:.1f} s"
        lost = _report("stopped", name, load, time.monotonic() - began, more)
        return max(0, lost - _CLIENTS)


def crash(name: str) -> int:
    """The control server crashes, for longer and longer pauses; requests see nothing of it."""
    control = Control(_ports.take())
    with _running(name, control=control) as (workers, origin):
        began = time.monotonic()
        before = workers.pids
        breakable = BreakableControl(workers.directory, control.port)
        with Load(origin, clients=_CLIENTS) as load:
            load.wait_answered(100)
            with breakable.broken():
                workers.wait_log("the control server failed", _CRASHES)
                load.wait_answered(100)
            mended = time.monotonic()
            wait_until(control.answers, "the control server is back")
            back = time.monotonic() - mended
            load.wait_answered(100)
        assert workers.pids == before
        more = f"{_CRASHES} crashes, back {back:.1f} s after the cause was gone"
        return _report("crash", name, load, time.monotonic() - began, more)


def disk(name: str) -> int:
    """The disk of the access log is full for a while: lines are lost, and no request."""
    with _directory() as elsewhere:
        access_log = elsewhere / "access"
        with _running(name, "--access-log", str(access_log)) as (workers, origin):
            began = time.monotonic()
            with Load(origin, clients=_CLIENTS) as load:
                # By then it is larger than the log, which has to go on.
                wait_until(lambda: access_log.stat().st_size > 50_000, "there are lines")
                with full_disk(workers.pids, access_log.stat().st_size + 1000):
                    time.sleep(_FULL)
                load.wait_answered(100)
                workers.wait_log("can be written again", _WORKERS)
                size = access_log.stat().st_size
                load.wait_answered(100)
            log = workers.log
            complaints = log.count("cannot be written")
            lines_lost = sum(map(int, re.findall(r"written again; lines lost: (\d+)", log)))
            wait_until(lambda: access_log.stat().st_size > size, "lines are written again")
            more = f"full for {_FULL} s, {complaints} complaints, {lines_lost} lines lost"
            lost = _report("disk", name, load, time.monotonic() - began, more)
        return lost + (complaints != _WORKERS)


def sharing(name: str) -> int:
    """Kept connections that come all at once: how many land on the same worker."""
    figures = []
    with _running(name) as (workers, _):
        for connections in (4, 8, 32):
            most: Counter[int] = Counter()
            for _ in range(_ROUNDS):
                most[max(trio.run(_ask_all, workers, connections).values())] += 1
            told = ", ".join(f"{count} in {times}" for count, times in sorted(most.items()))
            figures.append(f"of {connections} connections {told}")
    print(f"sharing  {_ROUNDS} rounds with {_WORKERS} workers; most on one worker:",
          "; ".join(figures), flush=True)  # fmt: skip
    return 0


async def _ask_all(workers: Workers, connections: int) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    ready = 0
    everyone = trio.Event()

    async def ask() -> None:
        nonlocal ready
        async with await workers.connect() as client:
            found[(await client.request(params())).body] += 1
            ready += 1
            if ready == connections:
                everyone.set()
            await everyone.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(ask)
    return found


MODES: dict[str, Callable[[str], int]] = {
    each.__name__: each for each in (kills, reloads, hups, flood, stopped, crash, disk, sharing)
}
"""Every fault, by its name."""


def main(names: list[str]) -> int:
    """Run what is named, behind every front end, and give the exit status."""
    unknown = set(names) - {*MODES, "all"}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
        return 2
    chosen = list(MODES) if not names or "all" in names else names
    # What is shared has no front end in it, so one is as good as all.
    lost = sum(
        MODES[what](name)
        for what in chosen
        for name in (SITES if what != sharing.__name__ else SITES[:1])
    )
    print("nothing was lost that must not be" if not lost else f"LOST: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
