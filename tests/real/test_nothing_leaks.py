"""What peers send, in all that leaves: secrets never do, and nothing hostile does as it came.

Real requests over real workers, seen through every command of the control server, in both of its
formats and on the command line, and in every log.
"""

import json
import subprocess
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.real.control import Control
from tests.real.ports import PortBlock
from tests.real.serving import TRIFCGI
from tests.real.workers import Workers
from trifcgi.admin import COMMANDS

SECRET = "geheim-0815"
MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = (
    b"/hold/" + MARKUP.encode() + b"'\"&\x1b[2J\x07\r\nfake: line\n\xff\xfe\xe2\x80\xae\x9b"
    b"?password=" + SECRET.encode() + b"&q=" + MARKUP.encode()
)
PARAMS = [
    (b"REQUEST_METHOD", b"GET"),
    (b"REQUEST_URI", HOSTILE),
    (b"SCRIPT_NAME", b""),
    (b"PATH_INFO", HOSTILE.partition(b"?")[0]),
    (b"QUERY_STRING", HOSTILE.partition(b"?")[2]),
    (b"SERVER_PROTOCOL", b"HTTP/1.1"),
    (b"REMOTE_ADDR", b"192.0.2.7\x1b[2J\n"),
    (b"HTTP_HOST", b"<b>\x1b]0;x\x07"),
    (b"HTTP_USER_AGENT", b"<b>\x1b]0;x\x07\nfake: line"),
    (b"HTTP_AUTHORIZATION", b"Basic " + SECRET.encode()),
    (b"HTTP_PROXY_AUTHORIZATION", b"Basic " + SECRET.encode()),
    (b"HTTP_COOKIE", b"sid=" + SECRET.encode()),
    (b"HTTP_X_API_KEY", SECRET.encode()),
    (b"DB_PASSWORD", SECRET.encode()),
]
APP = f"""
import trio
HEAD = b"Status: 200 OK\\r\\nContent-Type: text/plain\\r\\nSet-Cookie: sid={SECRET}\\r\\n\\r\\n"
async def holds(request):
    cookie = request.params["HTTP_COOKIE"]
    await request.stdout.send_all(HEAD + cookie.encode())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_with, request.params["HTTP_AUTHORIZATION"])
async def wait_with(authorization):
    await trio.sleep_forever()
def blocks(environ, start_response):
    cookie = environ["HTTP_COOKIE"]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", cookie)])(b"x")
    environ["trifcgi.stopping"].wait(60)
    return []
import sys
sys.modules["app_of_workers"].holds = holds
sys.modules["app_of_workers"].blocks = blocks
"""
READ = [command for command in COMMANDS if command.method == "GET"]
APPS = ("holds", "blocks")


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


@asynccontextmanager
async def held(workers: Workers, control: Control) -> AsyncIterator[list[str]]:
    """A request that goes on in each worker; gives their IDs."""
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        control.post("/trace?count=10")
        while len({request["worker"] for request in _requests(control)}) < 2:
            client = await stack.enter_async_context(await workers.connect())
            exchange = await stack.enter_async_context(client.open(PARAMS))
            await exchange.stdin.aclose()
            await exchange.response()
        yield [request["id"] for request in _requests(control)]


def _requests(control: Control) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = control.get("/requests")["requests"]
    return found


def _answers(control: Control, ids: list[str]) -> dict[str, str]:
    """What every command that reads has to say, as JSON and as text."""
    paths = [command.path for command in READ if "{" not in command.path]
    paths += [f"/requests/{request}" for request in ids]
    found = {}
    for path in paths:
        for kind in ("json", "text"):
            status, found[f"{path} as {kind}"] = control.ask("GET", f"{path}?format={kind}")
            assert status == 200, path
    return found


def is_harmless(text: str) -> bool:
    """Whether a terminal shows this text as it is."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_neither_the_control_server_nor_a_log_gives_anything_away(
    workers: Workers, ports: PortBlock, app: str, log_format: str
) -> None:
    control = Control(ports.take())
    access_log = workers.directory / "access"
    workers.write("at_import", APP)
    workers.start(
        "--admin-port", str(control.port), "--access-log", str(access_log),
        "--slow-request", "200ms", "--log-format", log_format, "--log-level", "debug",
        app=f"app_of_workers:{app}",
    )  # fmt: skip
    async with held(workers, control) as ids:
        answers = _answers(control, ids)
        await trio.to_thread.run_sync(workers.wait_log, "has been running for", 2)
        shown = [_admin(control, "requests"), _admin(control, "request", ids[0])]
        for request in ids:
            control.post(f"/requests/{request}/cancel")
    workers.serving.stop()
    log, lines = workers.log, access_log.read_bytes()
    _check_answers(answers)
    for text in (*shown, log):
        # Not a word of it is a secret's, but for the query: that is in logs as it was asked for.
        assert SECRET not in text.replace(f"password={SECRET}", "")
        assert all(map(is_harmless, text.splitlines()))
        assert not any(line.startswith("fake:") for line in text.splitlines())
    assert lines
    assert SECRET.encode() not in lines.replace(f"password={SECRET}".encode(), b"")
    assert all(map(is_harmless, lines.decode().splitlines()))
    if log_format == "json":
        assert all(json.loads(line) for line in [*log.splitlines(), *lines.decode().splitlines()])


def _check_answers(answers: dict[str, str]) -> None:
    for name, text in answers.items():
        assert SECRET not in text, name
        assert all(map(is_harmless, text.splitlines())), name
    # It is all there, harmless: as JSON without a "<" that a browser could take for markup.
    assert r"\u003cimg src=x onerror=alert(1)>" in answers["/requests as json"]
    assert all("<" not in text for name, text in answers.items() if name.endswith("json"))
    assert MARKUP in json.loads(answers["/requests as json"])["requests"][0]["uri"]
    assert MARKUP in answers["/requests as text"]
    trace = json.loads(answers["/trace as json"])["traces"][0]
    assert ["HTTP_COOKIE", "***"] in trace["params"]
    assert "Set-Cookie: ***" in answers["/trace as text"]
    stacks = next(text for name, text in answers.items() if name.startswith("/requests/"))
    assert "wait_with" in stacks or "blocks" in stacks


def _admin(control: Control, *words: str) -> str:
    """What ``trifcgi admin`` says."""
    command = [TRIFCGI, "admin", *words, "--admin-port", str(control.port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
