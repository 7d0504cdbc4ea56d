"""The figures as tables for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from .figures import Ratio, Series, ratio, spread
from .targets import Verdict
from .works import WORKS

__all__ = ["as_json", "codec_table", "left_out_list", "target_table", "work_tables"]

_HEADING = f"{'':40}{'req/s':>9}  {'±':>4}{'µs CPU':>9}{'server':>8}{'load':>6}   against trifcgi"
_BUSY = 0.9  # of its core; below it, not the server was what held requests a second back
_MET = {"aim": "yes, the aim", "least": "yes", "missed": "NO", None: "not measured"}
NOTE = """\
±: half the way from the slowest round to the fastest. µs CPU: processor time of the server a
request, in user and kernel mode, all of its processes. server, load: how busy each was with its
core; ! where the server was less than 90 % busy, so that something else held requests a second
back: nginx, which shares the load's core, or other work on the machine. Against trifcgi: req/s and
µs CPU as multiples of trifcgi's with the same interface."""


def _ours(one: Series, rows: Sequence[Series]) -> Series | None:
    """What trifcgi did in the same work with the same app; with a C or PHP peer, the handler."""
    app = one.contender.rpartition("-")[2]
    if one.contender.startswith(("trifcgi", "bare-loop")):
        app = "handler" if one.contender == "bare-loop-handler" else ""
    elif app in {"c", "php", "go"}:
        app = "handler"
    return next((row for row in rows if row.contender == f"trifcgi-{app}"), None)


def _load_line(one: Series, ours: Series | None) -> str:
    rate, cost, load = (one.median(name) or 0.0 for name in ("rate", "cost", "busy"))
    server = rate * cost / 1e6
    line = (
        f"{one.label:40}{rate:>9,.0f}{' ' if server >= _BUSY else '!'}"
        f"{spread(one.figures['rate']):>5.0%}{cost:>9.1f}{server:>8.0%}{load:>6.0%}"
    )
    if ours is not None:
        their_rate, their_cost = ours.median("rate") or 1.0, ours.median("cost") or 1.0
        line += f"{rate / their_rate:>8.2f} x{cost / their_cost:>8.2f} x"
    notes = list(one.notes)
    if idle := one.median("idle_kib"):
        notes.append(f"{idle:.1f} KiB an idle connection")
    return f"{line}   {'; '.join(notes)}".rstrip()


def _lines(rows: Sequence[Series]) -> list[str]:
    how = WORKS[rows[0].work].how
    if how == "aborts":
        return [
            f"{one.label:40}p50 {one.median('abort_p50') or 0:.2f} ms,"
            f" p99 {one.median('abort_p99') or 0:.2f} ms"
            for one in rows
        ]
    if how == "system calls":
        return [
            f"{one.label:40}{one.median('calls') or 0:>9.2f} a request: {', '.join(one.notes)}"
            for one in rows
        ]
    ordered = sorted(rows, key=lambda one: one.median("cost") or 0.0)
    return [_HEADING, *(_load_line(one, _ours(one, rows)) for one in ordered)]


def _measured(series: Sequence[Series]) -> list[Series]:
    return [one for one in series if set(one.figures) - {"idle_kib"}]


def work_tables(series: Sequence[Series]) -> str:
    """A table for each work."""
    lines = []
    for name, work in WORKS.items():
        rows = [one for one in _measured(series) if one.work == name]
        if rows:
            lines += [work.title, *_lines(rows), ""]
    return "\n".join([*lines, NOTE]) if lines else "Nothing was measured."


def codec_table(series: Sequence[Series]) -> str:
    """What compiling the codec gives: each series on either."""
    by_place = {(one.work, one.contender): one for one in _measured(series)}
    lines = []
    for (work, contender), one in by_place.items():
        pure = by_place.get((work, f"{contender}-pure"))
        if pure is not None:
            faster = ratio(one.figures["rate"], pure.figures["rate"])
            costs = f"{pure.median('cost') or 0:>10.1f}{one.median('cost') or 0:>10.1f}"
            lines.append(f"{f'{one.label}, {work}':40}{costs}{_show(faster, 'x'):>28}")
    heading = f"{'The codec':40}{'pure µs':>10}{'compiled':>10}{'req/s':>28}"
    return "\n".join([heading, *lines]) if lines else ""


def _show(measured: Ratio, unit: str) -> str:
    return f"{measured.value:.2f} ({measured.low:.2f} to {measured.high:.2f}) {unit}".rstrip()


def target_table(verdicts: Sequence[Verdict]) -> str:
    """All targets, what was measured, and whether that is enough."""
    heading = f"{'Target':52}{'measured (rounds)':>28}{'at the least':>14}{'aim for':>9}   {'met'}"
    lines = [heading]
    for verdict in verdicts:
        target = verdict.target
        measured = _show(verdict.measured, target.unit) if verdict.measured else "-"
        cost = f"{verdict.by_cost:.2f}" if verdict.by_cost else ""
        sign = "≤" if target.most else "≥"
        lines.append(
            f"{target.what:52}{measured:>28}{cost:>8}{f'{sign} {target.least:g}':>14}"
            f"{f'{sign} {target.aim:g}':>9}   {_MET[verdict.met]}"
        )
    return "\n".join(lines)


def left_out_list(left_out: Mapping[str, str]) -> str:
    """What was not measured, and why."""
    lines = [f"Left out: {name}: {reason}" for name, reason in left_out.items()]
    return "\n".join(lines)


def as_json(
    series: Sequence[Series],
    verdicts: Sequence[Verdict],
    left_out: Mapping[str, str],
    about: Mapping[str, object],
) -> dict[str, object]:
    """Everything, fit for JSON: all rounds of all series, medians, targets, what was left out."""
    return {
        "format": 1,
        **about,
        "left_out": dict(left_out),
        "series": [
            {
                "work": one.work,
                "contender": one.contender,
                "label": one.label,
                "protocol": one.protocol,
                "codec": one.codec,
                "medians": {name: one.median(name) for name in one.figures},
                "rounds": one.figures,
                "notes": one.notes,
            }
            for one in _measured(series)
        ],
        "targets": [
            {
                **asdict(verdict.target),
                "measured": asdict(verdict.measured) if verdict.measured else None,
                "met": verdict.met,
                "by_cost": verdict.by_cost,
            }
            for verdict in verdicts
        ],
    }
