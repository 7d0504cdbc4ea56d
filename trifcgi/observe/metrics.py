"""Counters and histograms of the data plane: one set a process, summed over the workers.

A process counts (:class:`Metrics`) and gives its counts as plain JSON values; :func:`add_up`
sums those of several processes; :func:`exposition` writes them as Prometheus reads them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trifcgi.observe.instrument import Instrument, Outcome, StopReason
from trifcgi.observe.recorder import end_of
from trifcgi.observe.tally import Histogram, Tally
from trifcgi.request import Request

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["CONTENT_TYPE", "Counts", "Gauges", "Histogram", "Metrics", "add_up", "exposition",
           "killed", "progress", "totals"]  # fmt: skip

Counts: TypeAlias = dict[str, Any]
"""What :meth:`Metrics.counts` gives: JSON values."""

Gauges: TypeAlias = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""Values of the moment, by name: for each the labels, and the value."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what :func:`exposition` writes."""

_KILLED: Final = "killed"
_CUT: Final = (end_of(StopReason.DRAINED, failed=False, refused=False), _KILLED)
_ABORTED: Final = ("aborted", "connection-lost")
_TIMED_OUT: Final = ("request-timeout", "read-timeout", "write-timeout")


class Metrics(Instrument):
    """Counts what the data plane does.

    Attributes:
        connections: how many were opened.
        recorder: counts the requests.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.recorder = Tally()

    @property
    def requests(self) -> dict[tuple[int, str], int]:
        """Requests that have ended, by status and by why."""
        return self.recorder.requests

    def connection_opened(self, peer: str) -> None:
        """Count it."""
        self.connections += 1

    def request_ended(self, request: Request, outcome: Outcome) -> None:
        """Count it, by its status and by how it ended."""
        self.recorder.record(
            b"", {}, None, 0, outcome.status or 0, outcome.body_bytes, outcome.bytes_in,
            outcome.duration, outcome.app_status,
            end_of(outcome.reason, outcome.failed, outcome.refused),
        )  # fmt: skip

    def counts(self) -> Counts:
        """All counts, as JSON values."""
        return {
            "connections": self.connections,
            "requests": [[status, end, n] for (status, end), n in sorted(self.requests.items())],
            "duration": self.recorder.duration.as_json(),
            "bytes_in": self.recorder.bytes_in.as_json(),
            "bytes_out": self.recorder.bytes_out.as_json(),
        }


def add_up(several: Iterable[Counts]) -> Counts:
    """The sum of several processes' counts; zeros for none."""
    whole = Metrics()
    for counts in several:
        whole.connections += counts["connections"]
        for status, end, number in counts["requests"]:
            whole.recorder.add(status, end, number)
        for name in ("duration", "bytes_in", "bytes_out"):
            into: Histogram = getattr(whole.recorder, name)
            into.counts = [a + b for a, b in zip(into.counts, counts[name]["counts"], strict=True)]
            into.sum += counts[name]["sum"]
    return whole.counts()


def progress(counts: Counts) -> int:
    """A number that grows whenever a process counts anything: it tells which counts are older."""
    found: int = counts["connections"] + sum(number for _, _, number in counts["requests"])
    return found


def killed(number: int) -> Counts:
    """Requests that ended with their process, which could not count them any more."""
    counts = Metrics().counts()
    if number:
        counts["requests"] = [[0, _KILLED, number]]
    return counts


