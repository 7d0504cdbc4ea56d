"""The script host: which file runs, as what, in which version, and what never runs."""

import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trifcgi.testing
from tests.apps.eventually import until
from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.scripts import ScriptHost, scripts
from trifcgi.errors import AppLoadError, ConfigurationError, RoleRefused
from trifcgi.protocol.constants import Role

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [("{text}|" + environ["SCRIPT_NAME"] + "|" + environ["PATH_INFO"]).encode()]
"""
ASGI = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    text = "{text}|" + scope["root_path"] + "|" + scope["path"].removeprefix(scope["root_path"])
    await send({{"type": "http.response.body", "body": text.encode()}})
"""
HANDLER = """
async def app(request):
    path = request.params["SCRIPT_NAME"] + "|" + request.params["PATH_INFO"]
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\n{text}|" + path.encode())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    write(place / "hello.py", WSGI, "hello")
    return place


def write(path: Path, code: str = WSGI, text: str = "") -> Path:
    """Write a script so that its state is another one, whatever the file system's clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    fresh.write_text(code.format(text=text))
    fresh.rename(path)
    return path


@asynccontextmanager
async def hosting(root: Path, **more: Any) -> AsyncIterator[ScriptHost]:
    host = scripts(root, **({"threads": 2} | more))
    async with host.lifespan():
        yield host


def asking_for(path: Path | str, url: str = "/hello.py", **more: str) -> MemoryRequest:
    return MemoryRequest(params("GET", url, {"SCRIPT_FILENAME": str(path), **more}))


async def ask(host: ScriptHost, request: MemoryRequest) -> tuple[int, str]:
    with trio.fail_after(5):
        await request.run(host)
    return request.response.status, request.response.body.decode()


NOT_FOUND = (404, "404 Not Found\n")


# Kinds and versions


@pytest.mark.parametrize("code", [WSGI, ASGI, HANDLER], ids=["wsgi", "asgi", "handler"])
async def test_each_kind_of_script(root: Path, code: str) -> None:
    write(root / "a" / "x.py", code, "kind")
    async with hosting(root) as host:
        got = await ask(host, asking_for(root / "a" / "x.py", "/a/x.py"))
        assert got == (200, "kind|/a/x.py|")
        got = await ask(host, asking_for(root / "a" / "x.py/more", "/a/x.py/more"))
        assert got == (200, "kind|/a/x.py|/more")


async def test_a_changed_script_is_loaded_again(root: Path) -> None:
    async with hosting(root) as host:
        assert await ask(host, asking_for(root / "hello.py")) == (200, "hello|/hello.py|")
        write(root / "hello.py", ASGI, "other")
        assert await ask(host, asking_for(root / "hello.py")) == (200, "other|/hello.py|")


async def test_an_unchanged_script_is_loaded_once(root: Path) -> None:
    write(root / "hello.py", "import sys\nsys.loads.append(__name__)\n" + HANDLER)
    sys.loads = []  # type: ignore[attr-defined]
    try:
        async with hosting(root) as host, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, host, asking_for(root / "hello.py"))
                nursery.start_soon(ask, host, asking_for(root / "." / "." / "hello.py"))
        (name,) = sys.loads  # type: ignore[attr-defined]
    finally:
        del sys.loads  # type: ignore[attr-defined]
    assert name.startswith("trifcgi_script_")
    assert name.endswith("_hello")
    assert name not in sys.modules


async def test_the_same_length_in_the_same_second_is_seen(root: Path) -> None:
    async with hosting(root) as host:
        for text in ("one", "two", "six"):
            write(root / "hello.py", WSGI, text)
            assert (await ask(host, asking_for(root / "hello.py")))[1].startswith(text)
    assert not (root / "__pycache__").exists()


