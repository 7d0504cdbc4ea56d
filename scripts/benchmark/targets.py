"""What trifcgi's speed is to be, as ratios, and whether it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .figures import Ratio, Series, ratio

__all__ = ["TARGETS", "Target", "Verdict", "judge", "side_by_side"]

Place = tuple[str, str]
"""A work and a contender."""


@dataclass(frozen=True)
class Target:
    """A figure of trifcgi, and what it is to be.

    Attributes:
        what: for people.
        figure: which one; see :class:`~.figures.Series`.
        ours: where it is measured.
        theirs: what it is divided by; None to take it as it is.
        least: what it must be.
        aim: what it should be.
        most: whether less is better.
        unit: of the figure; ``x`` for a ratio.
    """

    what: str
    figure: str
    ours: Place
    theirs: Place | None
    least: float
    aim: float
    most: bool = False
    unit: str = "x"


_HANDLER = ("direct", "trifcgi-handler")
_ASGI = ("direct", "trifcgi-asgi")
_WSGI = ("direct", "trifcgi-wsgi")
_BEHIND = ("nginx", "trifcgi-asgi")
_UVICORN = ("direct", "uvicorn-asgi")

TARGETS = (
    Target("handler: req/s against the bare loop", "rate", _HANDLER,
           ("direct", "bare-loop-handler"), 0.65, 0.8),
    Target("ASGI: req/s against uvicorn", "rate", _ASGI, _UVICORN, 1.4, 1.8),
    Target("ASGI, pure Python codec: req/s against uvicorn", "rate",
           ("direct", "trifcgi-asgi-pure"), _UVICORN, 0.9, 1.2),
    Target("ASGI behind nginx: CPU against granian", "cost", _BEHIND,
           ("nginx", "granian-asgi"), 1.0, 0.7, most=True),
    Target("ASGI behind nginx: CPU against uWSGI", "cost", _BEHIND,
           ("nginx", "uWSGI-wsgi"), 1.1, 0.8, most=True),
    Target("Starlette: req/s against uvicorn", "rate", ("starlette", "trifcgi-starlette"),
           ("starlette", "uvicorn-starlette"), 1.3, 1.6),
    Target("app that waits once: req/s against uvicorn", "rate",
           ("suspending", "trifcgi-suspending"), ("suspending", "uvicorn-suspending"), 1.0, 1.2),
    Target("WSGI: req/s against flup", "rate", _WSGI, ("direct", "flup-wsgi"), 5, 7),
    Target("WSGI: req/s against gunicorn gthread", "rate", _WSGI,
           ("direct", "gunicorn-gthread-wsgi"), 10, 14),
    Target("WSGI: CPU against uWSGI", "cost", _WSGI, ("direct", "uWSGI-wsgi"), 1.2, 0.9,
           most=True),
    Target("4 x 8 multiplexed: req/s against its own 32 x 1", "rate",
           ("multiplexed", "trifcgi-handler"), _HANDLER, 1.2, 1.4),
    Target("1 MiB upload: req/s against uvicorn", "rate", ("upload", "trifcgi-bodies"),
           ("upload", "uvicorn-bodies"), 1.2, 1.5),
    Target("16 MiB download: req/s against uvicorn", "rate", ("download", "trifcgi-bodies"),
           ("download", "uvicorn-bodies"), 0.95, 1.1),
    Target("memory of an idle connection", "idle_kib",
           ("idle-10000", "trifcgi-handler-idle-10000"), None, 6, 3, most=True, unit="KiB"),
    Target("beside 10,000 idle connections: req/s against none", "rate",
           ("idle-10000", "trifcgi-handler-idle-10000"), _HANDLER, 0.8, 0.9),
    Target("abort to END_REQUEST, 1,000 running: p50", "abort_p50",
           ("aborts", "trifcgi-endless"), None, 1, 0.3, most=True, unit="ms"),
    Target("abort to END_REQUEST, 1,000 running: p99", "abort_p99",
           ("aborts", "trifcgi-endless"), None, 10, 3, most=True, unit="ms"),
    Target("handler, access log on: req/s against off", "rate",
           ("access-log", "trifcgi-handler-logging"), _HANDLER, 0.85, 0.95),
    Target("ASGI, access log on: req/s against off", "rate",
           ("access-log", "trifcgi-asgi-logging"), _ASGI, 0.85, 0.95),
    Target("handler: system calls a request", "calls", ("system-calls", "trifcgi-handler"), None,
           2.3, 2.1, most=True, unit=""),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        target: the target.
        measured: None where one of its sides was not measured.
        met: ``aim``, ``least`` or ``missed``; None where it was not measured.
        by_cost: what a ratio of rates would be if processor time alone had held them back. Where
            it is far from what was measured, something else did.
    """

    target: Target
    measured: Ratio | None
    met: str | None
    by_cost: float | None = None


Figures = Mapping[tuple[Place, str], list[float]]


def side_by_side(series: Sequence[Series]) -> list[Series]:
    """The series in an order in which those that are compared, by a target or as the codecs are,
    come as soon after each other as can be: in seconds a busy machine becomes another one.
    """
    left = {(one.work, one.contender): one for one in series}
    compared = [(target.ours, target.theirs) for target in TARGETS if target.theirs is not None]
    compared += [((work, contender), (work, f"{contender}-pure")) for work, contender in left]
    ordered: list[Series] = []

    def take(place: Place) -> None:
        one = left.pop(place, None)
        if one is not None:
            ordered.append(one)
            for pair in compared:
                if place in pair:
                    take(pair[pair[0] == place])

    for place in list(left):
        take(place)
    return ordered


def _by_cost(target: Target, values: Figures) -> float | None:
    if target.figure != "rate" or target.theirs is None:
        return None
    return ratio(values[target.theirs, "cost"], values[target.ours, "cost"]).value


def _judge(target: Target, values: Figures) -> Verdict:
    ours = values.get((target.ours, target.figure))
    theirs = values.get((target.theirs, target.figure)) if target.theirs else None
    if not ours or (target.theirs and not theirs):
        return Verdict(target, None, None)
    measured = ratio(ours, theirs)
    sign = -1 if target.most else 1
    # As it is printed: what reads as the target is the target.
    value = sign * round(measured.value, 2)
    if value >= sign * target.aim:
        met = "aim"
    else:
        met = "least" if value >= sign * target.least else "missed"
    return Verdict(target, measured, met, _by_cost(target, values))


def judge(series: Iterable[Series]) -> list[Verdict]:
    """Hold what was measured to all targets."""
    values = {
        ((one.work, one.contender), name): figures
        for one in series
        for name, figures in one.figures.items()
    }
    return [_judge(target, values) for target in TARGETS]
