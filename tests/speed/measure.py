"""Counts for one request: what the interpreter executes, instructions, system calls, garbage.

Each is a difference between rounds of the same process, so that starting it does not count, and
each is the same when it is repeated, or nearly so where there are threads.
"""

import collections
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.speed.load import CONNECTIONS, MIXED, loaded

__all__ = ["Executed", "Function", "executed", "garbage", "instructions", "system_calls"]


def _warm(kind: str) -> int:
    """An even number of rounds, until caches are filled, threads started and requests known."""
    return 40 if kind == MIXED else 2


class Function(NamedTuple):
    """A function of Python: its file as it is imported, the line where it begins, its name."""

    file: str
    line: int
    name: str


class Executed(NamedTuple):
    """How often a function was entered (or resumed), and the bytecodes that it executed."""

    calls: float
    bytecodes: float


def executed(kind: str, rounds: int = 2) -> dict[Function, Executed]:
    """What the interpreter executes for a request, by function. Compiled code is not seen."""
    with loaded(kind, counter="python") as load:
        load.rounds(_warm(kind))
        before = _functions(load.ask(b"p"))
        load.rounds(rounds)
        after = _functions(load.ask(b"p"))
    requests = rounds * CONNECTIONS
    found = {}
    for function, (calls, bytecodes) in after.items():
        earlier = before.get(function, Executed(0, 0))
        if calls > earlier.calls or bytecodes > earlier.bytecodes:
            found[function] = Executed(
                (calls - earlier.calls) / requests, (bytecodes - earlier.bytecodes) / requests
            )
    return found


def _functions(report: bytes) -> dict[Function, Executed]:
    functions: dict[Function, Executed] = {}
    for file, line, name, calls, bytecodes in json.loads(report):
        function = Function(file, line, name)
        # A function that is made anew, in another function, may have several codes.
        earlier = functions.get(function, Executed(0, 0))
        functions[function] = Executed(earlier.calls + calls, earlier.bytecodes + bytecodes)
    return functions


def instructions(kind: str, rounds: int = 2) -> float:
    """Instructions of the processor for a request, in user space, as callgrind counts them.

    Args:
        kind: what answers.
        rounds: an even number of them.
    """
    with tempfile.TemporaryDirectory(prefix="trifcgi-callgrind-") as directory:
        marker = f"{directory}/marker.so"
        source = Path(__file__).with_name("marker.c")
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", marker, source], check=True)
        valgrind = [
            "valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={directory}/out",
        ]  # fmt: skip
        with loaded(kind, counter="callgrind", argument=marker, wrapper=valgrind) as load:
            load.rounds(_warm(kind))
            # The first time, code is instrumented that was only run before. By twos, as it takes
            # two rounds to send all mixed requests; the access log forms its lines once a round.
            for number in (2, 2, 2 + rounds):
                load.ask(b"b")
                load.rounds(number)
                load.ask(b"e")
        counts = [
            int(Path(f"{directory}/out.{dump}").read_text().rpartition("\ntotals: ")[2].split()[0])
            for dump in (2, 3)
        ]
    return (counts[1] - counts[0]) / (rounds * CONNECTIONS)


# What threads do among themselves, starting them included, and memory: how often depends on who
# is faster, or on what else lies on the heap.
_NOT_COUNTED: Final = frozenset(
    {"brk", "clone", "clone3", "futex", "gettid", "madvise", "mmap", "mprotect", "mremap",
     "munmap", "restart_syscall", "rseq", "rt_sigprocmask", "sched_yield", "set_robust_list"}
)  # fmt: skip


def system_calls(kind: str, rounds: int = 20) -> dict[str, float]:
    """System calls for a request, by name, without those on the line to the load.

    Each round takes one look at the event queue more than it would without that line.
    """
    strace = shutil.which("strace") or "strace"
    with tempfile.TemporaryDirectory(prefix="trifcgi-strace-") as directory:
        file = f"{directory}/calls"
        with loaded(kind, wrapper=[strace, "-f", "-qq", "-o", file]) as load:
            load.rounds(_warm(kind))
            load.ask(b"t")
            load.rounds(rounds)
            load.ask(b"t")
        text = Path(file).read_text(errors="replace")
    begin, end = re.finditer(r'recvfrom\((\d+), "t", .*\n', text)
    line = begin[1]
    theirs = re.compile(rf"\w+\({line}[,)]|epoll_ctl\(\d+, \w+, {line},")
    counts: collections.Counter[str] = collections.Counter()
    for call in re.findall(r"^\d+ +(\w+\(.*)", text[begin.end() : end.start()], re.MULTILINE):
        name = call.partition("(")[0]
        if not theirs.match(call) and name not in _NOT_COUNTED:
            counts[name] += 1
    # The load's first question, asked at the end of the first mark, tells the time.
    counts["clock_gettime"] -= 1
    return {name: n / (rounds * CONNECTIONS) for name, n in counts.most_common() if n}


def garbage(kind: str, rounds: int = 4) -> float:
    """Objects that a request leaves to the garbage collector: in reference cycles, that is."""
    with loaded(kind, counter="garbage") as load:
        load.rounds(_warm(kind))
        load.ask(b"c")
        load.rounds(rounds)
        return int(load.ask(b"c")) / (rounds * CONNECTIONS)