async def test_the_old_version_finishes_its_requests(root: Path) -> None:
    write(
        root / "hello.py",
        "import trio\nevents = (trio.Event(), trio.Event())\n"
        "async def app(request):\n"
        "    events[0].set()\n"
        "    await events[1].wait()\n"
        "    import sys\n"
        "    assert sys.modules[__name__].events is events\n"
        "    await request.stdout.send_all(b'Status: 200\\r\\n\\r\\nold')\n",
    )
    async with hosting(root) as host, trio.open_nursery() as nursery:
        old = asking_for(root / "hello.py")
        nursery.start_soon(ask, host, old)
        # Registered before its code has run.
        await until(
            lambda: [
                name
                for name, module in list(sys.modules.items())
                if name.endswith("_hello") and hasattr(module, "events")
            ]
        )
        (name,) = [name for name in sys.modules if name.endswith("_hello")]
        await sys.modules[name].events[0].wait()
        write(root / "hello.py", WSGI, "new")
        assert (await ask(host, asking_for(root / "hello.py")))[1] == "new|/hello.py|"
        assert name in sys.modules
        sys.modules[name].events[1].set()
        await until(lambda: name not in sys.modules)
    assert old.response.body == b"old"


async def test_asgi_lifespans_last_as_long_as_their_version(root: Path) -> None:
    notes: list[str] = []
    sys.notes = notes  # type: ignore[attr-defined]
    code = (
        "import sys\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        for what in ('startup', 'shutdown'):\n"
        "            await receive()\n"
        "            sys.notes.append('{text} ' + what)\n"
        "            await send({{'type': 'lifespan.' + what + '.complete'}})\n"
        "        return\n"
        "    sys.notes.append('{text} request')\n"
        "    await send({{'type': 'http.response.start', 'status': 204, 'headers': []}})\n"
        "    await send({{'type': 'http.response.body'}})\n"
    )
    try:
        async with hosting(root) as host:
            write(root / "hello.py", code, "one")
            await ask(host, asking_for(root / "hello.py"))
            write(root / "hello.py", code, "two")
            await ask(host, asking_for(root / "hello.py"))
            await until(lambda: "one shutdown" in notes)
            assert "two shutdown" not in notes
    finally:
        del sys.notes  # type: ignore[attr-defined]
    assert notes[:2] == ["one startup", "one request"]
    assert notes[-1] == "two shutdown"
    assert len(notes) == 6


async def test_modules_in_the_root_can_be_imported(root: Path) -> None:
    write(root / "beside_the_script.py", "TEXT = 'imported'\n")
    write(root / "a" / "x.py", "from beside_the_script import TEXT\n" + WSGI, '" + TEXT + "')
    try:
        async with hosting(root) as host:
            got = await ask(host, asking_for(root / "a" / "x.py", "/a/x.py"))
            assert got == (200, "imported|/a/x.py|")
            assert sys.path[0] == str(root)
    finally:
        sys.modules.pop("beside_the_script", None)
    assert str(root) not in sys.path


async def test_loading_does_not_hold_the_event_loop_up(root: Path) -> None:
    sys.gate = threading.Event()  # type: ignore[attr-defined]
    write(root / "slow.py", "import sys\nassert sys.gate.wait(5)\n" + WSGI, "slow")
    try:
        async with hosting(root) as host, trio.open_nursery() as nursery:
            slow = asking_for(root / "slow.py", "/slow.py")
            nursery.start_soon(ask, host, slow)
            assert (await ask(host, asking_for(root / "hello.py")))[0] == 200
            assert not slow.stdout.begun
            sys.gate.set()  # type: ignore[attr-defined]
        assert slow.response.body == b"slow|/slow.py|"
    finally:
        del sys.gate  # type: ignore[attr-defined]


async def test_a_client_that_leaves_does_not_stop_the_loading(root: Path) -> None:
    sys.gate = threading.Event()  # type: ignore[attr-defined]
    write(root / "slow.py", "import sys\nassert sys.gate.wait(5)\n" + WSGI, "slow")
    try:
        async with hosting(root) as host, trio.open_nursery() as nursery:
            first, second = (asking_for(root / "slow.py", "/slow.py") for _ in range(2))
            nursery.start_soon(ask_and_leave, host, first)
            nursery.start_soon(ask, host, second)
            await trio.testing.wait_all_tasks_blocked()
            first.abort()
            sys.gate.set()  # type: ignore[attr-defined]
        assert second.response.body == b"slow|/slow.py|"
        assert not first.stdout.begun
    finally:
        del sys.gate  # type: ignore[attr-defined]


