"""The services of ``trifcgi run``, as a process."""

from pathlib import Path

import pytest
import trio

from tests.cli.running import running
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
