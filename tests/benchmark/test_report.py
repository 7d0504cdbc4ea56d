"""What ``scripts/bench`` makes of figures: tables, JSON, a picture."""

import json
import xml.dom.minidom

import pytest

from scripts.benchmark import report
from scripts.benchmark.contenders import CONTENDERS
from scripts.benchmark.figures import Series
from scripts.benchmark.picture import draw
from scripts.benchmark.targets import judge
from scripts.benchmark.works import WORKS, Work


def measured(work: str, key: str, rate: float, cost: float) -> Series:
    contender = CONTENDERS[key]
    codec = "pure Python" if contender.pure else "compiled"
    figures = {"rate": [rate, rate * 0.9, rate * 1.1], "cost": [cost] * 3, "busy": [0.5] * 3}
    return Series(work, key, str(contender), contender.protocol, codec, figures, [])


@pytest.fixture
def series() -> list[Series]:
    aborts = Series("aborts", "trifcgi-endless", "trifcgi endless", "fastcgi", "compiled", {}, [])
    aborts.add("abort_p50", 0.2)
    aborts.add("abort_p99", 12.0)
    idle = measured("idle-10000", "trifcgi-handler-idle-10000", 30_000, 30.0)
    idle.add("idle_kib", 3.5)
    calls = Series(
        "system-calls", "trifcgi-handler", "trifcgi handler", "fastcgi", "compiled", {},
        ["recvfrom 1.00", "sendto 1.00"],
    )  # fmt: skip
    calls.add("calls", 2.08)
    return [
        measured("direct", "bare-loop-handler", 60_000, 16.0),
        measured("direct", "trifcgi-handler", 40_000, 25.0),
        measured("direct", "trifcgi-handler-pure", 20_000, 50.0),
        measured("direct", "libfcgi-c", 120_000, 6.0),
        measured("direct", "hypercorn-trio-asgi", 1_000, 900.0),
        measured("nginx", "trifcgi-asgi", 20_000, 40.0),
        measured("nginx", "granian-asgi", 20_000, 50.0),
        aborts, idle, calls,
    ]  # fmt: skip


@pytest.mark.parametrize("work", WORKS.values(), ids=lambda work: work.name)
def test_contenders_of_works_exist_and_have_names_of_their_own(work: Work) -> None:
    contenders = [CONTENDERS[key] for key in work.contenders]
    assert len({str(contender) for contender in contenders}) == len(contenders)
    if work.kind == "multiplexed" or work.how == "aborts" or work.idle:
        assert {contender.protocol for contender in contenders} == {"fastcgi"}


def test_every_contender_has_work() -> None:
    assert {key for work in WORKS.values() for key in work.contenders} == set(CONTENDERS)


def test_what_is_not_there_is_missing_by_name() -> None:
    contender = CONTENDERS["libfcgi-c"]
    reason = contender.missing()
    assert reason is None or "libfcgi" in reason


def test_tables_say_what_was_measured(series: list[Series]) -> None:
    text = report.work_tables(series)
    direct = next(line for line in text.splitlines() if line.startswith("libfcgi (C)"))
    # 72 % of its core, so something else held it back; 3 times trifcgi's handler.
    assert direct.split()[2:] == [
        "120,000!", "10%", "6.0", "72%", "50%", "3.00", "x", "0.24", "x",
    ]  # fmt: skip
    assert "3.5 KiB an idle connection" in text
    assert "p50 0.20 ms, p99 12.00 ms" in text
    assert "2.08 a request: recvfrom 1.00, sendto 1.00" in text
    assert WORKS["short"].title not in text


def test_the_codecs_are_compared(series: list[Series]) -> None:
    (_, line) = report.codec_table(series).splitlines()
    assert line.split()[:2] == ["trifcgi", "handler,"]
    assert "2.00 (2.00 to 2.00) x" in line


def test_targets_are_shown_met_and_not_met(series: list[Series]) -> None:
    lines = report.target_table(judge(series)).splitlines()
    handler = next(line for line in lines if line.startswith("handler: req/s against the bare"))
    assert "0.67 (0.67 to 0.67) x" in handler
    assert handler.endswith("≥ 0.65    ≥ 0.8   yes")
    p99 = next(line for line in lines if "p99" in line)
    assert p99.endswith("≤ 10      ≤ 3   NO")
    flup = next(line for line in lines if "flup" in line)
    assert flup.endswith("not measured")


def test_json_has_everything(series: list[Series]) -> None:
    content = json.loads(
        json.dumps(
            report.as_json(series, judge(series), {"uWSGI-wsgi": "no compiler"}, {"cores": 2})
        )
    )
    assert content["cores"] == 2
    assert content["left_out"] == {"uWSGI-wsgi": "no compiler"}
    first = content["series"][0]
    assert first["medians"] == {"rate": 60_000, "cost": 16.0, "busy": 0.5}
    assert first["rounds"]["rate"] == [60_000, 54_000, 66_000]
    assert len(content["series"]) == len(series)
    targets = {target["what"]: target for target in content["targets"]}
    assert targets["memory of an idle connection"]["met"] == "least"
    assert targets["WSGI: req/s against flup"]["measured"] is None


def test_the_picture_is_sound_and_described(series: list[Series]) -> None:
    root = xml.dom.minidom.parseString(draw(series, "1 < 2 & 3 rounds")).documentElement
    assert root is not None
    assert root.getElementsByTagName("title")
    (described,) = root.getElementsByTagName("desc")
    assert "trifcgi handler 40,000" in described.firstChild.data  # type: ignore[union-attr]
    bars = root.getElementsByTagName("rect")
    assert len(bars) == 7
    _, _, width, _ = map(float, root.getAttribute("viewBox").split())
    for bar in bars:
        assert 0 < float(bar.getAttribute("x")) + float(bar.getAttribute("width")) < width


def test_nothing_measured_draws_and_reports_nothing() -> None:
    assert "Nothing" in report.work_tables([])
    assert report.codec_table([]) == ""
    assert xml.dom.minidom.parseString(draw([], "nothing")).getElementsByTagName("rect") == []