async def ask_and_leave(host: ScriptHost, request: MemoryRequest) -> None:
    await request.run(host)


# Failures


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("app = 1 / 0\n", "ZeroDivisionError"),
        ("app = (\n", "SyntaxError"),
        ("app = 3\n", "cannot be called"),
        ("import sys\nsys.exit('app')\napp = 1", "SystemExit"),
        ("app = '\0'\n", "null bytes"),
        ("def app(): pass\n", "no arguments"),
    ],
)
async def test_a_script_that_cannot_be_loaded(root: Path, code: str, message: str) -> None:
    path = write(root / "bad.py", code)
    modules = set(sys.modules)
    async with hosting(root) as host:
        for _ in range(2):
            request = asking_for(path, "/bad.py")
            with pytest.raises(AppLoadError, match=message) as caught:
                await ask(host, request)
            assert str(path) in str(caught.value)
            assert not request.stdout.begun
        write(path, WSGI, "good")
        assert await ask(host, asking_for(path, "/bad.py")) == (200, "good|/bad.py|")
    assert {name for name in sys.modules if name.startswith("trifcgi_script")} <= modules


async def test_a_failure_is_tried_again_after_a_second_and_not_before(
    root: Path, mock_clock: trio.testing.MockClock
) -> None:
    path = write(root / "bad.py", "import sys\nsys.tries.append(1)\napp = 1 / 0\n")
    sys.tries = []  # type: ignore[attr-defined]
    try:
        async with hosting(root) as host:
            for tries in (1, 1, 2, 2):
                with pytest.raises(AppLoadError):
                    await asking_for(path, "/bad.py").run(host)
                assert len(sys.tries) == tries  # type: ignore[attr-defined]
                mock_clock.jump(0.6)
    finally:
        del sys.tries  # type: ignore[attr-defined]


async def test_what_a_script_raises_comes_out(root: Path) -> None:
    write(root / "hello.py", "async def app(request):\n    raise LookupError('on purpose')\n")
    async with hosting(root) as host:
        with pytest.raises(LookupError, match="on purpose"):
            await ask(host, asking_for(root / "hello.py"))


async def test_roles(root: Path) -> None:
    write(
        root / "native.py",
        "async def app(request):\n"
        "    await request.stdout.send_all(b'Status: 200\\r\\n\\r\\nok')\n",
    )
    async with hosting(root) as host:
        assert host.roles == set(Role)
        pairs = [(b"SCRIPT_FILENAME", os.fsencode(root / "native.py"))]
        request = MemoryRequest(pairs, role=Role.AUTHORIZER)
        assert await ask(host, request) == (200, "ok")
        pairs = [(b"SCRIPT_FILENAME", os.fsencode(root / "hello.py"))]
        with pytest.raises(RoleRefused, match=r"hello\.py does not serve the role"):
            await MemoryRequest(pairs, role=Role.AUTHORIZER).run(host)


async def test_a_lifespan_that_fails_is_a_failure_to_load(root: Path) -> None:
    write(
        root / "hello.py",
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({{'type': 'lifespan.startup.failed', 'message': 'no database'}})\n",
    )
    async with hosting(root) as host:
        with pytest.raises(AppLoadError, match="no database"):
            await ask(host, asking_for(root / "hello.py"))


async def test_a_lifespan_that_ends_the_program_ends_no_more_than_its_script(root: Path) -> None:
    write(
        root / "bad.py",
        "async def app(scope, receive, send):\n    await receive()\n    raise SystemExit(3)\n",
    )
    async with hosting(root) as host:
        with pytest.raises(AppLoadError, match=r"startup failed: SystemExit: 3$"):
            await ask(host, asking_for(root / "bad.py", "/bad.py"))
        assert (await ask(host, asking_for(root / "hello.py")))[0] == 200


NATIVE = """
from contextlib import asynccontextmanager

class App:
    async def __call__(self, request):
        await request.stdout.send_all(b"Status: 200\\r\\n\\r\\n")

    @asynccontextmanager
    async def lifespan(self):
        if "{text}" == "startup":
            raise SystemExit(3)
        try:
            yield
        finally:
            if "{text}" == "shutdown":
                raise SystemExit(4)

app = App()
"""


