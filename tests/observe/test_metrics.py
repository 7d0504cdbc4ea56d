"""Counting, summing, and Prometheus's format."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.observe.metrics import Gauges, Histogram, Metrics, add_up, exposition, totals
from trifcgi.testing import open_client, params


def outcome(
    status: int | None = 200,
    *,
    reason: StopReason | None = None,
    failed: bool = False,
    refused: bool = False,
    duration: float = 0.02,
) -> Outcome:
    return Outcome(
        status=status, body_bytes=1000, bytes_in=0, duration=duration, app_status=0,
        reason=reason, failed=failed, refused=refused,
    )  # fmt: skip


def count(*outcomes: Outcome) -> Metrics:
    metrics = Metrics()
    for each in outcomes:
        metrics.request_ended(None, each)  # type: ignore[arg-type]
    return metrics


@pytest.mark.parametrize(
    ("ended", "name"),
    [
        (outcome(503, refused=True), "refused"),
        (outcome(413, reason=StopReason.TOO_LARGE), "refused"),
        (outcome(None, reason=StopReason.ABORTED), "aborted"),
        (outcome(None, reason=StopReason.LOST), "aborted"),
        (outcome(504, reason=StopReason.TIMED_OUT), "timed_out"),
        (outcome(408, reason=StopReason.READ_TIMED_OUT), "timed_out"),
        (outcome(200, reason=StopReason.WRITE_TIMED_OUT), "timed_out"),
        (outcome(500, failed=True), "failed"),
        (outcome(503, reason=StopReason.CANCELLED), "cancelled"),
        (outcome(503, reason=StopReason.DRAINED), "cut"),
    ],
)
def test_every_end_is_counted_once(ended: Outcome, name: str) -> None:
    found = totals(count(ended, outcome()).counts())
    assert found["requests"] == 2
    kinds = ("refused", "aborted", "timed_out", "failed", "cancelled", "cut")
    assert {kind: found[kind] for kind in kinds if found[kind]} == {name: 1}


def test_a_histogram_counts_a_bound_as_inside() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 1], 8)


def test_sums_are_those_of_one_process_that_did_it_all() -> None:
    a, b = outcome(duration=0.001), outcome(404, duration=7)
    assert add_up([count(a, b).counts(), count(a).counts()]) == count(a, b, a).counts()
    assert add_up([]) == Metrics().counts()


def test_what_prometheus_reads_is_what_was_counted() -> None:
    gauges: Gauges = {
        "connections": [({"worker": "1", "pid": "7"}, 3.0)],
        "ready": [({}, 1.0)],
    }
    text = exposition(count(outcome(), outcome(), outcome(404, duration=400)).counts(), gauges)
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["trifcgi_requests_total", ("end", "complete"), ("status", "200")] == 2
    assert samples["trifcgi_request_duration_seconds_bucket", ("le", "0.01")] == 0
    assert samples["trifcgi_request_duration_seconds_bucket", ("le", "0.025")] == 2
    assert samples["trifcgi_request_duration_seconds_bucket", ("le", "+Inf")] == 3
    assert samples["trifcgi_request_duration_seconds_count",] == 3
    assert samples["trifcgi_connections", ("pid", "7"), ("worker", "1")] == 3
    assert samples["trifcgi_ready",] == 1


async def test_a_data_plane_feeds_them() -> None:
    async def app(request: object) -> None:
        raise RuntimeError

    metrics = Metrics()
    async with open_client(app, instruments=[metrics]) as client:
        assert (await client.request(params("/"))).status == 500
    assert (metrics.connections, metrics.requests) == (1, {(500, "failed"): 1})
