"""The recorded counts, which of them apply here, and the command that records them anew.

``python -m tests.speed.baseline [--show] [FILE]`` measures with the running Python and the codec
that it has, compares with what is recorded, and records; ``scripts/baseline`` does so for both
codecs. What a count depends on decides where its record applies:

- calls of Python functions, system calls: on the codec alone, as trifcgi's code decides them;
- bytecodes: also on the Python version (3.11, 3.12 …), whose compiler makes them;
- instructions: on everything, down to the compiler that built Python. Elsewhere they are
  held against a bare loop over the same codec, measured in the same run.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from tests.speed.load import MIXED
from tests.speed.measure import executed, instructions, system_calls
from tests.speed.subject import LOGGED
from trifcgi._compiled import is_compiled

__all__ = [
    "FILE",
    "KINDS",
    "Counts",
    "Limit",
    "Measured",
    "limits",
    "make_parser",
    "measure",
    "record",
]

FILE: Final = Path(__file__).with_name("baseline.json")
KINDS: Final = ("handler", LOGGED, "asgi", MIXED, "wsgi")

CODEC: Final = "compiled" if is_compiled("trifcgi.protocol.connection") else "pure Python"
VERSION: Final = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"
ENVIRONMENT: Final = ", ".join(
    (sys.version.replace("\n", " "), platform.machine(), *platform.libc_ver(),
     f"trio {trio.__version__}")
)  # fmt: skip

TOLERANCE: Final = 1.05
"""What a count may grow by before it is a regression."""

THREADED_TOLERANCE: Final = 1.15
"""The same for WSGI's system calls and instructions, some of which depend on how its threads take
turns."""

THREADED_CALLS: Final = 4.0
THREADED_BYTECODES: Final = 80.0
"""What may come on top of WSGI's calls and bytecodes: as much as it takes to call a thread, and to
be called back by it, for each request and not for each batch."""

RELATIVE_TOLERANCE: Final = 1.25
"""The same for instructions where none are recorded: other builds shift them."""

MOST_SYSTEM_CALLS: Final = 2.3
"""What a small answer on a kept connection may take, whatever is recorded."""


class Counts(NamedTuple):
    """What a request of one kind costs."""

    calls: float
    bytecodes: float
    system_calls: float
    instructions: float


class Limit(NamedTuple):
    """The most that a count may be, and what that rests on."""

    most: float
    why: str


class Measured(NamedTuple):
    """What was counted in one run: for each kind, and the instructions of the bare loop."""

    kinds: dict[str, Counts]
    bare: float


def measure() -> Measured:
    """Count everything, side by side where there are cores for it: some 20 seconds on one."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # The longest first, so that none of them is left to the end.
        jobs = {kind: pool.submit(instructions, kind) for kind in (*reversed(KINDS), "bare")}
        own = {kind: pool.submit(_own, kind) for kind in KINDS}
        system = {kind: pool.submit(system_calls, kind) for kind in KINDS}
        counts = {
            kind: Counts(
                *own[kind].result(),
                system_calls=sum(system[kind].result().values()),
                instructions=jobs[kind].result(),
            )
            for kind in KINDS
        }
        return Measured(counts, jobs["bare"].result())


def _own(kind: str) -> tuple[float, float]:
    """Calls and bytecodes of trifcgi's own functions. Instructions show what it has trio do."""
    own = {
        function: counts
        for function, counts in executed(kind).items()
        if function.file.startswith("trifcgi/")
    }
    calls = sum(one.calls for function, one in own.items() if not _inlined(function.name))
    return calls, sum(one.bytecodes for one in own.values())


def _inlined(name: str) -> bool:
    """Whether Python 3.12 and later have no call there (PEP 709)."""
    return name.endswith(("<listcomp>", "<dictcomp>", "<setcomp>"))


def limits(recorded: dict[str, Any], kind: str, bare: float) -> dict[str, Limit]:
    """What each count of a kind may be here.

    Args:
        recorded: the file's content.
        kind: which kind.
        bare: the bare loop's instructions in this run.

    Raises:
        KeyError: nothing at all is recorded for this codec, or this kind.
    """
    mine = recorded[CODEC]
    threaded = kind == "wsgi"
    most = mine["calls"][kind] * TOLERANCE + (THREADED_CALLS if threaded else 0.0)
    found = {"calls": Limit(most, f"recorded for {CODEC}")}
    if VERSION in mine["bytecodes"]:
        most = mine["bytecodes"][VERSION][kind] * TOLERANCE
        most += THREADED_BYTECODES if threaded else 0.0
        found["bytecodes"] = Limit(most, f"recorded for {CODEC}, {VERSION}")
    tolerance = THREADED_TOLERANCE if threaded else TOLERANCE
    most = mine["system calls"][kind] * tolerance
    found["system_calls"] = Limit(most, f"recorded for {CODEC}")
    if not threaded and most > MOST_SYSTEM_CALLS:
        found["system_calls"] = Limit(MOST_SYSTEM_CALLS, "the most that it may be anywhere")
    if ENVIRONMENT in mine["instructions"]:
        most = mine["instructions"][ENVIRONMENT][kind] * tolerance
        found["instructions"] = Limit(most, f"recorded for {CODEC}, {ENVIRONMENT}")
    else:
        times = mine["times the bare loop"][kind] * RELATIVE_TOLERANCE
        why = f"{times:.2f} times the bare loop's here, as none are recorded for {ENVIRONMENT}"
        found["instructions"] = Limit(times * bare, why)
    return found


def record(recorded: dict[str, Any], measured: Measured) -> None:
    """Put what was counted in the file's content."""
    mine = recorded.setdefault(CODEC, {})
    kinds, bare = measured
    mine["calls"] = {kind: round(one.calls, 1) for kind, one in kinds.items()}
    mine["system calls"] = {kind: round(one.system_calls, 3) for kind, one in kinds.items()}
    mine["times the bare loop"] = {
        kind: round(one.instructions / bare, 3) for kind, one in kinds.items()
    }
    # Other versions' and builds' records are of the code as it was then.
    mine["bytecodes"] = {VERSION: {kind: round(one.bytecodes) for kind, one in kinds.items()}}
    mine["instructions"] = {
        ENVIRONMENT: {kind: round(one.instructions) for kind, one in kinds.items()}
    }


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def table(recorded: dict[str, Any], measured: Measured) -> str:
    """What was counted and what it may be, for people."""
    lines = [f"{CODEC} codec, {ENVIRONMENT}", f"{'':24}{'counted':>12}{'at most':>12}"]
    for kind, counts in measured.kinds.items():
        known = kind in recorded.get(CODEC, {}).get("calls", {})
        most = limits(recorded, kind, measured.bare) if known else {}
        for name, count in counts._asdict().items():
            limit = f"{most[name].most:>12,.2f}" if name in most else f"{'-':>12}"
            lines.append(f"{kind:9}{name.replace('_', ' '):15}{count:>12,.2f}{limit}")
    lines.append(f"{'bare':9}{'instructions':15}{measured.bare:>12,.2f}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed.baseline",
        description="Counts what a request costs, and records it as what it may cost.",
    )
    parser.add_argument("--show", action="store_true", help="count and compare only")
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="where it is recorded")
    return parser


def main() -> None:
    """Run as the module's docstring says."""
    options = make_parser().parse_args()
    recorded = _read(options.file)
    measured = measure()
    print(table(recorded, measured))
    if not options.show:
        record(recorded, measured)
        options.file.write_text(json.dumps(recorded, indent=1) + "\n")
        print(f"Recorded in {options.file}")


if __name__ == "__main__":
    main()
