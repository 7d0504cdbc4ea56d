"""The control server as people meet it: over HTTP, through nginx, on the command line and in a
browser."""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.real.browser import Page, browse
from tests.real.ports import PortBlock
from tests.real.processes import PrivateProcess, require
from tests.real.serving import TRIFCGI, Serving

APP = """
import trio

async def app(request):
    if "hold" in request.params["PATH_INFO"]:
        await trio.sleep_forever()
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\nhello\\n")
"""
HOSTILE = "/hold<img src=x onerror=alert(1)>"
TOKEN = "0123456789abcdef0123"


class Served:
    """A server with a control server, and the means to talk to both."""

    def __init__(self, process: Serving, address: str, control: int, unix: Path) -> None:
        self.process = process
        self.address = address
        self.control = control
        self.unix = unix
        self.holding: list[subprocess.Popen[bytes]] = []

    def http(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """What the control server answers to a program that speaks HTTP."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.control, timeout=20)) as made:
            made.request(method, path, headers=headers or {})
            response = made.getresponse()
            body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else body.decode()

    def admin(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """What ``trifcgi admin`` says."""
        command = [TRIFCGI, "admin", *words, "--admin-unix", str(self.unix)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def hold(self, *paths: str) -> None:
        """Have a request running for each path."""
        for path in paths:
            command = [TRIFCGI, "request", self.address, "/hold", "-P", f"REQUEST_URI={path}"]
            self.holding.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
        self.wait(lambda: self.running() == len(self.holding))

    def running(self) -> int:
        """Requests that run."""
        return len(self.http("GET", "/requests")[1]["requests"])

    def generations(self) -> set[int]:
        """Those of the workers that serve."""
        workers = self.http("GET", "/status")[1]["workers"]
        return {w["generation"] for w in workers if w["state"] == "running"}

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once something is so."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it does not come about"
            time.sleep(0.02)


@contextmanager
def serving(directory: Path, ports: PortBlock, *options: str) -> Iterator[Served]:
    (directory / "held.py").write_text(APP)
    control, unix = ports.take(), directory / "control.sock"
    arguments = ["held:app", "--port", "0", "--admin-port", str(control), "--grace", "1"]
    process = Serving(
        "held",
        [*arguments, "--admin-unix", str(unix), *options],
        log=directory / "log",
        directory=directory,
    )
    served = Served(process, process.wait_addresses()[0], control, unix)
    try:
        yield served
    finally:
        process.kill()
        for held in served.holding:
            held.communicate()


@pytest.fixture
def served(short_directory: Path, ports: PortBlock) -> Iterator[Served]:
    with serving(short_directory, ports) as found:
        yield found


def test_it_speaks_http_on_tcp_and_on_its_unix_socket(served: Served) -> None:
    assert served.http("GET", "/ready") == (200, {"ready": True, "state": "running"})
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.unix))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert served.unix.stat().st_mode & 0o777 == 0o600
    assert served.http("GET", "/health", {"Host": "evil.example"})[0] == 403
    assert served.http("POST", "/stop", {"Origin": "http://evil.example"})[0] == 403
    assert served.http("GET", "/stop")[0] == 405
    assert served.process.stop() == 0


def test_it_answers_at_once_while_every_slot_is_taken(
    short_directory: Path, ports: PortBlock
) -> None:
    with serving(short_directory, ports, "--max-requests", "2") as served:
        served.hold("/hold/1", "/hold/2")
        took = []
        for path in ("/health", "/status", "/requests", "/tasks") * 3:
            began = time.perf_counter()
            assert served.http("GET", path)[0] == 200
            took.append(time.perf_counter() - began)
        assert sorted(took)[len(took) // 2] < 0.05


@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_it_shows_a_server_that_drains(
    short_directory: Path, ports: PortBlock, more: tuple[str, ...]
) -> None:
    with serving(short_directory, ports, *more, "--grace", "60") as served:
        served.hold("/hold/1")
        asked = served.http("POST", "/drain")
        assert asked == (200, {"stopping": True, "requests": 1, "grace": 60.0})
        for _ in range(2):
            status, shown = served.http("GET", "/status")
            assert status == 200
            assert (shown["state"], shown["requests"]) == ("draining", 1)
            assert shown["listeners"] == [served.address]
            assert served.http("GET", "/ready") == (503, {"ready": False, "state": "draining"})
        for path in ("/requests", "/connections", "/tasks", "/metrics", "/config", "/memory"):
            assert served.http("GET", path)[0] == 200
        assert served.http("POST", "/stop")[0] == 200
        assert served.process.wait() == 1


def test_the_command_line_shows_and_changes(served: Served) -> None:
    served.hold("/hold/me")
    listed = served.admin("requests")
    assert listed.returncode == 0
    assert "/hold/me" in listed.stdout
    (request,) = json.loads(served.admin("requests", "--json").stdout)["requests"]
    assert served.admin("cancel", request["id"]).returncode == 0
    served.wait(lambda: served.running() == 0)
    gone = served.admin("cancel", request["id"])
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"trifcgi: there is no request {request['id']}")
    assert "trifcgi_requests_total" in served.admin("metrics").stdout
    assert served.admin("stop").returncode == 0
    assert served.process.wait() == 0


def test_without_its_token_it_tells_nothing(short_directory: Path, ports: PortBlock) -> None:
    token = short_directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with serving(short_directory, ports, "--admin-token-file", str(token)) as served:
        for path in ("/status", "/metrics", "/health", "/requests/1", "/nothing"):
            assert served.http("GET", path)[0] == 401
            assert served.http("GET", f"{path}?token={TOKEN}")[0] == 401
        carried = {"Authorization": f"Bearer {TOKEN}"}
        assert served.http("GET", "/health", carried)[0] == 200
        refused = served.admin("status")
        assert refused.returncode == 1
        assert "token is needed" in refused.stderr
        assert served.admin("status", "--admin-token-file", str(token)).returncode == 0
        assert TOKEN not in served.process.read_log()
        _log_in(served)


def _log_in(served: Served) -> None:
    with browse() as page:
        page.open(f"http://127.0.0.1:{served.control}/")
        page.wait("!document.querySelector('#login').hidden")
        for token, state in (("wrong", "That is not"), (TOKEN, "")):
            page.evaluate(f"document.querySelector('#token').value = '{token}'")
            page.evaluate("document.querySelector('#login button').click()")
            if state:
                page.wait(f"document.querySelector('#login-why').innerText.includes('{state}')")
        page.wait("document.querySelector('#state').innerText === 'running'")
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        assert TOKEN not in page.evaluate("location.href")


def _rows(page: Page) -> Any:
    return page.evaluate("[...document.querySelectorAll('.request .uri')].map(e => e.innerText)")


@contextmanager
def nginx(directory: Path, ports: PortBlock, control: int) -> Iterator[str]:
    """nginx with the control server below a path; gives the URL."""
    binary, port = require("nginx"), ports.take()
    temporary = "".join(
        f"{module}_temp_path {directory}/{module};\n"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; user root; pid {directory}/nginx.pid; error_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port};\n"
        "location /ops/ { include /etc/nginx/fastcgi_params;"
        f" fastcgi_pass 127.0.0.1:{control}; }} }} }}\n"
    )
    process = PrivateProcess(
        "nginx",
        [binary, "-p", str(directory), "-c", f"{directory}/nginx.conf"],
        log=directory / "nginx.log",
    )
    try:
        process.wait_listening([("127.0.0.1", port)])
        yield f"http://127.0.0.1:{port}/ops/"
    finally:
        process.kill()


@pytest.mark.parametrize("way", ["direct", "nginx"])
def test_a_browser_shows_cancels_and_drains(
    served: Served, way: str, short_directory: Path, ports: PortBlock
) -> None:
    served.hold("/hold/a", HOSTILE)
    if way == "direct":
        _cancel_and_drain(served, f"http://127.0.0.1:{served.control}/")
    else:
        with nginx(short_directory, ports, served.control) as url:
            _cancel_and_drain(served, url)


def _cancel_and_drain(served: Served, url: str) -> None:
    with browse() as page:
        page.open(url)
        page.wait("document.querySelectorAll('.request').length === 2")
        assert sorted(_rows(page)) == ["/hold/a", HOSTILE]
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.querySelector('#app').innerText") == "held:app"
        assert page.evaluate("document.querySelector('#reload').disabled") is True
        page.evaluate(
            "[...document.querySelectorAll('.request')]"
            ".find(row => row.innerText.includes('/hold/a')).querySelector('.cancel').click()"
        )
        page.wait("document.querySelectorAll('.request').length === 1")
        assert _rows(page) == [HOSTILE]
        page.evaluate("document.querySelector('#show-tasks').click()")
        page.wait("document.querySelector('#details-text').innerText.includes('sleep_forever')")
        page.evaluate("document.querySelector('#details-close').click()")
        assert page.complaints == []
        page.evaluate("document.querySelector('#drain').click()")
        assert page.evaluate("document.querySelector('#drain').innerText") == "Drain: sure?"
        page.evaluate("document.querySelector('#drain').click()")
        assert served.process.wait() == 1  # the drain has cut the request that held on


def test_a_browser_shows_workers_and_replaces_them(
    short_directory: Path, ports: PortBlock
) -> None:
    with serving(short_directory, ports, "--workers", "2") as served, browse() as page:
        served.hold("/hold/a")
        page.open(f"http://127.0.0.1:{served.control}/")
        page.wait("document.querySelectorAll('.worker .pill.good').length === 2")
        page.wait("document.querySelectorAll('.request').length === 1")
        page.evaluate("document.querySelector('#reload').click()")
        page.evaluate("document.querySelector('#reload').click()")
        page.wait("document.body.innerText.match(/generation 2/g)?.length === 2")
        served.wait(lambda: served.generations() == {2})
        assert page.complaints == []