async def test_nor_does_a_lifespan_of_a_native_script(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(root / "native.py", NATIVE, "startup")
    async with hosting(root) as host:
        with pytest.raises(AppLoadError, match="3") as caught:
            await ask(host, asking_for(root / "native.py", "/native.py"))
        assert isinstance(caught.value.__cause__, SystemExit)
        write(root / "native.py", NATIVE, "shutdown")
        assert (await ask(host, asking_for(root / "native.py", "/native.py")))[0] == 200
        write(root / "native.py", NATIVE, "neither")
        assert (await ask(host, asking_for(root / "native.py", "/native.py")))[0] == 200
        await until(lambda: "native.py failed outside of its requests" in caplog.text)
        assert "SystemExit: 4" in caplog.text
        write(root / "native.py", NATIVE, "shutdown")
        assert (await ask(host, asking_for(root / "native.py", "/native.py")))[0] == 200
    assert caplog.text.count("SystemExit: 4") == 2


async def test_a_native_script_has_the_whole_request(root: Path) -> None:
    write(
        root / "hello.py",
        "async def app(request):\n"
        "    assert request.id == 1 and not request.aborted\n"
        "    body = await request.stdin.receive_some()\n"
        "    assert request.stdin.ended and await request.data.receive_some() == b''\n"
        "    await request.stdout.send_all(b'Status: 200\\r\\n\\r\\n' + body)\n"
        "    await request.stderr.send_all(b'a line')\n"
        "    request.cancel_scope.cancel()\n"
        "    await request.wait_aborted()\n",
    )
    request = MemoryRequest(params("POST", "/hello.py"), body=b"echo")
    async with hosting(root) as host:
        assert await ask(host, request) == (200, "echo")
    assert request.stderr.sent == b"a line"


# What never runs


async def test_what_is_not_there_is_a_404_that_tells_nothing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "directory.py").mkdir()
    write(root / "plain.txt")
    with caplog.at_level(logging.INFO):
        async with hosting(root) as host:
            for name in (
                "missing.py",
                "directory.py",
                "plain.txt",
                "",
                "a" * 300 + ".py",
                "\0.py",
            ):
                caplog.clear()
                assert await ask(host, asking_for(f"{root}/{name}")) == NOT_FOUND
                assert "404: there is no script" in caplog.text


