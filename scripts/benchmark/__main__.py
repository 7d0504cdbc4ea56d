"""Runs the contenders in interleaved rounds, and reports what they did."""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report
from .contenders import CONTENDERS
from .figures import Series
from .machine import describe
from .picture import draw
from .processes import raise_open_files
from .stage import Stage, set_up
from .targets import judge, side_by_side
from .works import WORKS, Work

_BUILD = Path(__file__).parents[2] / "build"
_OPEN_FILES = 24_000  # 11,000 idle connections and the rest
_EXAMPLES = """
examples:
  scripts/bench                       everything: 7 rounds of 2 s each
  scripts/bench --quick               5 rounds of 0.25 s, in under 4 minutes
  scripts/bench --only direct         one work
  scripts/bench --only nginx/granian  some contenders in one work
  scripts/bench --list                what there is, and what cannot run here
"""


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def _wanted(only: Sequence[str], work: Work, key: str) -> bool:
    return not only or any(text in f"{work.name}/{key}" for text in only)


def show_list(only: Sequence[str]) -> None:
    """Print all works and contenders, and which of them cannot run here."""
    for work in WORKS.values():
        keys = [key for key in work.contenders if _wanted(only, work, key)]
        if keys:
            print(f"{work.name}: {work.title}")
        for key in keys:
            reason = CONTENDERS[key].missing()
            print(f"    {key}{f'  (left out: {reason})' if reason else ''}")


def measure(stage: Stage, series: list[Series], rounds: int, seconds: float) -> None:
    """Go round all series. One that fails is left out from then on."""
    broken: set[int] = set()
    for number in range(rounds):
        # Each round has another order, so that none always follows the same one.
        start = number * len(series) // rounds
        order = side_by_side(series[start:] + series[:start])
        for one in order if number % 2 == 0 else reversed(order):
            if id(one) in broken or number >= WORKS[one.work].rounds:
                continue
            try:
                stage.round(one, seconds)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                broken.add(id(one))
                stage.failed(one, error)
                say(f"{one.work}: {one.label} failed: {error}")
        say(f"round {number + 1} of {rounds} done")
    # A figure from before it failed is no figure.
    series[:] = [one for one in series if id(one) not in broken]


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures trifcgi beside other servers under the same load.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="5 rounds of 0.25 s, not 7 of 2 s")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    parser.add_argument("--seconds", type=float, metavar="S", help="for how long each time")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only what has this in WORK/CONTENDER, see --list; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument(
        "--json",
        type=Path,
        default=_BUILD / "bench.json",
        metavar="FILE",
        help="where all figures go [build/bench.json]",
    )
    parser.add_argument(
        "--svg",
        type=Path,
        default=_BUILD / "bench.svg",
        metavar="FILE",
        help="where the picture goes [build/bench.svg]",
    )
    return parser


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def main() -> int:
    """Run as the command line says; return the exit status."""
    options = make_parser().parse_args()
    # The servers have sessions of their own, and end only if this comes to its end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if options.list:
        show_list(options.only)
        return 0
    rounds = options.rounds or (5 if options.quick else 7)
    seconds = options.seconds or (0.25 if options.quick else 2.0)
    started = time.monotonic()
    raise_open_files(_OPEN_FILES)
    about: dict[str, Any] = describe()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="trifcgi-bench-", dir="/tmp")
        )
        stage, series = stack.enter_context(
            set_up(
                list(WORKS.values()),
                lambda work, key: _wanted(options.only, work, key),
                Path(directory),
                say,
            )
        )
        if not series:
            say("Nothing to measure.")
            say(report.left_out_list(stage.left_out))
            return 1
        cores = "servers on core {}, load and nginx on {}".format(
            *(",".join(map(str, chosen)) for chosen in (stage.server_cores, stage.load_cores))
        )
        measure(stage, series, rounds, seconds)
    verdicts = judge(series)
    about |= {
        "rounds": rounds,
        "seconds": seconds,
        "server_cores": sorted(stage.server_cores),
        "load_cores": sorted(stage.load_cores),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "took_seconds": round(time.monotonic() - started),
    }
    caption = (
        f"{about['python']} on {about['processor']}, trifcgi {about['versions'].get('trifcgi')};"
        f" medians of {rounds} interleaved rounds of {seconds:g} s"
    )
    print(f"{caption}; {cores}; codec: {about['codec']}\n")
    print(report.work_tables(series))
    for part in (report.codec_table(series), report.left_out_list(stage.left_out)):
        if part:
            print(f"\n{part}")
    # Where not everything was asked for, what is missing is no news.
    shown = [verdict for verdict in verdicts if verdict.measured or not options.only]
    if shown:
        print(f"\n{report.target_table(shown)}")
    _write(
        options.json,
        json.dumps(report.as_json(series, verdicts, stage.left_out, about), indent=1) + "\n",
    )
    _write(options.svg, draw(series, caption))
    print(f"\nAll figures: {options.json}; picture: {options.svg}; {about['took_seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
