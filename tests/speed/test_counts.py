"""That a request costs no more than is recorded, in counts that a busy machine cannot change.

After a change that is meant to cost more, or that costs clearly less: ``scripts/baseline``.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.speed import baseline
from tests.speed.baseline import CODEC, ENVIRONMENT, FILE, KINDS, VERSION, Counts, Measured
from tests.speed.measure import executed, garbage

TOOLS = ("valgrind", "strace", os.environ.get("CC", "cc").split()[0])

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def measured() -> Measured:
    """Everything that is counted, once. Needs Linux's tools, which CI has to have."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("REQUIRE_FRONT_ENDS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return baseline.measure()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:  # Any: JSON
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


@each_kind
def test_a_request_costs_no_more_than_is_recorded(
    kind: str, measured: Measured, recorded: dict[str, Any]
) -> None:
    limits = baseline.limits(recorded, kind, measured.bare)
    assert {"calls", "system_calls", "instructions"} <= set(limits)
    for name, limit in limits.items():
        count = getattr(measured.kinds[kind], name)
        assert 0 < count <= limit.most, (
            f"{name} of a request; {limit.why}. `scripts/profile {kind}` shows what costs;"
            " `scripts/baseline` records a cost that is meant"
        )


@each_kind
def test_a_request_leaves_nothing_to_the_garbage_collector(kind: str) -> None:
    assert garbage(kind) == 0


def test_what_is_executed_is_the_same_each_time_and_a_checkpoint_more_is_seen() -> None:
    first, second, more = (
        {function: counts for function, counts in executed(kind, rounds=1).items()
         if function.file.startswith(("trifcgi/", "tests/speed/subject.py"))}
        for kind in ("handler", "handler", "susp")
    )  # fmt: skip
    assert first
    assert first == second
    assert sum(n.bytecodes for n in more.values()) > sum(n.bytecodes for n in first.values())


# Which record applies


def counted(factor: float = 1.0, **different: float) -> Measured:
    one = Counts(100 * factor, 4000 * factor, 2.1 * factor, 300_000 * factor)
    return Measured(dict.fromkeys(KINDS, one._replace(**different)), 200_000)


def exceeded(recorded: dict[str, Any], found: Measured, kind: str) -> set[str]:
    limits = baseline.limits(recorded, kind, found.bare)
    return {
        name for name, limit in limits.items() if getattr(found.kinds[kind], name) > limit.most
    }


@pytest.fixture
def before() -> dict[str, Any]:  # Any: JSON
    content: dict[str, Any] = {}
    baseline.record(content, counted())
    return content


@each_kind
def test_recorded_here_all_counts_are_held_to_the_record(
    kind: str, before: dict[str, Any]
) -> None:
    assert exceeded(before, counted(1.04), kind) == set()
    everything = {"calls", "bytecodes", "system_calls", "instructions"}
    assert exceeded(before, counted(1.2), kind) == everything


def test_system_calls_have_a_bound_that_no_record_lifts(before: dict[str, Any]) -> None:
    before[CODEC]["system calls"]["handler"] = 2.6
    assert exceeded(before, counted(system_calls=2.29), "handler") == set()
    assert exceeded(before, counted(system_calls=2.31), "handler") == {"system_calls"}


def test_another_build_holds_instructions_against_the_bare_loop(before: dict[str, Any]) -> None:
    before[CODEC]["instructions"] = {ENVIRONMENT + " of another kind": {"handler": 1}}
    assert exceeded(before, counted(instructions=370_000), "handler") == set()
    assert exceeded(before, counted(instructions=380_000), "handler") == {"instructions"}
    slower = counted(instructions=380_000)._replace(bare=220_000)
    assert exceeded(before, slower, "handler") == set()


def test_another_python_still_has_its_calls_counted(before: dict[str, Any]) -> None:
    before[CODEC]["bytecodes"] = {"another " + VERSION: {"handler": 1}}
    assert exceeded(before, counted(bytecodes=9_000), "handler") == set()
    assert exceeded(before, counted(calls=106), "handler") == {"calls"}


def test_another_codec_has_a_record_of_its_own() -> None:
    with pytest.raises(KeyError):
        baseline.limits({"another": {}}, "handler", 1)


def test_both_codecs_are_recorded(recorded: dict[str, Any]) -> None:
    assert set(recorded) == {"pure Python", "compiled"}


def test_the_command_says_what_it_does() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.speed.baseline", "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--show" in result.stdout