async def test_nothing_outside_the_root_is_run(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = write(root.parent / "outside.py", WSGI, "evil")
    write(root.parent / "root2" / "x.py", WSGI, "evil")
    (root / "link.py").symlink_to(outside)
    (root / "up").symlink_to(root.parent)
    async with hosting(root) as host:
        for path in (
            outside,
            f"{root}/../outside.py",
            f"{root}/link.py",
            f"{root}/up/outside.py",
            f"{root}2/x.py",
            "../outside.py",
        ):
            caplog.clear()
            assert await ask(host, asking_for(path)) == NOT_FOUND
            assert "outside" in caplog.text
            assert str(outside.name) in caplog.text or "x.py" in caplog.text
        url = MemoryRequest(params("GET", "/../outside.py"))
        assert await ask(host, url) == NOT_FOUND


async def test_a_link_that_is_turned_outside_later_is_not_followed(root: Path) -> None:
    outside = write(root.parent / "outside.py", WSGI, "evil")
    link = root / "link.py"
    link.symlink_to(root / "hello.py")
    async with hosting(root) as host:
        assert (await ask(host, asking_for(link, "/link.py")))[0] == 200
        link.unlink()
        link.symlink_to(outside)
        assert await ask(host, asking_for(link, "/link.py")) == NOT_FOUND


async def test_a_root_that_is_a_link_may_be_turned(root: Path) -> None:
    write(root.parent / "next" / "hello.py", WSGI, "next")
    link = root.parent / "current"
    link.symlink_to(root)
    async with hosting(link) as host:
        assert (await ask(host, asking_for(link / "hello.py")))[1].startswith("hello|")
        link.unlink()
        link.symlink_to(root.parent / "next")
        assert (await ask(host, asking_for(link / "hello.py")))[1].startswith("next|")


async def test_a_script_that_is_gone_is_a_404(root: Path) -> None:
    async with hosting(root) as host:
        assert (await ask(host, asking_for(root / "hello.py")))[0] == 200
        (root / "hello.py").unlink()
        assert await ask(host, asking_for(root / "hello.py")) == NOT_FOUND


@pytest.mark.parametrize(
    ("code", "runs"),
    [
        ("VALUE = 1\n", False),
        ("def helper():\n    app = 1\n", False),
        ("from os.path import *\n", True),
        ("app = None\n", True),
    ],
)
async def test_a_module_without_an_app_is_a_404_and_not_run_by_a_client(
    root: Path, code: str, runs: bool
) -> None:
    path = write(root / "settings.py", "import sys\nsys.ran.append(1)\n" + code)
    sys.ran = []  # type: ignore[attr-defined]
    try:
        async with hosting(root) as host:
            for _ in range(2):
                assert await ask(host, asking_for(path)) == NOT_FOUND
        assert len(sys.ran) == runs  # type: ignore[attr-defined]
    finally:
        del sys.ran  # type: ignore[attr-defined]


# The host itself


def test_the_root_has_to_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no directory"):
        scripts(tmp_path / "missing")


async def test_without_its_lifespan_it_says_what_to_do(root: Path) -> None:
    with pytest.raises(RuntimeError, match=r"async with handler\.lifespan\(\)"):
        await scripts(root)(MemoryRequest())


async def test_one_server_at_a_time_and_again(root: Path) -> None:
    host = scripts(root, threads=1)
    for _ in range(2):
        async with host.lifespan():
            with pytest.raises(RuntimeError, match="served already"):
                async with host.lifespan():
                    pass
            assert (await ask(host, asking_for(root / "hello.py")))[0] == 200


async def test_spellings_without_end_take_no_memory_without_end(root: Path) -> None:
    async with hosting(root) as host:
        for count in range(4200):
            place = f"{root}{'/' * (count % 70)}/{'./' * (count // 70)}hello.py"
            request = asking_for(place)
            await request.run(host)
        assert len(host._real_paths) <= 4096


async def test_through_the_server(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "bad.py", "app = 1 / 0\n")
    async with trifcgi.testing.open_client(scripts(root)) as client:
        response = await client.request(trifcgi.testing.params("/hello.py/x"))
        assert (response.status, response.body) == (200, b"hello|/hello.py|/x")
        response = await client.request(trifcgi.testing.params("/missing.py"))
        assert (response.status, response.body) == (404, b"404 Not Found\n")
        response = await client.request(trifcgi.testing.params("/bad.py"))
        assert response.status == 500
        assert str(root).encode() not in response.body
    assert f"{root}/bad.py" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# Where front ends say that the script is


def spelling(root: Path, name: str) -> Mapping[str, str]:
    docroot = str(root)
    return {
        "nginx fastcgi_params": {"SCRIPT_NAME": "/a/x.py/info", "DOCUMENT_ROOT": docroot},
        "nginx fastcgi_params, docroot elsewhere": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": "/usr/share/nginx/html",
        },
        "nginx fastcgi.conf": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py/info",
        },
        "nginx split path info": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py",
        },
        "nginx in another container": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": "/not/on/this/machine",
            "SCRIPT_FILENAME": "/not/on/this/machine/a/x.py",
        },
        "Apache ProxyPass": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": "/var/www/html",
            "SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/a/x.py/info",
        },
        "Apache ProxyPass to a path": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": "/var/www/html",
            "SCRIPT_FILENAME": f"proxy:fcgi://localhost{docroot}/a/x.py/info",
        },
        "Apache ProxyPass below a prefix": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": "/var/www/html",
            "SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/x.py/info",
        },
        "Apache ProxyPass, GENERIC": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": "/var/www/html",
            "SCRIPT_FILENAME": "/a/x.py/info",
        },
        "Apache <Location> SetHandler": {
            "SCRIPT_NAME": "/a",
            "PATH_INFO": "/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"proxy:fcgi://127.0.0.1:9000{docroot}/a",
        },
        "Apache <Files> SetHandler": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"proxy:fcgi://localhost{docroot}/a/x.py",
        },
        "lighttpd by extension": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py/info",
        },
        "lighttpd for /": {
            "SCRIPT_NAME": "",
            "PATH_INFO": "/a/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/",
        },
        "lighttpd for / without fix-root-scriptname": {
            "SCRIPT_NAME": "/a",
            "PATH_INFO": "/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a",
        },
        "Caddy": {
            "SCRIPT_NAME": "",
            "PATH_INFO": "/a/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": docroot,
        },
        "Caddy split .py": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py",
        },
        "HAProxy": {
            "SCRIPT_NAME": "/a/x.py/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py/info",
        },
        "HAProxy path-info": {
            "SCRIPT_NAME": "/a/x.py",
            "PATH_INFO": "/info",
            "DOCUMENT_ROOT": docroot,
            "SCRIPT_FILENAME": f"{docroot}/a/x.py",
        },
    }[name]


