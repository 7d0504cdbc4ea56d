"""Where a request's microseconds go: ``scripts/profile``.

Three things are measured apart from each other, as no profiler can do all of them:

1. What a request costs: the server's processor time without any profiler, over many rounds, less
   what it costs that the load holds the server between them. The median of several stretches.
2. How that divides: samples of the running server's stacks by py-spy, another process, down into
   C. That slows the server down a little, all alike. Shares times costs are the table.
3. How often functions are called, and what they execute, in a third run that counts each one.
"""

import argparse
import ast
import collections
import functools
import os
import re
import statistics
import subprocess
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Final, NamedTuple

import trio

import trifcgi
from tests.compiled.codec import module_files
from tests.speed.baseline import CODEC, VERSION
from tests.speed.load import CONNECTIONS, MIXED, loaded
from tests.speed.measure import executed
from tests.speed.subject import LOGGED

__all__ = ["Place", "locate", "make_parser", "profile"]

PACKAGE: Final = Path(trifcgi.__file__).parent
KINDS: Final = {
    "handler": "a native handler",
    LOGGED: "the same with an access log",
    "asgi": "a bare ASGI app",
    MIXED: "the same, asked by many clients",
    "wsgi": "a bare WSGI app, in its threads",
    "susp": "a native handler that suspends once",
    "bare": "a plain loop around the same codec, without trio",
}


class Place(NamedTuple):
    """What a sample is put down to."""

    group: str
    part: str
    function: str


_FRAME: Final = re.compile(r"(.*) \((.*?)(?::(\d+))?\)")

# Frames in which a thread waits: for a lock, for its turn to run Python, for events. py-spy leaves
# out most such samples by itself. That a look at the event queue costs something, too, is spread
# over everything else: it is one look for many requests.
_WAITING: Final = (
    "epoll_wait",
    "PyThread_acquire_lock",
    "pthread_cond_",
    "take_gil",
    "sem_wait",
    "sem_clockwait",
)

_SYSTEM_CALLS: Final = frozenset(
    {"epoll_ctl", "eventfd_read", "eventfd_write", "read", "recv", "recvfrom",
     "recvmsg", "send", "sendmsg", "sendto", "write", "writev"}
)  # fmt: skip

# Microseconds of what gets a line.
_LEAST: Final = 0.05

# One of these is below whatever serves requests; neither the start nor the end of the process is.
_SERVING: Final = (
    "unrolled_run (trio/_core/_run.py",
    "Crew._work (trifcgi/apps/crew.py",
    "crew___Crew____work (",
    "bare (tests/speed/subject.py",
)

# The load's line to the server, and imports.
_NOT_SERVING: Final = ("Line.hold (", "<frozen importlib")


def locate(stack: str) -> Place | None:
    """What a stack of py-spy's is put down to; ``None`` when no request is being served.

    That is the innermost function of Python or of the compiled codec, with everything in C that
    it calls, except system calls and garbage collections: each of them counts by itself.
    """
    if not any(mark in stack for mark in _SERVING) or any(mark in stack for mark in _NOT_SERVING):
        return None
    frames = [found for frame in reversed(stack.split(";")) if (found := _FRAME.fullmatch(frame))]
    for frame in frames:
        name, where, _ = frame.groups()
        if where.endswith(".py"):
            return Place(*_group(where), name)
        if "_codec__mypyc" in where:
            if compiled := _compiled(name):
                return compiled
        elif name.startswith(_WAITING):
            return None
        elif where.startswith("libc.") and name in _SYSTEM_CALLS:
            return Place("system calls", name, "")
        elif name.startswith("gc_collect"):
            return Place("garbage collection", "", "")
    return Place("other", "", "")


def _group(file: str) -> tuple[str, str]:
    first, *_ = parts = file.split("/")
    if file.endswith("tests/speed/subject.py"):
        return "the app", ""
    if first == "trifcgi":
        return "/".join(parts[:2]), "/".join(parts[2:])
    return (first, "/".join(parts[1:])) if len(parts) > 1 else ("other", file)


def _compiled(symbol: str) -> Place | None:
    """The function that mypyc has made a symbol of; ``None`` for those of its own library."""
    name = symbol.removeprefix("CPyDef_").removeprefix("CPyPy_").partition(".")[0]
    for module, file in _codec_files().items():
        if name.startswith(module + "___"):
            function = name.removeprefix(module + "___").replace("___", ".", 1)
            return Place(*_group(file), function)
    return None


@functools.cache
def _codec_files() -> dict[str, str]:
    """The files that are compiled, by the names that mypyc may give them: as short as they can be
    without being another's. The longest come first.
    """
    names = {}
    for file in module_files():
        parts = file.removesuffix(".py").split("/")
        for start in range(len(parts)):
            names["___".join(parts[start:])] = file
    return dict(sorted(names.items(), key=lambda item: len(item[0]), reverse=True))


def purpose(group: str, part: str) -> str:
    """The first sentence of one of trifcgi's files; nothing for other people's."""
    file = PACKAGE.parent / group / part
    if not group.startswith("trifcgi/") or not file.is_file():
        return ""
    words = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0]
    return re.split(r"[.:;]( |\n|$)", " ".join(words.split()))[0]


