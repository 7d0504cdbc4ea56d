"""The arithmetic of ``scripts/bench``: medians, ranges, ratios, and what is made of them."""

import pytest

from scripts.benchmark.figures import Series, percentile, ratio, spread
from scripts.benchmark.targets import TARGETS, Target, judge, side_by_side
from scripts.benchmark.works import WORKS


def series(work: str, contender: str, **figures: list[float]) -> Series:
    return Series(work, contender, contender, "fastcgi", "", figures, [])


def test_a_series_has_medians_of_what_was_measured() -> None:
    one = series("direct", "trifcgi-handler")
    for rate in (3.0, 1.0, 2.0):
        one.add("rate", rate)
    assert one.median("rate") == 2.0
    assert one.median("cost") is None


def test_spread_is_half_the_range() -> None:
    assert spread([90.0, 100.0, 130.0]) == pytest.approx(0.2)
    assert spread([5.0]) == 0.0


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1.0), (0.5, 50.0), (0.501, 51.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_percentiles_are_values_that_were_seen(part: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], part) == value


def test_percentile_of_one_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    measured = ratio([10.0, 80.0, 60.0], [10.0, 40.0, 20.0])
    assert (measured.value, measured.low, measured.high) == (2.0, 1.0, 3.0)
    alone = ratio([3.0, 1.0, 2.0])
    assert (alone.value, alone.low, alone.high) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("ours", "met"), [(1.0, "missed"), (1.394, "missed"), (1.396, "least"), (1.8, "aim")]
)
def test_more_is_better_unless_said(ours: float, met: str) -> None:
    verdicts = judge(
        [
            series("direct", "trifcgi-asgi", rate=[ours], cost=[20.0]),
            series("direct", "uvicorn-asgi", rate=[1.0], cost=[30.0]),
        ]
    )
    (verdict,) = (verdict for verdict in verdicts if verdict.met)
    assert (verdict.met, verdict.by_cost) == (met, 1.5)


@pytest.mark.parametrize(("ours", "met"), [(6.1, "missed"), (6.0, "least"), (2.9, "aim")])
def test_less_is_better_where_it_is(ours: float, met: str) -> None:
    verdicts = judge([series("idle-10000", "trifcgi-handler-idle-10000", idle_kib=[ours])])
    assert [verdict.met for verdict in verdicts if verdict.met] == [met]


def test_a_target_with_one_side_is_not_measured() -> None:
    verdicts = judge([series("direct", "trifcgi-asgi", rate=[1.0])])
    assert not any(verdict.met or verdict.measured for verdict in verdicts)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.what)
def test_targets_are_of_what_is_measured(target: Target) -> None:
    for place in (target.ours, target.theirs):
        assert place is None or place[1] in WORKS[place[0]].contenders
    assert (target.aim < target.least) == target.most


@pytest.mark.parametrize("start", [0, 1, 7, 13, 20, 27, 40, 60])
def test_what_is_compared_is_measured_side_by_side(start: int) -> None:
    every = [series(work.name, key) for work in WORKS.values() for key in work.contenders]
    ordered = side_by_side(every[start:] + every[:start])
    assert sorted(map(id, ordered)) == sorted(map(id, every))
    at = {(one.work, one.contender): number for number, one in enumerate(ordered)}
    for target in TARGETS:
        if target.theirs is not None:
            assert abs(at[target.ours] - at[target.theirs]) <= 6


def test_what_is_left_out_is_compared_with_nothing() -> None:
    every = [series("direct", "trifcgi-asgi"), series("direct", "PHP-FPM-php")]
    assert side_by_side(every) == every