def totals(counts: Counts) -> dict[str, Any]:
    """The figures that people ask for first.

    Returns:
        ``requests`` that have ended, and of those: ``refused`` by the server, ``aborted`` by
        the front end or with its connection, ``timed_out``, ``failed`` (the app raised),
        ``cancelled``, ``cut`` (by a stop, or the end of a worker that was replaced);
        ``responses`` by the status's first digit;
        ``connections`` ever opened; ``bytes_in`` and ``bytes_out`` of bodies.
    """
    ends: dict[str, int] = {}
    classes: dict[str, int] = {}
    for status, end, number in counts["requests"]:
        ends[end] = ends.get(end, 0) + number
        if status:
            which = f"{status // 100}xx"
            classes[which] = classes.get(which, 0) + number
    return {
        "connections": counts["connections"],
        "requests": sum(ends.values()),
        "refused": ends.get("refused", 0) + ends.get("body-too-large", 0),
        "aborted": sum(ends.get(end, 0) for end in _ABORTED),
        "timed_out": sum(ends.get(end, 0) for end in _TIMED_OUT),
        "failed": ends.get("failed", 0),
        "cancelled": ends.get("cancelled", 0),
        "cut": sum(ends.get(end, 0) for end in _CUT),
        "responses": dict(sorted(classes.items())),
        "bytes_in": int(counts["bytes_in"]["sum"]),
        "bytes_out": int(counts["bytes_out"]["sum"]),
    }


_GAUGE_HELP: Final[Mapping[str, str]] = {
    "build_info": "Always 1; the labels say what runs.",
    "ready": "Whether new requests are taken: 1 or 0.",
    "uptime_seconds": "Since the server began.",
    "workers": "Worker processes, by state.",
    "worker_up": "Whether the worker answers its supervisor: 1 or 0.",
    "connections": "Connections open now.",
    "requests_running": "Requests whose handlers run or wait for their turn now.",
    "event_loop_lag_seconds": "How late the event loop was lately, at worst.",
    "resident_memory_bytes": "Resident memory.",
    "open_files": "File descriptors in use.",
    "threads": "WSGI threads, by state: busy, abandoned; and requests waiting for one.",
    "log_lines_lost": "Lines that a log could not take.",
    "worker_restarts": "Workers that ended by themselves and were replaced.",
}


def exposition(counts: Counts, gauges: Gauges) -> str:
    """Everything in Prometheus's text format.

    Args:
        counts: summed over the workers.
        gauges: values of the moment; names are without the ``trifcgi_`` in front.
    """
    # Imported here: it takes a tenth of a second, and a server that nobody scrapes need not
    # spend that.
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(counts, gauges))
    return generate_latest(registry).decode()


class _Collector:
    """Gives prometheus-client counts that were made elsewhere."""

    def __init__(self, counts: Counts, gauges: Gauges) -> None:
        self._counts = counts
        self._gauges = gauges

    def describe(self) -> list["Metric"]:
        """Nothing ahead of time: the registry is used once."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """All metrics."""
        from prometheus_client.core import (  # noqa: PLC0415 (see exposition)
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        counts = self._counts
        requests = CounterMetricFamily(
            "trifcgi_requests",
            "Requests that have ended, by HTTP status (0: no response) and by how they ended.",
            labels=("status", "end"),
        )
        for status, end, number in counts["requests"]:
            requests.add_metric((str(status), end), number)
        yield requests
        yield CounterMetricFamily(
            "trifcgi_connections_opened",
            "Connections opened; one that a worker passes on to another counts again.",
            value=counts["connections"],
        )
        for name, key, text in (
            ("request_duration_seconds", "duration", "From the request's begin to its end."),
            ("request_body_bytes", "bytes_in", "Sizes of request bodies."),
            ("response_body_bytes", "bytes_out", "Sizes of response bodies."),
        ):
            histogram = counts[key]
            yield HistogramMetricFamily(
                f"trifcgi_{name}", text, buckets=list(_buckets(histogram)),
                sum_value=histogram["sum"],
            )  # fmt: skip
        for name, values in self._gauges.items():
            labels = tuple(values[0][0]) if values else ()
            gauge = GaugeMetricFamily(f"trifcgi_{name}", _GAUGE_HELP[name], labels=labels)
            for named, value in values:
                gauge.add_metric([named[label] for label in labels], value)
            yield gauge


def _buckets(histogram: Counts) -> Iterator[tuple[str, float]]:
    running = 0
    for bound, count in zip([*histogram["bounds"], "+Inf"], histogram["counts"], strict=True):
        running += count
        yield (bound if isinstance(bound, str) else f"{float(bound)!r}"), running