def divide_cores() -> str:
    """Leave the first core to the server and the others to all else; which one that is.

    Nothing, and an empty string, where there is only one.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return ""
    os.sched_setaffinity(0, others)
    return str(first)


def cost(kind: str, core: str, stretches: int = 9, rounds: int = 60) -> float:
    """Microseconds of processor time that a request takes, with no profiler about."""
    with loaded(kind, argument=core) as load:

        def used() -> int:
            return int(load.ask(b"t"))

        load.rounds(rounds)
        found = []
        for _ in range(stretches):
            begin = used()
            load.rounds(rounds)
            served = used()
            for _ in range(rounds):
                load.ask(b"n")  # what a round does on the line, without the requests
            found.append((2 * served - begin - used()) / (rounds * CONNECTIONS) / 1000)
    return statistics.median(found)


def sampled(kind: str, core: str, seconds: float, spy: str) -> collections.Counter[Place]:
    """How often the server was seen where.

    Raises:
        RuntimeError: py-spy saw nothing: it may not look into processes here.
    """
    with tempfile.TemporaryDirectory(prefix="trifcgi-profile-") as directory:
        file = Path(directory, "stacks")
        command = [spy, "record", "--native", "--threads", "--rate", "1000", "--format", "raw"]
        wrapper = [*command, "--output", str(file), "--"]
        with loaded(kind, argument=core, wrapper=wrapper) as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                load.rounds(10)
        lines = file.read_text().splitlines() if file.exists() else []
    found: collections.Counter[Place] = collections.Counter()
    for line in lines:
        stack, _, times = line.rpartition(" ")
        place = locate(stack)
        if place is not None:
            found[place] += int(times)
    if not found:
        raise RuntimeError(f"{spy} has seen nothing: may it trace processes here (ptrace)?")
    return found


def profile(kind: str, core: str, seconds: float, functions: int, spy: str) -> str:
    """The tables for one kind, as text."""
    total = cost(kind, core)
    samples = sampled(kind, core, seconds, spy)
    counts = {("/".join(filter(None, _group(f.file))), f.name): n
              for f, n in executed(kind).items()}  # fmt: skip
    one = total / samples.total()
    lines = [
        f"{kind}: {KINDS[kind]}; {CODEC} codec, {VERSION}, trio {trio.__version__}",
        f"{total:.1f} µs of processor time a request, divided by {samples.total():,} samples",
        "",
        f"{'µs':>8}{'share':>7}  where",
    ]
    groups: collections.Counter[str] = collections.Counter()
    parts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for place, times in samples.items():
        groups[place.group] += times
        parts[place.group][place.part] += times
    for group, times in groups.most_common():
        if times * one < _LEAST:
            continue
        lines.append(f"{times * one:>8.2f}{times / samples.total():>7.1%}  {group}")
        for part, of_it in parts[group].most_common():
            if part and of_it * one >= _LEAST:
                what = textwrap.shorten(purpose(group, part), 60, placeholder=" …")
                lines.append(f"{of_it * one:>15.2f}  {part:18} {what}".rstrip())
    lines += [f"{total:>8.2f}{1:>7.0%}  together", ""]
    lines.append(f"{'µs':>8}{'calls':>8}{'bytecodes':>11}  function, with all in C that it calls")
    of_functions = [(place, times) for place, times in samples.most_common() if place.function]
    for place, times in of_functions[:functions]:
        file = "/".join(filter(None, place[:2]))
        count = counts.get((file, place.function))
        often = f"{count.calls:>8.2f}{count.bytecodes:>11.1f}" if count else f"{'-':>8}{'-':>11}"
        lines.append(f"{times * one:>8.2f}{often}  {place.function} ({file})")
    rest = sum(times for _, times in of_functions[functions:])
    if rest:
        lines.append(f"{rest * one:>8.2f}{'':19}  {len(of_functions) - functions} more functions")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/profile",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Shows where the microseconds of a small request on a kept connection go: by layer\n"
            "and file, and by function. The total is measured without a profiler; how it divides\n"
            "is sampled by py-spy, down into C; calls and bytecodes are counted, each one.\n"
            f"{CONNECTIONS} connections, all with a request at once; one core; no access log."
        ),
        epilog="\n".join(
            ["kinds of app:", *(f"  {name:10}{what}" for name, what in KINDS.items())]
        ),
    )
    parser.add_argument("kind", nargs="*", help="handler, asgi and wsgi where none is named")
    parser.add_argument(
        "--codec", choices=("compiled", "pure"), default="compiled", help="[compiled]"
    )
    parser.add_argument(
        "--seconds", type=float, default=6, help="how long to sample each kind, 1,000 a second [6]"
    )
    parser.add_argument("--functions", type=int, default=25, help="how many to list [25]")
    parser.add_argument("--py-spy", default="py-spy", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run as the command line says."""
    parser = make_parser()
    options = parser.parse_args()
    for kind in options.kind:
        if kind not in KINDS:
            parser.error(f"there is no kind {kind!r}")
    core = divide_cores()
    for kind in options.kind or ("handler", "asgi", "wsgi"):
        try:
            tables = profile(kind, core, options.seconds, options.functions, options.py_spy)
            print(tables, end="\n\n")
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            parser.exit(1, "\n".join([f"{error}", *getattr(error, "__notes__", ())]) + "\n")


if __name__ == "__main__":
    main()
