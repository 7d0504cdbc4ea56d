"""Figures of several rounds, and their ratios."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Ratio", "Series", "percentile", "ratio", "spread"]


@dataclass
class Series:
    """What one contender did in one work.

    Attributes:
        work: the work's name.
        contender: the contender's key.
        label: the contender in words.
        protocol: ``fastcgi`` or ``http``.
        codec: of trifcgi, ``compiled`` or ``pure Python``; empty for others.
        figures: by what was measured, a figure a round. ``rate``: requests a second;
            ``cost``: microseconds of processor time of the server a request; ``busy``: part
            of the time in which the load had its core; ``idle_kib``: KiB of memory an
            idle connection; ``abort_p50`` and ``abort_p99``: milliseconds; ``calls``: system
            calls a request.
        notes: what else there is to say, for people.
    """

    work: str
    contender: str
    label: str
    protocol: str
    codec: str
    figures: dict[str, list[float]]
    notes: list[str]

    def add(self, name: str, value: float) -> None:
        """Take a round's figure."""
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        """The median of a figure, or None if there is none."""
        values = self.figures.get(name)
        return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float:
    """Half the way from the lowest to the highest, as a part of the median."""
    median = statistics.median(values)
    return (max(values) - min(values)) / 2 / median if median else 0.0


def percentile(values: Sequence[float], part: float) -> float:
    """The value that ``part`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-part * len(ordered) // 1) - 1))]


@dataclass(frozen=True)
class Ratio:
    """A measured figure, or that of one series by that of another.

    Attributes:
        value: the median of the rounds' figures, or of the rounds' own ratios.
        low: the lowest of a round.
        high: the highest of a round.
    """

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float] | None = None) -> Ratio:
    """Median and range of a figure, or of the ratio of two in the same round.

    In a round the two are measured soon after each other, so that what disturbs the machine for
    longer disturbs both sides.
    """
    rounds = ours
    if theirs is not None:
        rounds = [mine / other for mine, other in zip(ours, theirs, strict=False)]
    return Ratio(statistics.median(rounds), min(rounds), max(rounds))
