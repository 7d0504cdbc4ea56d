"""Answers as text: tables for people, and Prometheus's format for its metrics.

What peers chose (URIs, task names) comes out printable: it may be read on a terminal.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from trifcgi.admin.source import Data
from trifcgi.observe import metrics
from trifcgi.observe.masking import printable

__all__ = [
    "facts", "figures", "show_allocations", "show_config", "show_connections", "show_help",
    "show_memory", "show_metrics", "show_request", "show_requests", "show_status", "show_tasks",
    "show_traces", "show_workers", "size", "span", "table",
]  # fmt: skip

_WIDEST: Final = 100  # characters of a column that nothing else bounds


def size(number: float | None) -> str:
    """Bytes in a unit that fits: ``12.3 MiB``."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def span(seconds: float | None) -> str:
    """A time in units that fit: ``1.25 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "none") -> str:
    """Rows below heads, in columns as wide as they need to be; numbers to the right."""
    texts = [[_cell(value) for value in row] for row in rows]
    if not texts:
        return empty
    right = [all(_is_figure(row[i]) for row in texts) for i in range(len(heads))]
    widths = [max(len(head), *(len(row[i]) for row in texts)) for i, head in enumerate(heads)]
    lines = []
    for row in [list(heads), *texts]:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_figure(text: str) -> bool:
    return text == "-" or text[:1].isdigit()


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = printable(str(value))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, a line each."""
    shown = [(name, _word(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else printable(str(value))


def figures(data: Data) -> str:
    """Any flat answer."""
    return facts(data.items())


_BADLY: Final = (
    ("refused", "refused"),
    ("aborted", "aborted"),
    ("timed_out", "timed out"),
    ("failed", "failed"),
    ("cancelled", "cancelled"),
    ("cut", "cut"),
)


def show_status(data: Data) -> str:
    """``status``."""
    total = data["totals"]
    classes = ", ".join(f"{n} {which}" for which, n in total["responses"].items()) or "none"
    threads = data["threads"]
    lines = [
        ("version", f"{data['version']} (Python {data['python']}, trio {data['trio']})"),
        ("app", f"{data['app']} ({data['kind']})"),
        ("state", data["state"]),
        ("uptime", span(data["uptime"])),
        ("listeners", ", ".join(data["listeners"]) or "none"),
        ("connections", f"{data['connections']} open, {total['connections']} in all"),
        ("requests", f"{data['requests']} running, {total['requests']} ended ({classes})"),
        ("ended badly", ", ".join(f"{total[kind]} {words}" for kind, words in _BADLY)),
        ("bodies", f"{size(total['bytes_in'])} in, {size(total['bytes_out'])} out"),
    ]
    if threads["size"]:
        busy = f"{threads['busy']} of {threads['size']} busy"
        waiting = f"{threads['waiting']} requests waiting"
        lines.append(("threads", f"{busy}, {waiting}, {threads['abandoned']} abandoned"))
    if data["restarts"]:
        lines.append(("restarts", data["restarts"]))
    workers = table(
        ("worker", "pid", "gen", "state", "uptime", "memory", "lag", "conns", "requests", "ended"),
        (
            (
                worker["number"],
                worker["pid"],
                worker["generation"],
                worker["state"] if worker["answers"] else f"{worker['state']}, does not answer",
                span(worker["uptime"]),
                size(worker["rss"]),
                span(worker["lag"]),
                worker["connections"],
                worker["requests"],
                worker["totals"]["requests"],
            )
            for worker in data["workers"]
        ),
    )
    return f"{facts(lines)}\n\n{workers}"


def show_requests(data: Data) -> str:
    """``requests``."""
    return table(
        (
            "id",
            "age",
            "phase",
            "method",
            "uri",
            "client",
            "in",
            "out",
            "deadline",
            "app",
            "blocked",
        ),
        (
            (
                request["id"],
                span(request["age"]),
                request["stopping"] or request["phase"],
                request["method"],
                request["uri"],
                request["client"] or request["connection"],
                size(request["bytes_in"]),
                size(request["bytes_out"]),
                span(request["deadline"]),
                span(request["in_app"]),
                span(request["blocked"]),
            )
            for request in data["requests"]
        ),
        empty="no requests are running",
    )


def show_request(data: Data) -> str:
    """``request``."""
    request = data["request"]
    plain = {name: value for name, value in request.items() if name not in ("params", "task")}
    parts = [facts(plain.items())]
    parts.append(facts([("params", ""), *((f"  {n}", v) for n, v in request["params"])]))
    if request["task"] is not None:
        parts.append("\n".join(_task(request["task"], "")))
    return "\n\n".join(parts)


def show_tasks(data: Data) -> str:
    """``tasks``."""
    parts = []
    for worker in data["workers"]:
        head = f"worker {worker['number']}, pid {worker['pid']}, tasks: {worker['tasks']}"
        parts.append("\n".join([head, *_task(worker["tree"], "")]))
    return "\n\n".join(parts)


def _task(task: Data, margin: str) -> Iterator[str]:
    request = "" if task["request"] is None else f" (request {task['request']})"
    yield f"{margin}{printable(task['name'])}{request}{', running' if task['running'] else ''}"
    children = [
        (number, child)
        for number, nursery in enumerate(task["nurseries"], 1)
        for child in nursery["tasks"]
    ]
    inner = margin.replace("├─ ", "│  ").replace("└─ ", "   ")
    bar = inner + ("│  " if children else "   ")
    yield from _stack(task["stack"], bar + " ")
    for thread in task["threads"]:
        yield f"{bar} thread {printable(thread['name'])}"
        yield from _stack(thread["stack"], bar + "   ")
    for place, (number, child) in enumerate(children, 1):
        branch = "└─ " if place == len(children) else "├─ "
        which = f"[nursery {number}] " if len(task["nurseries"]) > 1 else ""
        lines = _task(child, inner + branch)
        yield next(lines).replace(branch, branch + which, 1) if which else next(lines)
        yield from lines


def _stack(stack: Sequence[Data], margin: str) -> Iterator[str]:
    for frame in stack:
        where = f'File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}'
        yield f"{margin}{printable(where)}"
        if frame["source"]:
            yield f"{margin}  {printable(frame['source'])}"


def show_connections(data: Data) -> str:
    """``connections``."""
    return table(
        ("worker", "peer", "state", "idle", "unsent", "blocked", "requests"),
        (
            (
                connection["worker"],
                connection["peer"],
                connection["state"],
                span(connection["idle"]),
                size(connection["unsent"]),
                span(connection["blocked"]),
                ", ".join(connection["requests"]),
            )
            for connection in data["connections"]
        ),
        empty="no connections are open",
    )


def show_memory(data: Data) -> str:
    """``memory``."""
    workers = table(
        ("worker", "pid", "memory", "peak", "files", "garbage counts", "traced"),
        (
            (
                worker["number"],
                worker["pid"],
                size(worker["rss"]),
                size(worker["peak_rss"]),
                worker["open_files"],
                "/".join(map(str, worker["gc"]["counts"])),
                size(worker["traced"]) if worker["tracing"] else "off",
            )
            for worker in data["workers"]
        ),
    )
    return "\n\n".join([workers, *map(show_allocations, filter(_traced, data["workers"]))])


def _traced(worker: Data) -> bool:
    return bool(worker.get("top"))


def show_allocations(worker: Data) -> str:
    """Where a worker's memory was allocated."""
    where = table(
        ("bytes", "blocks", "allocated at"),
        ((size(a["bytes"]), a["blocks"], f"{a['file']}:{a['line']}") for a in worker["top"]),
    )
    return f"worker {worker['number']}\n{where}"


def show_config(data: Data) -> str:
    """``config``."""
    options = table(
        ("option", "value", "from"),
        ((each["name"], each["value"], each["origin"]) for each in data["options"]),
        empty="no options",
    )
    limits = ", ".join(f"{name} {_word(value)}" for name, value in data["limits"].items())
    return f"{options}\n\nlimits now: {limits or 'unknown'}"


def show_metrics(data: Data) -> str:
    """``metrics``, in Prometheus's text format."""
    return metrics.exposition(data["counts"], _gauges(data)).rstrip("\n")


def _gauges(data: Data) -> metrics.Gauges:
    workers = data["workers"]
    built = {"version": data["version"], "python": data["python"], "app": data["app"]}
    states: dict[str, int] = {}
    for worker in workers:
        states[worker["state"]] = states.get(worker["state"], 0) + 1

    def each(name: str) -> list[tuple[dict[str, str], float]]:
        return [
            ({"worker": str(worker["number"]), "pid": str(worker["pid"])}, float(worker[name]))
            for worker in workers
            if worker[name] is not None
        ]

    threads = [
        ({"state": state}, float(sum(worker["threads"][state] for worker in workers)))
        for state in ("busy", "waiting", "abandoned")
    ]
    return {
        "build_info": [(built, 1.0)],
        "ready": [({}, float(data["ready"]))],
        "uptime_seconds": [({}, data["uptime"])],
        "workers": [({"state": state}, float(n)) for state, n in sorted(states.items())],
        "worker_restarts": [({}, float(data["restarts"]))],
        "worker_up": each("answers"),
        "connections": each("connections"),
        "requests_running": each("requests"),
        "event_loop_lag_seconds": each("lag"),
        "resident_memory_bytes": each("rss"),
        "open_files": each("open_files"),
        "log_lines_lost": each("log_lines_lost"),
        "threads": threads,
    }


def show_workers(data: Data) -> str:
    """What each worker says to a change."""
    return "\n".join(
        f"worker {worker['number']} (pid {worker['pid']}): {_said(worker)}"
        for worker in data["workers"]
    )


def _said(worker: Data) -> str:
    said = []
    for name, value in worker.items():
        if name in ("number", "pid"):
            continue
        if isinstance(value, dict):
            said += [f"{key} {_word(inner)}" for key, inner in value.items()]
        else:
            said.append(f"{name} {_word(value)}")
    return ", ".join(said)


def show_traces(data: Data) -> str:
    """``traces``."""
    parts = [_trace(trace) for trace in data["traces"]]
    if data["awaited"]:
        parts.append(f"{data['awaited']} more requests are awaited")
    return "\n\n".join(parts) or "nothing has been traced: trifcgi admin trace COUNT"


def _trace(trace: Data) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(trace["began"]))
    who = f"request {trace['request_id']} of {trace['peer']}, {trace['role']}"
    lines = [f"{printable(who)}, at {clock}, worker {trace['worker']}"]
    lines += [f"  {name} = {printable(value)}" for name, value in trace["params"]]
    if trace["meaning"]:
        meant = ", ".join(f"{name} {value!r}" for name, value in trace["meaning"].items())
        lines.append(f"  meaning: {printable(meant)}")
    for record in trace["records"]:
        arrow = "->" if record["direction"] == "in" else "<-"
        detail = printable(record["detail"].replace("\n", " | "))
        lines.append(
            f"  {record['at'] * 1000:10.3f} ms {arrow} {record['type']:<13}"
            f" {record['length']:>6} {detail}".rstrip()
        )
    if trace["left_out"]:
        lines.append(f"  and {trace['left_out']} more records")
    return "\n".join(lines)


def show_help(data: Data) -> str:
    """``help``."""
    return table(
        ("command", "method", "path", "what it does"),
        (
            (" ".join([each["name"], *each["usage"]]), each["method"], each["path"], each["help"])
            for each in data["commands"]
        ),
    )
