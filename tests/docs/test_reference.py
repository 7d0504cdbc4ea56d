"""The reference says what the code says."""

import inspect
import json
import re
import signal

import pytest
import trio

import trifcgi
from tests.docs.markdown import PAGES, Page, page
from tests.docs.tables import updated
from trifcgi import errors, launch
from trifcgi.observe.access_line import combined_line, fields_of
from trifcgi.observe.access_log import Stamp, json_line
from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.protocol import Role
from trifcgi.request import RequestStream, ResponseStream

PYTHON = page("docs/reference/python.md")
LOGS = page("docs/reference/logs.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page: Page) -> None:
    text = page.path.read_text()
    assert text == updated(text), "run: python -m tests.docs.tables"


def _spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_the_python_page_has_every_public_name_and_no_other() -> None:
    headings = {
        heading.removeprefix("trifcgi.").replace("\\_", "_")
        for heading in PYTHON.headings
        if heading.startswith("trifcgi.")
    }
    in_prose = {
        name.removeprefix("trifcgi.")
        for name in _spans("\n".join(PYTHON.prose))
        if re.fullmatch(r"trifcgi\.[A-Z]\w+", name)
    }
    assert headings | in_prose == set(trifcgi.__all__)
    assert set(trifcgi.__all__) - set(errors.__all__) <= headings


def _public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_the_request_is_documented_whole() -> None:
    named = {row[0].strip("`").removesuffix("()") for row in PYTHON.table("trifcgi.Request")}
    assert named == _public(trifcgi.Request)


def test_what_the_streams_have_beyond_those_of_trio_is_documented() -> None:
    rows = page("docs/reference/python.md").rows("| stream |")
    inputs, outputs = _public(RequestStream), _public(ResponseStream)
    documented: dict[str, set[str]] = {}
    for streams, member, _ in rows:
        name = re.sub(r"`(\w+).*", r"\1", member)
        documented.setdefault(streams, set()).add(name)
    assert documented == {
        "`stdin`, `data`": inputs - _public(trio.abc.ReceiveStream),
        "`stdout`": outputs - _public(trio.abc.SendStream),
    }


def test_the_client_is_documented_whole() -> None:
    rows = (row[0] for row in PYTHON.table("trifcgi.Client"))
    named = {re.sub(r"`(?:await |async with )?(\w+).*", r"\1", cell) for cell in rows}
    assert named == _public(trifcgi.Client)


def test_every_error_is_documented_with_its_attributes() -> None:
    rows = page("docs/reference/errors.md").table("Errors")
    assert {row[0].strip("`") for row in rows} == set(errors.__all__)
    for name, _, attributes in rows:
        cls = getattr(errors, name.strip("`"))
        documented = re.findall(r"^    (\w+): ", inspect.getdoc(cls) or "", re.MULTILINE)
        assert _spans(attributes) == set(documented), name


def test_every_signal_is_documented() -> None:
    cells = " ".join(row[0] for row in page("docs/reference/signals.md").table("Signals"))
    named = {signal.Signals[name] for name in re.findall(r"SIG\w+", cells)}
    assert named == {*launch._SIGNALS, *launch._SIZE_SIGNALS}


def _outcome(reason: StopReason | None = None, **changes: bool) -> Outcome:
    fields: dict[str, bool] = {"failed": False, "refused": False, **changes}
    return Outcome(
        status=200,
        body_bytes=512,
        bytes_in=0,
        duration=0.001234,
        app_status=0,
        reason=reason,
        **fields,
    )


_PARAMS = {
    b"REMOTE_ADDR": b"192.0.2.7",
    b"REQUEST_METHOD": b"GET",
    b"REQUEST_URI": b"/a?b",
    b"SERVER_PROTOCOL": b"HTTP/1.1",
    b"HTTP_USER_AGENT": b"curl/8",
}
_STAMP = Stamp(b"31/Jan/2026:12:34:56 +0000", "2026-01-31T12:34:56+00:00")


def test_the_access_log_looks_as_shown() -> None:
    shown = [block.text for block in LOGS.code("text")]
    line = combined_line(fields_of(_PARAMS), Role.RESPONDER, _outcome(), _STAMP.combined).decode()
    assert line in shown


def test_every_key_of_the_json_access_log_is_documented() -> None:
    keys = {key for row in LOGS.table("The access log") for key in _spans(row[1])}
    line = json.loads(json_line(fields_of(_PARAMS), Role.RESPONDER, _outcome(), _STAMP.iso))
    assert keys == set(line) - {"logger"}
    assert line["logger"] == "trifcgi.access"


def test_every_end_of_a_request_is_documented() -> None:
    outcomes = [
        _outcome(failed=True), _outcome(refused=True), _outcome(), *map(_outcome, StopReason),
    ]  # fmt: skip
    ends = {
        json.loads(json_line(fields_of({}), Role.RESPONDER, outcome, _STAMP.iso))["end"]
        for outcome in outcomes
    }
    assert {row[0].strip("`") for row in LOGS.table("Why a request ended")} == ends