SPELLINGS = [
    "nginx fastcgi_params",
    "nginx fastcgi_params, docroot elsewhere",
    "nginx fastcgi.conf",
    "nginx split path info",
    "nginx in another container",
    "Apache ProxyPass",
    "Apache ProxyPass to a path",
    "Apache ProxyPass below a prefix",
    "Apache ProxyPass, GENERIC",
    "Apache <Location> SetHandler",
    "Apache <Files> SetHandler",
    "lighttpd by extension",
    "lighttpd for /",
    "lighttpd for / without fix-root-scriptname",
    "Caddy",
    "Caddy split .py",
    "HAProxy",
    "HAProxy path-info",
]


@pytest.mark.parametrize("name", SPELLINGS)
async def test_every_front_end_finds_a_dropped_in_script(root: Path, name: str) -> None:
    write(root / "a" / "x.py", WSGI, "found")
    async with hosting(root) as host:
        request = MemoryRequest(params("GET", "/a/x.py/info", spelling(root, name)))
        assert await ask(host, request) == (200, "found|/a/x.py|/info")


@pytest.mark.parametrize(
    ("script_name", "path_info", "file", "want"),
    [
        ("/x.py/x.py", None, "x.py", "|/x.py|/x.py"),
        ("/x.py/a/x.py", None, "a/x.py", "|/x.py/a/x.py|"),
        ("/x.pyx/x.py", None, "x.py", "|/x.pyx/x.py|"),
        ("/alias", "/rest", "x.py", "|/alias|/rest"),
        ("/any/url", None, "x.py", "||/any/url"),
        ("/x.py", "", "x.py", "|/x.py|"),
    ],
)
async def test_the_url_is_cut_behind_the_script(
    root: Path, script_name: str, path_info: str | None, file: str, want: str
) -> None:
    write(root / file)
    extra = {"SCRIPT_FILENAME": f"{root}/{file}", "SCRIPT_NAME": script_name}
    if path_info is not None:
        extra["PATH_INFO"] = path_info
    pairs = params("GET", script_name + (path_info or ""), extra)
    async with hosting(root) as host:
        assert await ask(host, MemoryRequest(pairs)) == (200, want)


async def test_a_mount_is_taken_off_urls(root: Path) -> None:
    async with hosting(root, mount="/app/") as host:
        request = MemoryRequest(params("GET", "/app/hello.py/x"))
        assert await ask(host, request) == (200, "hello|/app/hello.py|/x")
        elsewhere = {"SCRIPT_FILENAME": "/nowhere/app", "PATH_INFO": "/hello.py"}
        request = MemoryRequest(params("GET", "/app", elsewhere))
        assert await ask(host, request) == (200, "hello|/app/hello.py|")


async def test_a_named_file_that_is_missing_is_not_guessed_around(root: Path) -> None:
    async with hosting(root) as host:
        for path in (f"{root}/missing.py", "/etc/passwd", "/nowhere/hello.py", f"{root}/\0/x.py"):
            assert await ask(host, asking_for(path, "/hello.py")) == NOT_FOUND
