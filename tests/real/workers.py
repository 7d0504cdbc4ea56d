"""``trifcgi run --workers`` with an app whose version and health a test can change."""

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from tests.real.front_ends import SetUp, Site, Upstream
from tests.real.front_ends.haproxy import HAPROXY
from tests.real.front_ends.nginx import NGINX, PARAMS
from tests.real.ports import PortBlock
from tests.real.processes import PrivateProcess
from tests.real.serving import TRIFCGI, Serving
from trifcgi import Client

__all__ = ["SITES", "Workers", "params", "wait_until"]

_APP = """
import os
import sys
import time
from pathlib import Path

import trio

HERE = Path(__file__).parent
exec((HERE / "at_import").read_text())
VERSION = (HERE / "version").read_text()
kept = []


async def app(request):
    query = request.params.get("QUERY_STRING", "")
    what, _, value = query.partition("=")
    if what == "sleep":
        print("asleep", file=sys.stderr, flush=True)
        await trio.sleep(float(value))
    elif what == "grow":
        kept.append(b"x" * int(value))
    async for _ in request.stdin:
        pass
    body = f"{VERSION} {os.getpid()}".encode()
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\n" + body)
"""


def _kept_unix(site: Site) -> str:
    return (
        f"upstream {site.name} {{ server unix:{site.upstream.unix}; keepalive 16; }}\n"
        f"server {{ listen 127.0.0.1:{site.port}; location / {{ include {PARAMS}/fastcgi_params;"
        f" fastcgi_pass {site.name}; fastcgi_keep_conn on; }} }}\n"
    )


_SET_UPS = {
    set_up.name: set_up
    for set_up in (
        SetUp("nginx-kept-unix", _kept_unix),
        *NGINX.set_ups,
        *HAPROXY.set_ups,
    )
}
SITES = ("nginx-recommended", "nginx-kept-unix", "nginx-stock", "haproxy-plain", "haproxy-mpxs")
"""With kept connections over TCP and over a Unix socket, without; HAProxy kept and multiplexed."""


def wait_until(condition: Callable[[], bool], what: str, patience: float = 30.0) -> None:
    """Return once ``condition`` holds; fail after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.02)


@attrs.define(eq=False)
class Workers:
    """A supervisor and its workers, and the front ends in front of them.

    Attributes:
        directory: with the app, short enough for Unix sockets.
        ports: where the front ends' ports come from.
        serving: the supervisor.
        address: where it listens, on TCP.
        program: what is started.
    """

    directory: Path
    ports: PortBlock
    serving: Serving = attrs.field(init=False)
    address: str = attrs.field(init=False, default="")
    program: Sequence[str] = (TRIFCGI,)
    _front_ends: list[PrivateProcess] = attrs.field(factory=list)

    def start(self, *options: str, count: int = 2, app: str = "app_of_workers") -> None:
        """Start it, and wait until so many workers are ready."""
        self.prepare(*options, count=count, app=app)
        addresses = self.serving.wait_addresses(2)
        (self.address,) = (each for each in addresses if not each.startswith("unix:"))
        self.wait_log("is ready", count)

    def prepare(self, *options: str, count: int = 2, app: str = "app_of_workers") -> None:
        """Start it, and do not wait."""
        (self.directory / "app_of_workers.py").write_text(_APP)
        self.write("version", "1")
        if not (self.directory / "at_import").exists():
            self.write("at_import", "")
        unix = str(self.directory / "a.sock")
        self.serving = Serving(
            "trifcgi --workers",
            [app, "--port", "0", "--unix", unix, "--unix-mode", "666",
             "--workers", str(count), *options],
            log=self.directory / "log",
            directory=self.directory,
            program=self.program,
        )  # fmt: skip

    def write(self, name: str, content: str) -> None:
        """Change what the app is made of: ``version``, or code to run ``at_import``."""
        (self.directory / name).write_text(content)

    def wait_log(self, text: str, times: int = 1) -> str:
        """See :meth:`PrivateProcess.wait_log`."""
        return self.serving.wait_log(text, times)

    @property
    def log(self) -> str:
        """What was logged so far."""
        return self.serving.read_log()

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.serving.send_signal(number)

    def reload(self) -> None:
        """Have all workers replaced, and wait until they are."""
        done = self.log.count("reloaded:")
        self.send(signal.SIGHUP)
        self.wait_log("reloaded:", done + 1)

    @property
    def pids(self) -> list[int]:
        """Process IDs of the workers that are ready and have not ended, the oldest first."""
        log = self.log
        ended = re.findall(r"\(pid (\d+)\) has ended", log)
        ready = re.findall(r"\(pid (\d+)\) is ready", log)
        return [int(pid) for pid in ready if pid not in ended]

    def signal_worker(self, number: signal.Signals, index: int = 0) -> int:
        """Send a worker a signal; returns its process ID."""
        pid = self.pids[index]
        os.kill(pid, number)
        return pid

    def ask(self, query: str = "") -> bytes:
        """Send a request on a new connection, without a front end."""

        async def ask() -> bytes:
            with trio.fail_after(30):
                async with await self.connect() as client:
                    return (await client.request(params(query))).body

        return trio.run(ask)

    async def connect(self) -> Client:
        """A connection, without a front end."""
        host, _, port = self.address.rpartition(":")
        return Client(await trio.open_tcp_stream(host, int(port)))

    def site(self, name: str) -> Site:
        """Start a front end, for one of :data:`SITES`."""
        front_end = NGINX if name.startswith("nginx") else HAPROXY
        directory = self.directory / name
        directory.mkdir()
        site = Site(
            set_up=_SET_UPS[name],
            app="workers",
            port=self.ports.take(),
            root=self.directory,
            upstream=Upstream(int(self.address.rpartition(":")[2]), self.directory / "a.sock"),
            launcher=self.directory,
        )
        self._front_ends.append(front_end.start(directory, [site]))
        return site

    def stop(self) -> int:
        """Stop the supervisor, and give its exit status."""
        return self.serving.stop()

    def close(self) -> None:
        """End everything at once."""
        for process in self._front_ends:
            process.kill()
        self.serving.kill()


def params(query: str = "") -> dict[str, str]:
    """The params of a request to the app."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
