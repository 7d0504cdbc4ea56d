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
from tests.speed.baseline import CODEC, ENVIRONMENT, FILE, KINDS, VERSION, Counts
from tests.speed.measure import executed, garbage

TOOLS = ("valgrind", "strace", os.environ.get("CC", "cc").split()[0])

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def counts() -> dict[str, Counts]:
    """Everything that is counted, once. Needs Linux's tools, which CI has to have."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("REQUIRE_FRONT_ENDS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return baseline.measure_all()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:  # Any: JSON
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


@each_kind
def test_a_request_costs_no_more_than_is_recorded(
    kind: str, counts: dict[str, Counts], recorded: dict[str, Any]
) -> None:
    limits = baseline.limits(recorded, kind, counts["bare"])
    assert {"calls", "system_calls", "instructions"} <= set(limits)
    for name, limit in limits.items():
        count = getattr(counts[kind], name)
        assert 0 < count <= limit.most, (
            f"{name} of a request; {limit.why}. `scripts/profile {kind}` shows what costs;"
            " `scripts/baseline` records a cost that is meant"
        )


@each_kind
def test_a_request_leaves_nothing_to_the_garbage_collector(kind: str) -> None:
    assert garbage(kind) == 0


def test_what_is_executed_is_the_same_each_time() -> None:
    first, second = (
        {function: counts for function, counts in executed("handler").items()
         if function.file.startswith("trifcgi/")}
        for _ in range(2)
    )  # fmt: skip
    assert first
    assert first == second


def test_a_checkpoint_more_is_seen() -> None:
    def total(kind: str) -> float:
        return sum(counts.bytecodes for counts in executed(kind).values())

    assert total("susp") > total("handler") + 20


# Which record applies


def counted(factor: float = 1.0) -> dict[str, Counts]:
    one = Counts(100 * factor, 4000 * factor, 2.1 * factor, 300_000 * factor)
    return dict.fromkeys((*KINDS, "bare"), one)


def exceeded(recorded: dict[str, Any], found: dict[str, Counts], kind: str) -> set[str]:
    limits = baseline.limits(recorded, kind, found["bare"])
    return {name for name, limit in limits.items() if getattr(found[kind], name) > limit.most}


def test_recorded_here_all_counts_are_held_to_the_record() -> None:
    recorded: dict[str, Any] = {}
    baseline.record(recorded, counted())
    assert exceeded(recorded, counted(1.04), "handler") == set()
    everything = {"calls", "bytecodes", "system_calls", "instructions"}
    assert exceeded(recorded, counted(1.2), "handler") == everything
    assert exceeded(recorded, counted(1.2), "wsgi") == everything


def test_another_build_holds_instructions_against_the_bare_loop() -> None:
    recorded: dict[str, Any] = {}
    baseline.record(recorded, counted())
    recorded[CODEC]["instructions"] = {ENVIRONMENT + " of another kind": {"handler": 1}}
    assert exceeded(recorded, counted() | {"handler": counted(1.04)["asgi"]}, "handler") == set()
    found = counted() | {"handler": counted()["asgi"]._replace(instructions=400_000)}
    assert exceeded(recorded, found, "handler") == {"instructions"}


def test_another_python_still_has_its_calls_counted() -> None:
    recorded: dict[str, Any] = {}
    baseline.record(recorded, counted())
    recorded[CODEC]["bytecodes"]["CPython 3.99"] = recorded[CODEC]["bytecodes"].pop(VERSION)
    assert exceeded(recorded, counted(1.06), "handler") == {
        "calls",
        "instructions",
        "system_calls",
    }


def test_another_codec_has_a_record_of_its_own() -> None:
    with pytest.raises(KeyError):
        baseline.limits({"another": {}}, "handler", counted()["bare"])


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
