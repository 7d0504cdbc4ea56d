"""The numbers in the explanations are those of the code."""

import inspect
import logging
import re
import sys

import pytest

from tests.docs.markdown import page
from trifcgi import Limits, Timeouts
from trifcgi.apps.lifespan import SHUTDOWN_TIMEOUT
from trifcgi.apps.threads import ThreadPool
from trifcgi.config.table import SPAWNED_GRACE
from trifcgi.observe.instrument import StopReason
from trifcgi.observe.logs import JSONFormatter, TextFormatter
from trifcgi.protocol import Connection
from trifcgi.server import body, connection, plane, streams, window, wire

_KIB, _MIB = 1 << 10, 1 << 20


def _default(function: object, name: str) -> object:
    assert callable(function)
    return inspect.signature(function).parameters[name].default


NUMBERS = [
    ("flow-control", "more than 256 KiB of it have not left", wire.HIGH_WATER, 256 * _KIB),
    ("flow-control", "less than 64 KiB are left", wire.LOW_WATER, 64 * _KIB),
    ("flow-control", "strides of 256 KiB", streams.STRIDE, 256 * _KIB),
    ("flow-control", "Up to 256 KiB of a body", body.WINDOW, 256 * _KIB),
    ("flow-control", "After 20 ms", window.PAUSE, 0.02),
    ("flow-control", "temporary file, up to 64 MiB", body.SPOOL_LIMIT, 64 * _MIB),
    ("flow-control", "read nothing for 1 s", window.PATIENCE, 1),
    ("flow-control", "and 4,096 names", _default(Connection, "max_pairs"), 4096),
    ("flow-control", "by 4 MiB", _default(Connection, "max_params_total"), 4 * _MIB),
    ("cut-responses", "for at most 5 seconds", connection._CUT_GRACE, 5),
    ("shutdown", "30 seconds;", Timeouts().grace, 30),
    ("shutdown", "3 in a process", SPAWNED_GRACE, 3),
    ("shutdown", "have 5 seconds to clean up", plane._CLEAN_UP, 5),
    ("shutdown", "has 10 seconds for it", SHUTDOWN_TIMEOUT, 10),
    ("shutdown", "threads have 2 seconds", _default(ThreadPool, "join_timeout"), 2),
    ("threat-model", "may spool 64 MiB", body.SPOOL_LIMIT, 64 * _MIB),
]


@pytest.mark.parametrize(("name", "words", "value", "said"), NUMBERS, ids=lambda value: str(value))
def test_a_number_is_what_it_is_said_to_be(
    name: str, words: str, value: object, said: float
) -> None:
    text = " ".join(" ".join(page(f"docs/explanation/{name}.md").prose).split())
    assert words in text
    assert value == said


def test_how_many_params_a_connection_may_hold_is_as_said() -> None:
    most = _default(Connection, "max_pairs")
    assert most == 65_536 // 16
    assert "65,536 names" in " ".join(page("docs/explanation/flow-control.md").prose)
    assert Limits().max_params == _MIB


def test_every_reason_to_stop_is_explained() -> None:
    rows = page("docs/explanation/cancellation.md").table("Reasons")
    assert [row[0] for row in rows] == [reason.value for reason in StopReason]


def _record() -> logging.LogRecord:
    try:
        raise ValueError("x")
    except ValueError:
        return logging.LogRecord(
            "trifcgi.server", logging.ERROR, __file__, 1, "it failed", None, sys.exc_info()
        )


def test_the_log_looks_as_shown() -> None:
    shown = page("docs/reference/logs.md").code("text")[0].text.splitlines()
    real = TextFormatter().format(_record()).splitlines()
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (INFO   |ERROR  ) (trifcgi|server): \S.*"
    assert re.fullmatch(line, real[0])
    assert all(re.fullmatch(line, text) for text in shown[:2])
    assert real[1] == shown[2]


def test_every_key_of_the_json_log_is_documented() -> None:
    prose = " ".join(page("docs/reference/logs.md").prose)
    for key in re.findall(r'"(\w+)": ', JSONFormatter().format(_record())):
        assert f"`{key}`" in prose
