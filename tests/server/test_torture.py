"""Many connections at once, each of which does whatever a seed says; then nothing may be left.

Polite front ends send valid requests and have to get the right answers, whatever their neighbours
do. Rude ones send what they like, read when they like and leave when they like; whatever
they are sent has to be in order. The handlers are as bad. A seed repeats its run as far as the
scheduler lets it; ``TORTURE_SECONDS`` goes on with fresh seeds for so long.
"""

import contextlib
import logging
import math
import os
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.server import raw
from tests.server.conftest import MEMORY_PAIRS
from tests.server.deeds import CUT, DEEDS, GOOD, MOMENT, Handler, expected
from trifcgi import Limits, Timeouts
from trifcgi.server import DataPlane, open_tcp_listeners, open_unix_listener

_SEEDS = range(3)
_SECONDS = float(os.environ.get("TORTURE_SECONDS", "0"))

# How long a single run may take: what hangs shall fail, on a busy machine too.
_PATIENCE = 60


class Ledger:
    """What one connection has asked for, and whether what it gets is in order."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.stdout: dict[int, bytes] = {}
        self.closed: set[int] = set()
        self.aborted: set[int] = set()
        self.garbled = False

    def begin(self, request_id: int, deed: str) -> None:
        assert request_id not in self.open
        self.open[request_id] = deed
        self.stdout[request_id] = b""
        self.closed.discard(request_id)
        self.aborted.discard(request_id)

    def take(self, record: raw.Record) -> None:
        request_id = record.request_id
        if request_id == 0:
            assert record.kind in (raw.GET_VALUES_RESULT, raw.UNKNOWN_TYPE)
            return
        if request_id not in self.open and self.garbled:
            return  # garbage may begin with what begins a request
        assert request_id in self.open, f"{record} for a request that is not open"
        if record.kind == raw.STDOUT:
            assert request_id not in self.closed, f"{record} after the end of stdout"
            self.stdout[request_id] += record.content
            if not record.content:
                self.closed.add(request_id)
        elif record.kind == raw.END:
            deed = self.open.pop(request_id)
            status = struct.unpack("!LB3x", record.content)[1]
            if status == raw.COMPLETE:
                assert request_id in self.closed, "END_REQUEST before the end of stdout"
            if deed in CUT and request_id not in self.aborted:
                assert b"begun" not in self.stdout[request_id], "a cut response looks whole"
        else:
            assert record.kind == raw.STDERR, record


async def be_polite(
    rng: random.Random, connect: Callable[[], Awaitable[trio.abc.Stream]], may_refuse: bool
) -> int:
    """Send valid requests, one after the other, and check each answer; stop when closed."""
    right = 0
    front_end = raw.RawFrontEnd(await connect())
    async with front_end.stream:
        for number in range(rng.randrange(2, 8)):
            deed = rng.choice(list(GOOD))
            body = rng.randbytes(rng.choice([0, 0, 10, 5000, 200_000]))
            name = f"{rng.getrandbits(40):x}"
            pieces = [body[i : i + 60_000] for i in range(0, len(body), 60_000)]
            keep = number < 5
            request = raw.head(1, keep=keep, DO=deed, NUMBER=name)
            request += b"".join(raw.stdin(1, piece) for piece in pieces) + raw.stdin(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_quietly, front_end, request)
                records = await _one_answer(front_end)
            if not records:
                break  # the server is stopping, and has not begun this one
            answer = raw.gather(records)
            if answer.status == 503 and may_refuse:
                continue
            assert (answer.status, answer.app_status) == (200, 0), deed
            assert answer.body == expected(deed, name, body), deed
            right += 1
            if not keep:
                assert await front_end.receive() is None
                break
    return right


async def _send_quietly(front_end: raw.RawFrontEnd, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await front_end.send(data)


async def _one_answer(front_end: raw.RawFrontEnd) -> list[raw.Record]:
    records: list[raw.Record] = []
    while not records or records[-1].kind != raw.END:
        try:
            record = await front_end.receive()
        except trio.BrokenResourceError:
            record = None
        if record is None:
            assert not records, "an answer was cut that should have been whole"
            return records
        assert record.request_id == 1
        records.append(record)
    return records


class Rude:
    """A front end that does what it likes."""

    def __init__(self, rng: random.Random, stream: trio.abc.Stream) -> None:
        self.rng = rng
        self.stream = stream
        self.front_end = raw.RawFrontEnd(stream)
        self.front_end.may_be_cut = True
        self.ledger = Ledger()
        self.may_read = trio.Event()
        self.over = trio.Event()

    async def run(self) -> None:
        if self.rng.random() < 0.7:
            self.may_read.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                with (
                    trio.move_on_after(0.02 + self.rng.random() * 0.2),
                    contextlib.suppress(trio.BrokenResourceError),
                ):
                    await self._write()
                await self._leave()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(self.stream)

    async def _read(self) -> None:
        try:
            await self.may_read.wait()
            while (record := await self.front_end.receive()) is not None:
                self.ledger.take(record)
                if self.rng.random() < 0.1:
                    await trio.sleep(self.rng.random() * MOMENT)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.over.set()

    async def _write(self) -> None:
        for _ in range(self.rng.randrange(1, 40)):
            act = self.rng.choices(
                [self._request, self._part, self._abort, self._noise, self._flood, self._garbage],
                [8, 3, 3, 2, 1, 0.3],
            )[0]
            await self._send(act())
            if self.rng.random() < 0.3:
                await trio.sleep(self.rng.random() * MOMENT)

    async def _send(self, data: bytes) -> None:
        """In one piece, or in many."""
        if self.rng.random() < 0.7:
            await self.front_end.send(data)
            return
        at = 0
        while at < len(data):
            size = self.rng.choice([1, 7, 100, 10_000])
            await self.front_end.send(data[at : at + size])
            at += size
            if self.rng.random() < 0.05:
                await trio.lowlevel.checkpoint()

    def _free_id(self) -> int:
        free = [number for number in range(1, 12) if number not in self.ledger.open]
        return self.rng.choice(free) if free else self.rng.randrange(100, 60_000)

    def _begin(self) -> tuple[int, bytes]:
        number = self._free_id()
        if number in self.ledger.open:
            return number, b""
        deed = self.rng.choice(list(DEEDS))
        self.ledger.begin(number, deed)
        more = {"REQUEST_TIMEOUT": "0.01"} if self.rng.random() < 0.1 else {}
        keep = self.rng.random() < 0.9
        role = self.rng.choices([raw.RESPONDER, raw.AUTHORIZER, raw.FILTER, 9], [9, 1, 1, 1])[0]
        return number, raw.head(number, role=role, keep=keep, DO=deed, NUMBER="1", **more)

    def _request(self) -> bytes:
        number, data = self._begin()
        for _ in range(self.rng.choice([0, 0, 0, 1, 8])):
            data += raw.stdin(number, bytes(self.rng.choice([1, 3000, 65_535])))
        return data + (raw.stdin(number) if self.rng.random() < 0.9 else b"")

    def _part(self) -> bytes:
        data = self._begin()[1]
        return data[: self.rng.choice([16, len(data) - 8, len(data)])] if data else data

    def _abort(self) -> bytes:
        if not self.ledger.open or self.rng.random() < 0.1:
            return raw.abort(self.rng.randrange(60_001, 65_536))
        number = self.rng.choice(list(self.ledger.open))
        self.ledger.aborted.add(number)
        return raw.abort(number)

    def _noise(self) -> bytes:
        """What has to be ignored or answered."""
        return self.rng.choice(
            [
                raw.record(raw.GET_VALUES, 0, raw.pairs(("FCGI_MAX_REQS", ""), ("OTHER", ""))),
                raw.record(200, 0, b"what"),
                raw.stdin(60_000, b"nobody's"),
                raw.params(60_000),
                raw.record(raw.GET_VALUES, 0, padding=200),
            ]
        )

    def _flood(self) -> bytes:
        number = self.rng.choice(list(self.ledger.open) or [60_000])
        return raw.stdin(number, b"x") * self.rng.randrange(1000)

    def _garbage(self) -> bytes:
        self.ledger.garbled = True
        return self.rng.choice([self.rng.randbytes(40), b"GET / HTTP/1.1\r\n\r\n", b"\1\1"])

    async def _leave(self) -> None:
        """In one of the ways to leave."""
        way = self.rng.choice(["wait", "wait", "close", "reset", "half"])
        if way == "reset" and isinstance(self.stream, trio.SocketStream):
            with contextlib.suppress(OSError):
                self.stream.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        elif way == "half" and isinstance(self.stream, trio.abc.HalfCloseableStream):
            self.may_read.set()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_eof()
            await self.over.wait()
        elif way == "wait":
            self.may_read.set()
            with trio.move_on_after(self.rng.random() * 0.2):
                await self.over.wait()


class Run:
    """One server, its visitors, and its end."""

    def __init__(self, seed: int, transport: str, directory: Path) -> None:
        self.rng = random.Random(f"{seed} {transport}")
        self.transport = transport
        self.directory = directory
        self.handler = Handler(self.rng)
        self.few = self.rng.random() < 0.3
        self.plane = DataPlane(
            self.handler,
            limits=Limits(
                max_requests=3 if self.few else 1000,
                max_connections=self.rng.choice([4, 1000]),
                max_body=self.rng.choice([None, 300_000]),
            ),
            timeouts=Timeouts(
                # What ends a handler that shields itself while its peer reads nothing.
                write_timeout=3,
                abort_grace=self.rng.choice([0, 0, 0.005, math.inf]),
                grace=self.rng.choice([0, 0.01, 10]),
            ),
        )
        self.end = self.rng.choice(["wait", "wait", "drain", "cancel"])
        self.right = 0

    async def run(self) -> None:
        async with self.plane, trio.open_nursery() as nursery:
            connect = await self._listen(nursery)
            with trio.CancelScope() as visits:
                if self.end != "wait":
                    nursery.start_soon(self._interrupt, visits, nursery)
                async with trio.open_nursery() as visitors:
                    for _ in range(6):
                        visitors.start_soon(self._visit_politely, connect)
                        visitors.start_soon(self._visit_rudely, connect)
            if self.end != "cancel":
                self.plane.drain()
                await self.plane.wait_drained()
            nursery.cancel_scope.cancel()
        for generator in self.handler.left_open:
            with contextlib.suppress(RuntimeError):
                await generator.aclose()

    async def _listen(self, nursery: trio.Nursery) -> Callable[[], Awaitable[trio.abc.Stream]]:
        if self.transport in MEMORY_PAIRS:

            async def connect_memory() -> trio.abc.Stream:
                near, far = MEMORY_PAIRS[self.transport]()
                nursery.start_soon(self.plane.serve_stream, far)
                return near

            return connect_memory
        if self.transport == "tcp":
            tcp = await open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(self.plane.serve, tcp)
            address = tcp[0].socket.getsockname()
            return partial(trio.open_tcp_stream, *address)
        unix = await open_unix_listener(self.directory / "torture.sock")
        await nursery.start(self.plane.serve, [unix])
        return partial(trio.open_unix_socket, unix.path)

    async def _visit_politely(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        # A drain whose grace is over cuts what still runs, and no handler's own length matters.
        rng = random.Random(self.rng.random())
        try:
            self.right += await be_polite(rng, connect, self.few or self.end == "drain")
        except* OSError:
            assert self.end == "drain", "refused without a reason"
        except* AssertionError:
            if self.end != "drain" or self.plane.timeouts.grace > 1:
                raise

    async def _visit_rudely(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        rng = random.Random(self.rng.random())
        try:
            stream = await connect()
        except OSError:
            assert self.end == "drain", "refused without a reason"
            return
        await Rude(rng, stream).run()

    async def _interrupt(self, visits: trio.CancelScope, nursery: trio.Nursery) -> None:
        await trio.sleep(self.rng.random() * 0.2)
        if self.end == "drain":
            self.plane.drain()
        else:
            nursery.cancel_scope.cancel()
            visits.cancel()


def _open_files() -> list[str]:
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            names.append(str(fd.readlink()))
    return names


async def torture(
    seed: int, transport: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> int:
    """One run; return how many right answers polite front ends have had."""
    caplog.clear()
    files = _open_files()
    tasks = trio.lowlevel.current_statistics().tasks_living
    run = Run(seed, transport, directory)
    with trio.fail_after(_PATIENCE):
        await run.run()
    plane = run.plane
    assert (plane.running, plane.connections, plane.exchanges()) == (0, 0, [])
    assert run.handler.begun == run.handler.cleaned_up
    assert "failed in the server itself" not in caplog.text
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert len(_open_files()) <= len(files)
    return run.right


_TRANSPORTS = [
    "memory",
    "lockstep",
    pytest.param("tcp", marks=pytest.mark.real),
    pytest.param("unix", marks=pytest.mark.real),
]


@pytest.mark.parametrize("transport", _TRANSPORTS)
async def test_torture(transport: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "trifcgi")
    right = 0
    for seed in _SEEDS:
        right += await torture(seed, transport, tmp_path, caplog)
    end = time.monotonic() + _SECONDS
    seed = random.SystemRandom().getrandbits(30) if _SECONDS else 0
    while time.monotonic() < end:
        seed += 1
        try:
            right += await torture(seed, transport, tmp_path, caplog)
        except BaseException as error:
            error.add_note(f"seed {seed} over {transport}")
            raise
    assert right > 0
