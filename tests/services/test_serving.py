"""The services of ``trifcgi run``, as a process."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trifcgi
from tests.cli.running import PATIENCE, running
from trifcgi import Client
from trifcgi.testing import params

pytestmark = pytest.mark.real

APP = '''
import time
import trio

HEAD = b"Content-Type: text/plain\\r\\n\\r\\n"

async def app(request):
    """/block/S blocks the event loop; /wait/S suspends; seconds."""
    _, what, seconds = request.params["SCRIPT_NAME"].split("/")
    if what == "block":
        time.sleep(float(seconds))
    else:
        await trio.sleep(float(seconds))
    await request.stdout.send_all(HEAD + what.encode())

def pool(environ, start_response):
    time.sleep(float(environ["PATH_INFO"].rpartition("/")[2]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"pool"]
'''


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    (tmp_path / "blocking.py").write_text(APP)
    return tmp_path


async def get(address: str, path: str) -> bytes:
    host, _, port = address.rpartition(":")
    async with Client(await trio.open_tcp_stream(host, int(port))) as client:
        return (await client.request(params(path))).body


async def test_a_blocked_loop_is_reported_and_dumped_and_serves_on(apps: Path) -> None:
    async with running(
        "blocking", "--port", "0", "--hang-timeout", "0.5", directory=apps
    ) as server:
        address = await server.wait_address()
        assert await get(address, "/block/1.5") == b"block"
        found = await server.wait_for(
            r"ERROR   watchdog: the event loop has been blocked for 0\.\d s "
            r"by GET /block/1\.5 \(request 1\)$"
        )
        await server.wait_for(
            r"WARNING watchdog: GET /block/1\.5 \(request 1\) ran 1\d\d\d ms without a checkpoint"
        )
        assert "        time.sleep(float(seconds))\n" in server.log[found.end() :]
        assert await get(address, "/wait/0") == b"wait"
        assert await server.stop() == 0


async def test_a_slow_request_is_logged_with_its_stack(apps: Path) -> None:
    async with running(
        "blocking", "--port", "0", "--slow-request", "200ms", directory=apps
    ) as server:
        address = await server.wait_address()
        assert await get(address, "/wait/0.6") == b"wait"
        assert await get(address, "/wait/0") == b"wait"
        await server.wait_for(
            r"WARNING slow: GET /wait/0\.6 \(request 1\) has been running for 0\.\d s$"
        )
        assert await server.stop() == 0
        assert "await trio.sleep(float(seconds))\n" in server.log
        assert server.log.count(" slow: ") == 1


async def test_a_slow_wsgi_app_is_logged_with_its_thread(apps: Path) -> None:
    async with running(
        "blocking:pool", "--port", "0", "--slow-request", "200ms", directory=apps
    ) as server:
        address = await server.wait_address()
        assert await get(address, "/wait/0.6") == b"pool"
        found = await server.wait_for(r"has been running for 0\.\d s\n(?:    .*\n)+")
        assert "thread trifcgi-1\n" in found[0]
        assert 'time.sleep(float(environ["PATH_INFO"]' in found[0]
        assert await server.stop() == 0


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


async def next_notice(notified: socket.socket, *, but: str = "WATCHDOG=1") -> str:
    while True:
        notice = (await trio.to_thread.run_sync(notified.recv, 999)).decode()
        if notice != but:
            return notice


@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
async def test_systemd_hears_that_the_loop_is_alive(
    apps: Path, notified: socket.socket, more: tuple[str, ...]
) -> None:
    environment = {"NOTIFY_SOCKET": notified.getsockname(), "WATCHDOG_USEC": "200000"}
    async with running(
        "blocking", "--port", "0", *more, directory=apps, environment=environment
    ) as server:
        address = await server.wait_address()
        assert await next_notice(notified) == f"READY=1\nSTATUS=listening on {address}"
        for _ in range(2):
            assert await next_notice(notified, but="") == "WATCHDOG=1"
        assert await server.stop() == 0
        assert await next_notice(notified) == "STOPPING=1"


async def test_systemd_hears_when_a_reload_begins_and_ends(
    apps: Path, notified: socket.socket
) -> None:
    environment = {"NOTIFY_SOCKET": notified.getsockname()}
    async with running(
        "blocking", "--port", "0", "--workers", "1", directory=apps, environment=environment
    ) as server:
        await server.wait_address()
        assert (await next_notice(notified)).startswith("READY=1\n")
        server.process.send_signal(signal.SIGHUP)
        assert (await next_notice(notified)).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await next_notice(notified) == "READY=1"
        # One that fails has ended as well: the old workers serve on.
        (apps / "blocking.py").write_text("import no_such_module\n")
        server.process.send_signal(signal.SIGHUP)
        assert (await next_notice(notified)).startswith("RELOADING=1\n")
        assert await next_notice(notified) == "READY=1"
        assert await server.stop() == 0
        assert await next_notice(notified) == "STOPPING=1"


async def test_a_worker_says_what_blocks_it_before_it_is_replaced(apps: Path) -> None:
    async with running(
        "blocking", "--port", "0", "--workers", "1", "--hang-timeout", "1", directory=apps
    ) as server:
        address = await server.wait_address()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_blocked, address)
            await server.wait_for(r"supervisor: worker 1 .* it is replaced$")
        await server.wait_for(r"supervisor: worker 2 \(pid \d+\) is ready$")
        assert await get(address, "/wait/0") == b"wait"
        assert await server.stop() == 0
    said = server.log.partition("the event loop has been blocked for ")[2]
    assert " by GET /block/30 (request 1)\n" in said.partition("supervisor: ")[0]
    assert "time.sleep(float(seconds))\n" in said.partition("supervisor: ")[0]


async def _blocked(address: str) -> None:
    with pytest.raises(trifcgi.errors.ConnectionLost):
        await get(address, "/block/30")
