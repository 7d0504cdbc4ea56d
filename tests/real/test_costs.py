"""What a server of its own process costs, and how soon it lets a handler go."""

import contextlib
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.serving import Serving
from tests.server import raw

MIBI = 1 << 20
APPS = "tests.real.apps.costs_app"
PATIENCE = 20.0


class Server:
    """A running ``trifcgi run`` on a Unix socket, measured from outside."""

    def __init__(self, process: Serving, address: str, file: Path) -> None:
        self.process = process
        self.address = address
        self._notes = file

    def connect(self) -> socket.socket:
        """A front end's connection."""
        front_end = socket.socket(socket.AF_UNIX)
        front_end.settimeout(PATIENCE)
        front_end.connect(self.address)
        return front_end

    @property
    def resident(self) -> int:
        """Bytes of memory that the process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def wait_note(self, event: str) -> float:
        """When the app wrote ``event``, by the system's clock."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self._notes.read_text().splitlines():
                name, when = line.split()
                if name == event:
                    return float(when)
            time.sleep(0.002)
        pytest.fail(f"the app never wrote {event!r}")

    def forget_notes(self) -> None:
        self._notes.write_text("")


@pytest.fixture
def start(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    notes = short_directory / "notes"
    notes.write_text("")
    monkeypatch.setenv("COSTS_NOTES", str(notes))
    with contextlib.ExitStack() as stack:

        def start(app: str, *options: str) -> Server:
            address = str(short_directory / "socket")
            log = short_directory / "log"
            process = Serving(app, [f"{APPS}:{app}", "--unix", address, *options], log=log)
            stack.callback(process.finish)
            process.wait_addresses()
            return Server(process, address, notes)

        yield start


def until_still(server: Server) -> int:
    """The process's memory once it has stopped growing, in bytes."""
    sizes = [server.resident]
    while len(sizes) < 4 or max(sizes[-3:]) > sizes[-4]:
        time.sleep(0.1)
        sizes.append(server.resident)
    return sizes[-1]


@pytest.mark.parametrize("app", ["native", "asgi", "wsgi"])
def test_an_answer_that_nobody_reads_takes_little_memory(
    start: Callable[..., Server], app: str
) -> None:
    server = start(app)
    before = server.resident
    with server.connect() as front_end:
        front_end.sendall(raw.get(SCRIPT_NAME="/output"))
        server.wait_note("started")
        grown = until_still(server) - before
    print(f"1 GiB answer, unread, {app}: {grown / MIBI:.1f} MiB")
    assert grown < 16 * MIBI
    server.wait_note("let-go")


@pytest.mark.parametrize("request_id", [1, 3], ids=["alone", "multiplexed"])
@pytest.mark.parametrize("app", ["native", "asgi", "wsgi"])
def test_an_upload_that_nobody_reads_takes_little_memory(
    start: Callable[..., Server], app: str, request_id: int
) -> None:
    server = start(app)
    before = server.resident
    piece = raw.stdin(request_id, bytes(65_528))
    sent = 0
    with server.connect() as front_end:
        front_end.sendall(raw.head(request_id, SCRIPT_NAME="/ignore", REQUEST_METHOD="POST"))
        server.wait_note("started")
        front_end.settimeout(1.5)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 256 * MIBI:
                front_end.sendall(piece)
                sent += len(piece)
        grown = until_still(server) - before
    print(f"upload, unread, {app}: {sent / MIBI:.0f} MiB taken, {grown / MIBI:.1f} MiB grown")
    assert grown < 16 * MIBI


def test_a_thousand_idle_connections_take_little_memory(start: Callable[..., Server]) -> None:
    server = start("native", "--max-connections", "2000")
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # what the first ones cost is not a connection's
            stack.enter_context(server.connect())
        before = until_still(server)
        for _ in range(1000):
            stack.enter_context(server.connect())
        each = (until_still(server) - before) / 1000
    print(f"idle connection: {each / 1024:.1f} KiB")
    assert each < 16 * 1024


CAUSES: dict[str, Callable[[socket.socket], object]] = {
    "abort": lambda front_end: front_end.sendall(raw.abort()),
    "close": lambda front_end: front_end.close(),
}
PHASES = {
    "native": ["body", "asleep", "output", "window"],
    "asgi": ["body", "asleep", "output", "window"],
    "wsgi": ["body", "output"],
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(
    ("app", "phase"), [(app, phase) for app, phases in PHASES.items() for phase in phases]
)
def test_a_handler_is_let_go_within_50_ms(
    start: Callable[..., Server], app: str, phase: str, cause: str
) -> None:
    server = start(app)
    delays = []
    # The promise is for an idle machine: the median of several tries stands a busy one.
    for _ in range(7):
        server.forget_notes()
        front_end = server.connect()
        front_end.sendall(raw.head(1, SCRIPT_NAME=f"/{phase}", REQUEST_METHOD="POST"))
        if phase == "window":
            front_end.sendall(b"".join(raw.stdin(1, bytes(60_000)) for _ in range(6)))
        server.wait_note("started")
        time.sleep(0.05)  # into the phase itself; to come too early would be one more phase
        began = time.monotonic()
        CAUSES[cause](front_end)
        delays.append(server.wait_note("let-go") - began)
        front_end.close()
    print(f"{app}, {phase}, {cause}: {1000 * statistics.median(delays):.1f} ms")
    assert statistics.median(delays) < 0.05


@pytest.mark.parametrize("app", ["native", "asgi"])
def test_a_timeout_lets_a_handler_go_within_50_ms(start: Callable[..., Server], app: str) -> None:
    server = start(app, "--request-timeout", "0.2")
    late = []
    for _ in range(7):
        server.forget_notes()
        with server.connect() as front_end:
            front_end.sendall(raw.get(SCRIPT_NAME="/asleep"))
            began = server.wait_note("started")
            late.append(server.wait_note("let-go") - began - 0.2)
            assert b"Status: 504" in front_end.recv(65536)
    print(f"{app}, timeout: {1000 * statistics.median(late):.1f} ms late")
    assert statistics.median(late) < 0.05
