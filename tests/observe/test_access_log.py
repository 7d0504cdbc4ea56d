"""Access log lines: their fields, and what a hostile peer can do to them."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.apps.memory_request import MemoryRequest
from trifcgi.cgi.known import memory
from trifcgi.cgi.reading import read_params
from trifcgi.observe.access_line import combined_line, fields_in, fields_of
from trifcgi.observe.access_log import AccessLog, Stamp, json_line
from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.observe.log_file import LogFile
from trifcgi.protocol import Role, encode_pairs
from trifcgi.request import Request

STAMP = Stamp(b"31/Jan/2026:12:34:56 +0000", "2026-01-31T12:34:56+00:00")
GET = {
    b"REMOTE_ADDR": b"192.0.2.7",
    b"REQUEST_METHOD": b"GET",
    b"REQUEST_URI": b"/a?b",
    b"SERVER_PROTOCOL": b"HTTP/1.1",
    b"HTTP_USER_AGENT": b"curl/8",
}
WELL = Outcome(
    status=200, body_bytes=512, bytes_in=0, duration=0.0012344,
    app_status=0, reason=None, failed=False, refused=False,
)  # fmt: skip
COMBINED = re.compile(
    rb'(\S+) - (\S+) \[([^]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+)'
    rb' "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"'
    rb" time=(\d+\.\d{6}) in=(\d+) app_status=(\d+) end=([a-z-]+)(?: role=(\w+))?\n"
)


@attrs.define
class Finished:
    """As much of a request as an access log looks at."""

    named: dict[bytes, bytes]
    role: Role = Role.RESPONDER
    block: bytes = b""


def finished(params: dict[bytes, bytes] = GET) -> Request:
    return cast("Request", Finished(params))


def line(params: dict[bytes, bytes] | None = None, **changes: Any) -> bytes:  # of Outcome
    outcome = attrs.evolve(WELL, **changes)
    return combined_line(
        fields_of({**GET, **(params or {})}), Role.RESPONDER, outcome, STAMP.combined
    )


class TestCombined:
    def test_a_line(self) -> None:
        assert line() == (
            b'192.0.2.7 - - [31/Jan/2026:12:34:56 +0000] "GET /a?b HTTP/1.1" 200 512 '
            b'"-" "curl/8" time=0.001234 in=0 app_status=0 end=complete\n'
        )

    def test_user_and_referer_where_they_are_known(self) -> None:
        found = line({b"REMOTE_USER": b"ada", b"HTTP_REFERER": b"http://x/"})
        assert found.startswith(b"192.0.2.7 - ada [")
        assert b' "http://x/" "curl/8" ' in found

    @pytest.mark.parametrize(
        ("changes", "end"),
        [
            ({}, b"complete"),
            ({"failed": True, "app_status": 1}, b"failed"),
            ({"refused": True}, b"refused"),
            ({"reason": StopReason.LOST, "failed": True}, b"connection-lost"),
            ({"reason": StopReason.TIMED_OUT}, b"request-timeout"),
            ({"reason": StopReason.ABORTED}, b"aborted"),
            ({"reason": StopReason.DRAINED}, b"server-stopping"),
        ],
    )
    def test_it_tells_why_the_request_ended(self, changes: dict[str, Any], end: bytes) -> None:
        assert line(**changes).endswith(b" end=" + end + b"\n")

    def test_every_reason_is_one_word(self) -> None:
        for reason in StopReason:
            assert COMBINED.fullmatch(line(reason=reason))

    @pytest.mark.parametrize(
        ("size", "duration", "written"),
        [
            (0, 0.0, b" 0 "),
            (999, 0.9999996, b" 999 "),
            (1000, 1.0, b" 1000 "),
            (65_007, 59.000001, b" 65007 "),
            (1 << 40, 86_400.5, b" 1099511627776 "),
        ],
    )
    def test_numbers_of_any_size(self, size: int, duration: float, written: bytes) -> None:
        found = line(body_bytes=size, duration=duration)
        assert written in found
        assert b" time=%.6f " % duration in found

    def test_a_request_without_a_response_has_status_000(self) -> None:
        assert b'" 000 0 "' in line(status=None, body_bytes=0, reason=StopReason.LOST)

    def test_other_roles_are_named(self) -> None:
        for role, end in ((Role.AUTHORIZER, b" role=authorizer\n"), (Role.FILTER, b"filter\n")):
            assert combined_line(fields_of(GET), role, WELL, STAMP.combined).endswith(end)

    def test_without_request_uri_the_target_is_put_together(self) -> None:
        params = {b"SCRIPT_NAME": b"/app", b"PATH_INFO": b"/x", b"QUERY_STRING": b"q=1"}
        assert b'"- /app/x?q=1 -"' in combined_line(
            fields_of(params), Role.RESPONDER, WELL, STAMP.combined
        )

    def test_a_request_without_any_params_has_a_line_too(self) -> None:
        # HAProxy 2.6 aborts right after FCGI_BEGIN_REQUEST.
        found = combined_line(fields_of({}), Role.RESPONDER, WELL, STAMP.combined)
        assert found.startswith(b'- - - [31/Jan/2026:12:34:56 +0000] "- - -" 200 512 "-" "-"')

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (b'"', rb"\""),
            (b"\\", rb"\\"),
            (b"a\r\n1.2.3.4 - -", rb"a\x0d\x0a1.2.3.4 - -"),
            (b"\x1b[2J\x7f\0", rb"\x1b[2J\x7f\x00"),
            (b"caf\xe9", rb"caf\xe9"),
            ("café".encode(), "café".encode()),
            ("\u202e\x9b\u2028".encode(), rb"\xe2\x80\xae\xc2\x9b\xe2\x80\xa8"),
            (rb"\x0a", rb"\\x0a"),
        ],
    )
    def test_hostile_bytes_are_escaped(self, value: bytes, written: bytes) -> None:
        assert b' "-" "' + written + b'" time=' in line({b"HTTP_USER_AGENT": value})

    def test_a_user_name_with_a_space_stays_one_field(self) -> None:
        found = line({b"REMOTE_USER": b"ada [x] y", b"REMOTE_ADDR": b"1 2"})
        assert found.startswith(rb"1\x202 - ada\x20[x]\x20y [31/Jan")

    @given(
        st.dictionaries(
            st.sampled_from([*GET, b"REMOTE_USER", b"HTTP_REFERER", b"QUERY_STRING"]),
            st.binary() | st.text(alphabet='a"\\\r\n é', max_size=9).map(str.encode),
        )
    )
    def test_whatever_a_peer_sends_makes_one_line_with_its_fields(
        self, params: dict[bytes, bytes]
    ) -> None:
        found = combined_line(fields_of(params), Role.RESPONDER, WELL, STAMP.combined)
        assert COMBINED.fullmatch(found)
        assert found.count(b"\n") == 1
        assert found[:-1].decode().isprintable()


class TestJSON:
    def test_a_line(self) -> None:
        found = json_line(fields_of(GET), Role.RESPONDER, WELL, STAMP.iso)
        assert found.endswith(b"}\n")
        assert json.loads(found) == {
            "time": "2026-01-31T12:34:56+00:00",
            "logger": "trifcgi.access",
            "remote_addr": "192.0.2.7",
            "remote_user": None,
            "method": "GET",
            "uri": "/a?b",
            "protocol": "HTTP/1.1",
            "status": 200,
            "bytes": 512,
            "referer": None,
            "user_agent": "curl/8",
            "duration": 0.001234,
            "bytes_in": 0,
            "app_status": 0,
            "end": "complete",
            "role": "responder",
        }

    def test_what_is_not_there_is_null(self) -> None:
        outcome = attrs.evolve(WELL, status=None, duration=61.5, body_bytes=1_234_567)
        found = json.loads(json_line(fields_of({}), Role.FILTER, outcome, STAMP.iso))
        assert (found["status"], found["method"], found["uri"]) == (None, None, "-")
        assert (found["duration"], found["bytes"], found["role"]) == (61.5, 1_234_567, "filter")

    def test_bytes_that_are_not_utf_8_are_told(self) -> None:
        found = json_line(
            fields_of({**GET, b"HTTP_REFERER": b'caf\xe9"'}), Role.RESPONDER, WELL, STAMP.iso
        )
        assert json.loads(found)["referer"] == r'caf\xe9"'

    @given(st.dictionaries(st.sampled_from([*GET, b"REMOTE_USER"]), st.binary()))
    def test_whatever_a_peer_sends_makes_one_object(self, params: dict[bytes, bytes]) -> None:
        found = json_line(fields_of(params), 77, WELL, STAMP.iso)
        assert found.count(b"\n") == 1
        assert found.isascii()
        assert json.loads(found)["role"] == 77


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "combined", "iso"),
    [
        ("UTC", b"31/Jan/2026:12:34:56 +0000", "2026-01-31T12:34:56+00:00"),
        ("IST-5:30", b"31/Jan/2026:18:04:56 +0530", "2026-01-31T18:04:56+05:30"),
        ("NST3:30", b"31/Jan/2026:09:04:56 -0330", "2026-01-31T09:04:56-03:30"),
    ],
)
def test_stamps_are_local_time(
    name: str, combined: bytes, iso: str, zone: pytest.MonkeyPatch
) -> None:
    zone.setenv("TZ", name)
    time.tzset()
    assert Stamp.at(1769862896) == Stamp(combined, iso)


class TestAccessLog:
    async def test_lines_are_written_soon_and_together(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file, clock=lambda: 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.keep_flushed)
            for _ in range(2):
                log.request_ended(finished(), WELL)
                log.request_ended(finished(), WELL)
                before = path.read_bytes().count(b"\n")
                await trio.sleep(0.1)
                assert path.read_bytes().count(b"\n") == before
                await trio.sleep(0.2)
                assert path.read_bytes().count(b"\n") == before + 2
            nursery.cancel_scope.cancel()
        file.close()

    async def test_an_idle_log_does_not_wake_up(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        file = LogFile(str(tmp_path / "log"))
        log = AccessLog(file)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.keep_flushed)
            log.request_ended(finished(), WELL)
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
            nursery.cancel_scope.cancel()
        file.close()

    async def test_the_stamp_follows_the_clock(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        now = 1769862896.9
        file = LogFile(str(path))
        log = AccessLog(file, "json", clock=lambda: now)
        log.request_ended(finished(), WELL)
        now += 0.2
        log.request_ended(finished(), WELL)
        file.close()
        times = [json.loads(text)["time"][17:19] for text in path.read_text().splitlines()]
        assert times == ["56", "57"]

    async def test_many_lines_do_not_wait(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file)
        for _ in range(1000):
            log.request_ended(finished(), WELL)
        assert 1000 - path.read_bytes().count(b"\n") < 600
        file.close()
        assert path.read_bytes().count(b"\n") == 1000

    async def test_of_a_name_sent_twice_the_last_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        request = MemoryRequest([(b"REMOTE_USER", b"forged"), *GET.items(), (b"REMOTE_USER", b"")])
        AccessLog(file).request_ended(request, WELL)
        file.close()
        assert path.read_bytes().startswith(b"192.0.2.7 - - [")

    async def test_params_that_nobody_has_decoded_are_told_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file, clock=lambda: 0.0)
        log.request_ended(finished(), WELL)
        decoded = {b"REMOTE_ADDR": b"of no interest"}
        encoded = cast("Request", Finished(decoded, block=encode_pairs(GET.items())))
        log.request_ended(encoded, WELL)
        file.close()
        first, second = path.read_bytes().splitlines()
        assert first == second

    async def test_lines_stand_in_the_order_in_which_requests_end(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file)
        for number in range(500):
            params = {**GET, b"REQUEST_URI": b"/%d" % number}
            block = encode_pairs(params.items()) if number % 7 else b""
            log.request_ended(cast("Request", Finished(params, block=block)), WELL)
        assert not file.empty
        file.close()
        told = [line.split()[6] for line in path.read_bytes().splitlines()]
        assert told == [b"/%d" % number for number in range(500)]

    async def test_a_line_has_the_time_at_which_its_request_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        now = 1769862896.9
        file = LogFile(str(path))
        log = AccessLog(file, "json", clock=lambda: now)
        encoded = cast("Request", Finished({}, block=encode_pairs(GET.items())))
        for _ in range(3):
            log.request_ended(encoded, WELL)
            now += 0.4
        file.close()
        times = [json.loads(text)["time"][17:19] for text in path.read_text().splitlines()]
        assert times == ["56", "57", "57"]

    async def test_two_logs_may_share_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        encoded = cast("Request", Finished({}, block=encode_pairs(GET.items())))
        for log in (AccessLog(file), AccessLog(file, "json")):
            log.request_ended(encoded, WELL)
        assert not file.empty
        file.close()
        assert path.read_bytes().count(b"\n") == 2

    async def test_a_line_that_cannot_be_formed_takes_no_other_along(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file)
        for block in (encode_pairs(GET.items()), b"\xff", encode_pairs(GET.items())):
            log.request_ended(cast("Request", Finished({}, block=block)), WELL)
        file.close()
        assert path.read_bytes().count(b"\n") == 2
        assert "cannot be formed" in caplog.text

    async def test_few_params_are_held_for_lines_to_come(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path))
        log = AccessLog(file)
        block = encode_pairs({**GET, b"HTTP_COOKIE": b"c" * 100_000}.items())
        for _ in range(100):
            log.request_ended(cast("Request", Finished({}, block=Held(block))), WELL)
            assert Held.number <= 3
        file.close()
        assert path.read_bytes().count(b"\n") == 100


class Held(bytes):
    """A block that is counted for as long as somebody has it."""

    number = 0

    def __new__(cls, block: bytes) -> Self:
        cls.number += 1
        return super().__new__(cls, block)

    def __del__(self) -> None:
        Held.number -= 1


NAMES = st.one_of(
    st.sampled_from([*GET, b"REMOTE_USER", b"HTTP_REFERER", b"SCRIPT_NAME", b"PATH_INFO"]),
    st.sampled_from([b"QUERY_STRING", b"REQUEST_URIS", b"X" * 200, b"X" * 15, b"", b"A"]),
    st.binary(max_size=16),
)
VALUES = st.one_of(st.binary(max_size=3), st.sampled_from([b"v" * 127, b"v" * 128, b"v" * 70_000]))


def logged(path: Path, blocks: list[bytes], *, known: bool = False) -> bytes:
    """What a log has of requests with these params; read first, where they may be ``known``."""
    file = LogFile(str(path))
    lines = AccessLog(file, clock=lambda: 0.0).recorder
    for block in blocks:
        reading = read_params(block, 1000) if known else None
        if reading is not None and reading.leaf is None:
            reading = None
        lines.record(block, {}, reading, 1, 200, 512, 0, 0.001, 0, "complete")
    file.close()
    written = path.read_bytes()
    path.unlink()
    return written


def alone(block: bytes) -> bytes:
    """The line of one request."""
    outcome = attrs.evolve(WELL, duration=0.001)
    return combined_line(fields_in(block), Role.RESPONDER, outcome, Stamp.at(0).combined)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([*GET, b"REMOTE_USER", b"HTTP_REFERER", b"QUERY_STRING"]),
            st.sampled_from([b"GET", b"POST", b"HTTP/2.0", b"a b", b'"', b"\\", b"\n", b"\xff"]),
            min_size=1,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_line_is_the_same_whatever_it_is_formed_with(
    tmp_path_factory: pytest.TempPathFactory, requests: list[dict[bytes, bytes]]
) -> None:
    blocks = [encode_pairs(params.items()) for params in requests]
    written = logged(tmp_path_factory.getbasetemp() / "log", blocks)
    assert written == b"".join(map(alone, blocks))


@pytest.mark.parametrize("left_out", [None, b"REQUEST_URI", b"HTTP_USER_AGENT", b"REMOTE_ADDR"])
def test_lines_of_params_that_are_known_again(tmp_path: Path, left_out: bytes | None) -> None:
    params = {
        b"SCRIPT_NAME": b"/s", b"HTTP_COOKIE": b"c", b"PATH_INFO": b"", b"QUERY_STRING": b"q",
        b"REMOTE_USER": b"", b"HTTP_REFERER": b"", b"HTTP_ACCEPT": b"*/*", **GET,
    }  # fmt: skip
    if left_out is not None:
        del params[left_out]
    memory.forget()
    blocks = []
    for number in range(80):
        tail = b"%d" % number
        changes = {b"REQUEST_URI": b"/" + tail, b"HTTP_USER_AGENT": b"a" + tail}
        pairs = [(name, changes.get(name, value)) for name, value in params.items()]
        if number % 5 == 4:
            pairs.append((b"HTTP_REFERER", b"http://" + tail))  # which makes it the second one
        if number % 7 == 6:
            pairs.append((b"REMOTE_USER", b"u" + tail))
        blocks.append(encode_pairs(pairs))
    assert read_params(blocks[-1], 1000).leaf is None
    for block in blocks:
        read_params(block, 1000)
    assert sum(read_params(block, 1000).leaf is not None for block in blocks) > 60
    assert logged(tmp_path / "log", blocks, known=True) == b"".join(map(alone, blocks))
    memory.forget()


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_fields_are_found_as_in_decoded_params(pairs: list[tuple[bytes, bytes]]) -> None:
    assert fields_in(encode_pairs(pairs)) == fields_of(dict(pairs))
