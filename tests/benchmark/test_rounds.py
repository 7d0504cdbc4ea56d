"""Short rounds of ``scripts/bench`` with trifcgi alone: its load, its clocks, its clean-up."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.benchmark.contenders import CONTENDERS
from scripts.benchmark.figures import Series
from scripts.benchmark.processes import HOME
from scripts.benchmark.stage import Stage, set_up
from scripts.benchmark.works import WORKS

pytestmark = pytest.mark.real

MEASURED = {
    "direct": {"trifcgi-handler", "bare-loop-handler"},
    "short": {"trifcgi-handler"},
    "multiplexed": {"trifcgi-handler"},
    "upload": {"trifcgi-bodies"},
    "download": {"trifcgi-bodies"},
}
NUMBERS = [(work, key) for work, keys in MEASURED.items() for key in sorted(keys)]


@pytest.fixture(scope="module")
def ready() -> Iterator[tuple[Stage, dict[tuple[str, str], Series]]]:
    with (
        tempfile.TemporaryDirectory(prefix="trifcgi-bench-", dir="/tmp") as directory,
        set_up(
            [WORKS[name] for name in MEASURED],
            lambda work, key: key in MEASURED[work.name],
            Path(directory),
            lambda text: None,
        ) as (stage, series),
    ):
        assert stage.left_out == {}
        yield stage, {(one.work, one.contender): one for one in series}


@pytest.mark.parametrize(("work", "key"), NUMBERS)
def test_a_round_has_answers_and_costs(
    ready: tuple[Stage, dict[tuple[str, str], Series]], work: str, key: str
) -> None:
    stage, series = ready
    one = series[work, key]
    stage.round(one, 0.1)
    assert set(one.figures) == {"rate", "cost", "busy"}
    assert all(math.isfinite(value) and value > 0 for (value,) in one.figures.values())


def test_idle_connections_are_held_and_let_go(
    ready: tuple[Stage, dict[tuple[str, str], Series]],
) -> None:
    stage, _ = ready
    contender = CONTENDERS["trifcgi-handler-idle-1000"]
    with stage.server(contender) as server:
        server.wait_for(str(stage.socket(contender.key)))
        with stage.idle(contender.key, 60):  # far more than it has open otherwise
            assert server.open_files() > 60
            assert server.memory() > 1 << 20
        deadline = time.monotonic() + 20
        while server.open_files() > 60:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_aborts_are_timed(ready: tuple[Stage, dict[tuple[str, str], Series]]) -> None:
    stage, _ = ready
    contender = CONTENDERS["trifcgi-endless"]
    with stage.server(contender) as server:
        path = str(stage.socket(contender.key))
        server.wait_for(path)
        latencies = json.loads(stage.run("aborts", f"unix:{path}", "20", "40"))
    assert len(latencies) == 40
    assert all(latency > 0 for latency in latencies)


def test_what_a_load_does_not_expect_is_told(
    ready: tuple[Stage, dict[tuple[str, str], Series]],
) -> None:
    stage, _ = ready
    with pytest.raises(RuntimeError, match="not the expected answer"):
        stage.load(WORKS["upload"], CONTENDERS["trifcgi-handler"], 0.1)


def test_the_command_reports_writes_and_ends(tmp_path: Path) -> None:
    numbers, picture = tmp_path / "sub" / "bench.json", tmp_path / "bench.svg"
    command = [
        sys.executable, "-m", "benchmark", "--only", "direct/bare-loop-handler", "--rounds", "1",
        "--seconds", "0.1", "--json", str(numbers), "--svg", str(picture),
    ]  # fmt: skip
    done = subprocess.run(
        command, check=False, cwd=HOME, capture_output=True, text=True, timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bare loop handler" in done.stdout
    assert "not measured" not in done.stdout  # as it was not asked for
    content = json.loads(numbers.read_text())
    assert content["rounds"] == 1
    assert {one["contender"] for one in content["series"]} >= {"bare-loop-handler"}
    assert picture.read_text().startswith("<svg")


def test_the_command_lists_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "--list"],
        check=True, cwd=HOME, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    for name in WORKS:
        assert f"\n{name}: " in f"\n{done.stdout}"
