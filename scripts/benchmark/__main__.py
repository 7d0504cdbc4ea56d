"""Runs the contenders in interleaved rounds, and prints a table."""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.servers import CONTENDERS, Contender, Running, running, running_nginx
from trifcgi import __version__
from trifcgi.protocol import pairs

CONNECTIONS = 32
PROJECT = Path(__file__).parents[2]


class Series:
    """The rounds of one contender on one way."""

    def __init__(self, way: str, contender: Contender, address: str, server: Running) -> None:
        self.way = way
        self.contender = contender
        self.address = address
        self.server = server
        self.rates: list[float] = []
        self.costs: list[float] = []
        self.reconnects = 0

    def round(self, seconds: float, cores: set[int]) -> None:
        """Load it for so long, from those cores."""
        kind = self.contender.protocol if self.way == "direct" else "http"
        command = [sys.executable, "-m", "benchmark.load", kind, self.address]
        used = self.server.cpu_seconds()
        load = subprocess.run(
            [*command, str(CONNECTIONS), str(seconds)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        used = self.server.cpu_seconds() - used
        result = json.loads(load.stdout)
        self.rates.append(result["answers"] / result["seconds"])
        self.costs.append(used / result["answers"] * 1e6)
        self.reconnects += result["reconnects"]

    @property
    def rate(self) -> float:
        """Median of requests a second."""
        return statistics.median(self.rates)

    @property
    def cost(self) -> float:
        """Median of microseconds of processor time a request."""
        return statistics.median(self.costs)

    @property
    def spread(self) -> float:
        """Half the way from the slowest round to the fastest, as a part of the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.rate

    def as_json(self) -> dict[str, object]:
        """All that was measured."""
        return {
            "way": self.way,
            "server": self.contender.name,
            "interface": self.contender.interface,
            "protocol": self.contender.protocol,
            "requests_per_second": self.rates,
            "server_cpu_us_per_request": self.costs,
            "reconnects": self.reconnects,
        }


WAYS = {
    "direct": f"direct, FastCGI on a Unix socket, {CONNECTIONS} kept connections",
    "nginx": f"behind nginx, {CONNECTIONS} clients",
}
HEADING = f"{'server':22}{'requests/s':>12}{'spread':>9}{'us/request':>12}{'against trifcgi':>26}"
NOTE = """
us/request: processor time of the server alone, of one core. Requests a second are held
back by the load, and by nginx, which share the other core. Against trifcgi: requests/s and
us/request as multiples of trifcgi's with the same interface."""


def _line(one: Series, mine: Series | None) -> str:
    line = f"{one.contender!s:22}{one.rate:>12,.0f}{one.spread:>9.0%}{one.cost:>12.1f}"
    if mine is None or mine is one:
        return line
    return line + f"{one.rate / mine.rate:>16.2f} x{one.cost / mine.cost:>6.2f} x"


def table(series: list[Series]) -> str:
    """What was measured, for people."""
    lines = []
    for way, title in WAYS.items():
        rows = sorted((one for one in series if one.way == way), key=lambda one: one.cost)
        ours = {one.contender.interface: one for one in rows if one.contender.name == "trifcgi"}
        if rows:
            lines += ["", title, HEADING]
            lines += [_line(one, ours.get(one.contender.interface)) for one in rows]
    return "\n".join([*lines, NOTE])


def cores() -> tuple[set[int], set[int]]:
    """Cores for the servers and for everything else; the same where there is only one."""
    have = sorted(os.sched_getaffinity(0))
    return ({have[0]}, set(have[1:2])) if len(have) > 1 else (set(have), set(have))


def measure(rounds: int, seconds: float, only: str) -> list[Series]:
    """Start all contenders, and go round them."""
    server_cores, load_cores = cores()
    contenders = []
    for contender in CONTENDERS:
        if contender.installed():
            if only in contender.slug:
                contenders.append(contender)
        else:
            print(f"{contender} is left out: not installed", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="trifcgi-bench-", dir="/tmp"))
        )
        series: list[Series] = []
        servers = {}
        for contender in contenders:
            servers[contender.slug] = stack.enter_context(
                running(contender, directory, server_cores)
            )
        series += [
            Series(
                "direct",
                contender,
                f"unix:{directory}/{contender.slug}.sock",
                servers[contender.slug],
            )
            for contender in contenders
            if contender.protocol == "fastcgi"
        ]
        behind = stack.enter_context(running_nginx(contenders, directory, load_cores))
        if not behind:
            print("nginx is not installed: only direct figures", file=sys.stderr)
        series += [
            Series("nginx", contender, behind[contender.slug], servers[contender.slug])
            for contender in (contenders if behind else ())
        ]
        for one in series:  # warm
            one.round(min(seconds, 0.5), load_cores)
            one.rates.clear()
            one.costs.clear()
        for number in range(rounds):
            start = number % len(series)
            for one in series[start:] + series[:start]:
                one.round(seconds, load_cores)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
        return series


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s instead of 7 of 3 s")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=float, help="for how long each time")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only servers with this in SERVER-INTERFACE"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=PROJECT / "build" / "bench.json",
        metavar="FILE",
        help="where all figures go [build/bench.json]",
    )
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (1.0 if options.quick else 3.0)
    series = measure(rounds, seconds, options.only)
    codec = "pure Python" if str(pairs.__file__).endswith(".py") else "compiled"
    print(
        f"{platform.python_implementation()} {platform.python_version()}, trifcgi {__version__}"
        f" with its codec {codec}; medians of {rounds} interleaved rounds of {seconds:g} s"
    )
    print(table(series))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "python": platform.python_version(),
        "trifcgi": __version__,
        "codec": codec,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "connections": CONNECTIONS,
        "rounds": rounds,
        "seconds": seconds,
        "series": [one.as_json() for one in series],
    }
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nAll figures: {options.json}")


if __name__ == "__main__":
    main()
