"""Instruments: told of every connection and request once, and never in the way."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, echo, hello, read_body, sleep, sleep_begun
from tests.server.raw import RawFrontEnd
from trifcgi import Limits, Request, Timeouts
from trifcgi.observe.instrument import Instrument, Outcome, StopReason
from trifcgi.observe.tally import Tally
from trifcgi.server.exchange import _status_of


class Notes(Instrument):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[tuple[str, str]] = []
        self.started = 0
        self.outcomes: list[Outcome] = []
        self.over = trio.Event()

    def connection_opened(self, peer: str) -> None:
        self.opened.append(peer)

    def connection_closed(self, peer: str, cause: str) -> None:
        self.closed.append((peer, cause))

    def request_started(self, request: Request) -> None:
        self.started += 1

    def request_ended(self, request: Request, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.over.set()


async def fail(request: Request) -> None:
    raise RuntimeError


async def fail_late(request: Request) -> None:
    await request.stdout.send_all(HEAD + b"half")
    raise RuntimeError


async def send_get(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get())


async def send_and_abort(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get())
    await trio.testing.wait_all_tasks_blocked()
    await front_end.send(raw.abort())


async def send_and_leave(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get())
    await trio.testing.wait_all_tasks_blocked()
    await front_end.stream.aclose()


async def send_half_a_body(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.head(REQUEST_METHOD="POST"), raw.stdin(content=b"half"))


async def send_large(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.head(REQUEST_METHOD="POST"))
    await trio.testing.wait_all_tasks_blocked()
    await front_end.send(raw.stdin(content=bytes(2000)))


async def send_large_params(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get(X="x" * 5000))


async def send_begin_and_abort(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.begin(), raw.abort())


async def send_garbage(front_end: RawFrontEnd) -> None:
    await front_end.send(raw.get())
    await trio.testing.wait_all_tasks_blocked()
    await front_end.send(bytes(8))


Handler = Callable[[Request], Awaitable[int | None]]
Send = Callable[[RawFrontEnd], Awaitable[None]]

OUTCOMES: dict[str, tuple[Handler, Send, int | None, StopReason | None, bool, bool]] = {
    "whole": (hello, send_get, 200, None, False, False),
    "failed": (fail, send_get, 500, None, True, False),
    "failed late": (fail_late, send_get, 200, None, True, False),
    "timed out": (sleep, send_get, 504, StopReason.TIMED_OUT, False, False),
    "timed out late": (sleep_begun, send_get, 200, StopReason.TIMED_OUT, False, False),
    "read timed out": (read_body, send_half_a_body, 408, StopReason.READ_TIMED_OUT, False, False),
    "aborted": (sleep, send_and_abort, None, StopReason.ABORTED, False, False),
    "lost": (sleep, send_and_leave, None, StopReason.LOST, False, False),
    "broken off": (sleep, send_garbage, None, StopReason.LOST, False, False),
    "too large": (read_body, send_large, 413, StopReason.TOO_LARGE, False, False),
    "params too large": (hello, send_large_params, 431, None, False, True),
    "never begun": (hello, send_begin_and_abort, None, StopReason.ABORTED, False, False),
}


@pytest.mark.parametrize("case", OUTCOMES)
async def test_each_request_ends_exactly_once_and_says_how(
    memory_serve: Serve, case: str, autojump_clock: object
) -> None:
    handler, send, status, reason, failed, refused = OUTCOMES[case]
    notes = Notes()
    async with (
        memory_serve(
            handler,
            limits=Limits(max_body=1000, max_params=4000),
            timeouts=Timeouts(request_timeout=60, read_timeout=10),
            instruments=[notes],
        ) as server,
        server.raw() as front_end,
    ):
        await send(front_end)
        await notes.over.wait()
    [outcome] = notes.outcomes
    assert (outcome.status, outcome.reason) == (status, reason)
    assert (outcome.failed, outcome.refused) == (failed, refused)
    assert outcome.duration >= 0
    assert len(notes.opened) == len(notes.closed) == 1


async def test_an_outcome_counts_the_bytes_of_both_bodies(serve: Serve) -> None:
    notes = Notes()
    async with serve(echo, instruments=[notes]) as server, server.client() as client:
        await client.request(dict(raw.USUAL_PARAMS), bytes(100_000))
    [outcome] = notes.outcomes
    assert (outcome.bytes_in, outcome.body_bytes) == (100_000, 100_000)
    assert (outcome.status, outcome.app_status) == (200, 0)


async def test_connections_are_told_with_their_peer(serve: Serve) -> None:
    notes = Notes()
    async with serve(hello, instruments=[notes]) as server, server.raw() as front_end:
        await front_end.send(raw.get(keep=False))
        await front_end.answer()
        assert await front_end.rest() == []
    [peer] = notes.opened
    assert [closed for closed, _ in notes.closed] == [peer]
    expected = {"tcp": "127.0.0.1:", "unix": "unix"}.get(server.transport, "stream")
    assert peer.startswith(expected)


@pytest.mark.parametrize("hook", ["connection_opened", "request_started", "request_ended"])
async def test_an_instrument_that_raises_is_switched_off(
    serve: Serve, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def raising(self: Instrument, *arguments: object) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("bad instrument")

    broken = type("Broken", (Instrument,), {hook: raising})()
    notes = Notes()
    async with serve(hello, instruments=[broken, notes]) as server:
        for _ in range(2):
            async with server.client() as client:
                assert (await client.request(dict(raw.USUAL_PARAMS))).body == b"hello"
    assert calls == 1
    assert len(notes.outcomes) == 2
    assert len([line for line in caplog.records if line.levelno >= logging.ERROR]) == 1


class Recording(Instrument):
    """Has a recorder and a hook."""

    def __init__(self) -> None:
        self.recorder = Tally()
        self.hooked = 0

    def request_ended(self, request: Request, outcome: Outcome) -> None:
        self.hooked += 1


async def test_a_recorder_is_told_in_place_of_the_hook(serve: Serve) -> None:
    recording, notes = Recording(), Notes()
    async with (
        serve(fail, instruments=[recording, notes]) as server,
        server.client() as client,
    ):
        await client.request(dict(raw.USUAL_PARAMS))
    assert recording.hooked == 0
    assert recording.recorder.requests == {(500, "failed"): 1}
    assert len(notes.outcomes) == 1


async def test_an_instrument_whose_recorder_raises_is_switched_off(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recording(), Recording()
    broken.recorder.duration.counts = []
    async with serve(hello, instruments=[broken, sound]) as server, server.client() as client:
        for _ in range(2):
            assert (await client.request(dict(raw.USUAL_PARAMS))).body == b"hello"
    assert broken.recorder.requests == {(200, "complete"): 1}
    assert sound.recorder.requests == {(200, "complete"): 2}
    assert [line for line in caplog.messages if "is switched off" in line] == [
        f"the instrument {broken!r} raised and is switched off"
    ]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X: 1\r\nStatus: 200 OK\r\n\r\n", 200),
        (b"X: 1\r\nStatus: 304 Not Modified\r\n\r\n", 304),
        (b"Status: 404 Not Found\r\n\r\n", 404),
        (b"X-Status: 1\r\nstatus:201\r\n\r\n", 201),
        (b"X: 1\r\nStatus: no\r\n\r\n", None),
        (b"X: 1\r\n\r\n", None),
    ],
)
def test_a_status_is_read_from_a_head(head: bytes, status: int | None) -> None:
    assert _status_of(head) == status
