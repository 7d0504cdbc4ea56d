"""The servers of a run, started and warm, and their rounds."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from .contenders import CONTENDERS, HELLO_PHP, Contender
from .figures import Series, percentile
from .front import behind_nginx
from .load import Round
from .machine import codec_of
from .processes import HOME, Running, cores, on_cores
from .system_calls import Counter
from .works import WORKS, Work

__all__ = ["Stage", "set_up"]

_ABORTED = 1000  # requests that run while aborts are measured
_WARM = 0.3  # seconds of load before anything is measured
_COUNTED = 1.5  # seconds in which system calls are counted, so that those of the 32 accepts
# are few beside those of the requests
_PATIENCE = 120.0  # seconds, beside its own time, that anything may take

LeftOut = dict[str, str]


class Stage:
    """Where servers run and what measures them.

    Attributes:
        directory: for sockets, logs and configuration.
        server_cores: the cores of the servers.
        load_cores: the cores of load and nginx.
        left_out: what could not be measured, and why.
        running: the servers by their contenders' keys.
        behind: addresses behind nginx, by the same keys.
        counter: of system calls.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server_cores, self.load_cores = cores()
        self.left_out: LeftOut = {}
        self.running: dict[str, Running] = {}
        self.behind: dict[str, str] = {}
        self.counter = Counter()

    def socket(self, key: str) -> Path:
        """Where a contender listens."""
        return self.directory / f"{key.replace('/', '-')}.sock"

    def run(self, module: str, *arguments: str, seconds: float = 0.0) -> str:
        """Run a module of this package on the load's cores, and return what it prints.

        Raises:
            RuntimeError: it fails; the message is its own last line.
        """
        with on_cores(self.load_cores):
            done = subprocess.run(
                [sys.executable, "-m", f"benchmark.{module}", *arguments],
                check=False,
                capture_output=True,
                text=True,
                cwd=HOME,
                timeout=seconds + _PATIENCE,
            )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"{module} failed")
        return done.stdout

    @contextlib.contextmanager
    def server(self, contender: Contender) -> Iterator[Running]:
        """A contender that runs; it need not take connections yet."""
        path = str(self.socket(contender.key))

        def fill(text: str) -> str:
            return text.replace("SOCKET", path).replace("DIRECTORY", str(self.directory))

        for name, content in contender.files.items():
            (self.directory / name).write_text(fill(content))
        log = self.directory / f"{contender.key.replace('/', '-')}.log"
        server = Running(
            str(contender),
            [fill(word) for word in contender.command],
            log,
            self.server_cores,
            contender.environment,
        )
        try:
            yield server
        finally:
            server.stop()

    @contextlib.contextmanager
    def idle(self, key: str, count: int) -> Iterator[None]:
        """So many idle connections to that contender.

        Raises:
            RuntimeError: it does not take them.
        """
        with on_cores(self.load_cores):
            holder = subprocess.Popen(
                [sys.executable, "-m", "benchmark.idle", f"unix:{self.socket(key)}", str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=HOME,
            )
        assert holder.stdout is not None
        try:
            if holder.stdout.readline().strip() != str(count):
                said = holder.communicate(timeout=10)[1].strip().rpartition("\n")[2]
                raise RuntimeError(f"{count} idle connections: {said}")
            yield
        finally:
            if holder.poll() is None:
                holder.communicate(timeout=30)

    def order(self, work: Work, contender: Contender, seconds: float) -> Round:
        """What the load is to do."""
        return Round(
            protocol="http" if work.nginx else contender.protocol,
            address=self.behind[contender.key]
            if work.nginx
            else f"unix:{self.socket(contender.key)}",
            kind=work.kind,
            connections=work.connections,
            streams=work.streams,
            seconds=seconds,
            params={"SCRIPT_FILENAME": str(HELLO_PHP), **work.params},
            server=self.running[contender.key].processes(),
        )

    def load(self, work: Work, contender: Contender, seconds: float) -> dict[str, float]:
        """Put load on a server; the result has the fields of :class:`~.load.Result`."""
        order = self.order(work, contender, seconds)
        printed = self.run("load", json.dumps(asdict(order)), seconds=seconds)
        result: dict[str, float] = json.loads(printed)
        return result

    def failed(self, series: Series, error: Exception) -> None:
        """Leave a series out, for a reason that its server knows best."""
        reason = self.running[series.contender].obituary() or str(error)
        self.left_out[f"{series.work}: {series.contender}"] = reason

    def round(self, series: Series, seconds: float) -> None:
        """Measure one contender in one work for so long, and let it come to rest.

        Raises:
            RuntimeError: load or server fails.
            subprocess.TimeoutExpired: the load does not end.
        """
        server = self.running[series.contender]
        try:
            self._measure(series, server, seconds)
        finally:
            server.rest()

    def _measure(self, series: Series, server: Running, seconds: float) -> None:
        work = WORKS[series.work]
        contender = CONTENDERS[series.contender]
        if work.how == "aborts":
            address = f"unix:{self.socket(contender.key)}"
            count = max(200, int(1000 * min(seconds, 2)))
            latencies = json.loads(self.run("aborts", address, str(_ABORTED), str(count)))
            series.add("abort_p50", percentile(latencies, 0.5))
            series.add("abort_p99", percentile(latencies, 0.99))
            return
        if work.how == "system calls":
            with self.counter.counting(server.processes()) as counted:
                answers = self.load(work, contender, max(seconds, _COUNTED))["answers"]
            series.add("calls", sum(counted.values()) / answers)
            common = sorted(counted.items(), key=lambda item: -item[1])[:4]
            series.notes = [f"{name} {count / answers:.2f}" for name, count in common]
            return
        if server.open_files() < work.idle:
            raise RuntimeError("the server has closed idle connections")
        result = self.load(work, contender, seconds)
        series.add("rate", result["answers"] / result["seconds"])
        series.add("cost", result["used"] / result["answers"] * 1e6)
        series.add("busy", result["busy"])
        if result["reconnects"] > result["answers"] / 2:
            series.notes = ["closes each connection"]
        for log in self.directory.glob("access.log"):
            log.write_bytes(b"")


def _start(stage: Stage, stack: contextlib.ExitStack, keys: Iterable[str]) -> None:
    """Start all these contenders that can be; say of the others why not."""
    for key in keys:
        contender = CONTENDERS[key]
        reason = contender.missing()
        if reason is None:
            stage.running[key] = stack.enter_context(stage.server(contender))
        else:
            stage.left_out[key] = reason
    for key, server in list(stage.running.items()):
        try:
            server.wait_for(str(stage.socket(key)))
        except RuntimeError as error:
            stage.left_out[key] = str(error)
            del stage.running[key]


def _obstacle(stage: Stage, work: Work) -> str | None:
    """Why that work cannot be done here; None if it can."""
    if work.nginx and not stage.behind:
        return "there is no nginx"
    if work.how == "system calls":
        return stage.counter.obstacle()
    return None


def _warm(stage: Stage, stack: contextlib.ExitStack, series: Series) -> None:
    """Let a contender reach its pace; give it its idle connections."""
    work = WORKS[series.work]
    server = stage.running[series.contender]
    if work.how == "load":
        stage.load(work, CONTENDERS[series.contender], _WARM)
    if work.idle:
        before = server.memory()
        stack.enter_context(stage.idle(series.contender, work.idle))
        series.add("idle_kib", (server.memory() - before) / 1024 / work.idle)


@contextlib.contextmanager
def set_up(
    works: Sequence[Work],
    wanted: Callable[[Work, str], bool],
    directory: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[Stage, list[Series]]]:
    """Start and warm what these works need.

    Args:
        works: to be measured.
        wanted: whether that contender shall do that work.
        directory: an empty one, for all files.
        say: told what is going on.

    Yields:
        The stage, and the series that can be measured.
    """
    stage = Stage(directory)
    pairs = [(work, key) for work in works for key in work.contenders if wanted(work, key)]
    with contextlib.ExitStack() as stack:
        keys = list(dict.fromkeys(key for _, key in pairs))
        say(f"Starting {len(keys)} servers …")
        _start(stage, stack, keys)
        proxied = {
            key: (CONTENDERS[key], stage.socket(key))
            for work, key in pairs
            if work.nginx and key in stage.running
        }
        stage.behind = stack.enter_context(behind_nginx(proxied, directory, stage.load_cores))
        series = []
        for work, key in pairs:
            contender = CONTENDERS[key]
            if key not in stage.running:
                continue  # left out already
            reason = _obstacle(stage, work)
            if reason is not None:
                stage.left_out[f"{work.name}: {key}"] = reason
                continue
            codec = ""
            if contender.name in {"trifcgi", "bare loop"}:
                codec = codec_of(contender.environment)
            one = Series(work.name, key, str(contender), contender.protocol, codec, {}, [])
            try:
                _warm(stage, stack, one)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                stage.failed(one, error)
            else:
                series.append(one)
        try:
            yield stage, series
        finally:
            for server in stage.running.values():  # all at once; then each is waited for
                server.ask_to_stop()
