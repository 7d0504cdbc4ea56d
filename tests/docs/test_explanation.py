"""The numbers in the explanations are those of the code."""

import inspect
import logging
import re
import sys

import pytest

from tests.compiled.codec import module_files
from tests.docs.markdown import PROJECT, page
from trifcgi import Limits, Timeouts
from trifcgi.apps import wsgi_conversation
from trifcgi.apps.lifespan import SHUTDOWN_TIMEOUT
from trifcgi.apps.threads import ThreadPool
from trifcgi.config.table import SPAWNED_GRACE
from trifcgi.observe.instrument import StopReason
from trifcgi.observe.logs import JSONFormatter, TextFormatter
from trifcgi.protocol import Connection, framing
from trifcgi.server import body, connection, plane, streams, window, wire

_KIB, _MIB = 1 << 10, 1 << 20


def _default(function: object, name: str) -> object:
    assert callable(function)
    return inspect.signature(function).parameters[name].default


NUMBERS = [
    ("flow-control", "more than 256 KiB have not left", wire.HIGH_WATER, 256 * _KIB),
    ("flow-control", "when more than 256 KiB have collected", wire.HIGH_WATER, 256 * _KIB),
    ("flow-control", "one on which 4 MiB wait", connection._MAX_UNSENT, 4 * _MIB),
    ("flow-control", "once 128 KiB of its output", wsgi_conversation._WINDOW, 128 * _KIB),
    ("life-of-a-request", "whenever 256 KiB have collected", wire.HIGH_WATER, 256 * _KIB),
    ("speed", "when 256 KiB have collected", wire.HIGH_WATER, 256 * _KIB),
    ("speed", "of more than 16 KiB are not copied", framing.JOINED_UP_TO, 16 * _KIB),
    ("flow-control", "no more than 64 KiB are left", wire.LOW_WATER, 64 * _KIB),
    ("flow-control", "strides of 256 KiB", streams.STRIDE, 256 * _KIB),
    ("flow-control", "is let hold 512 KiB", wire.SEND_BUFFER, 512 * _KIB),
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


def test_the_way_of_a_request_goes_through_these_functions() -> None:
    for mark, where, _ in page("docs/explanation/speed.md").table("From recv to send"):
        files = [f"trifcgi/{name}" for name in re.findall(r"[\w/]+\.py", where)]
        assert files
        assert {name in module_files() for name in files} == {mark == "C"}, where
        code = "".join((PROJECT / name).read_text() for name in files)
        for name in re.findall(r"\w+", re.sub(r"[\w/]+\.py|\band\b|\bor\b", "", where)):
            assert re.search(rf"\bdef {name}\(", code), (where, name)


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
