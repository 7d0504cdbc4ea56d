"""Relative paths, and apps that change the directory."""

import signal
from pathlib import Path

import pytest

from tests.cli.running import TRIFCGI, Running, run_trifcgi, running
from tests.cli.test_run import fetch

pytestmark = pytest.mark.real

APP = """
import os
from contextlib import asynccontextmanager


there = os.path.abspath("elsewhere")


def move(when):
    if when == os.environ["WHEN"]:
        os.makedirs(there, exist_ok=True)
        os.chdir(there)


class App:
    @asynccontextmanager
    async def lifespan(self):
        move("startup")
        yield

    async def __call__(self, request):
        move("request")
        await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\n" + os.getcwdb())


app = App()
move("import")
"""
PATHS = (
    "--unix", "s.sock", "--access-log", "a.log", "--pid-file", "p.pid",
    "--admin-unix", "ad.sock", "--admin-token-file", "token",
)  # fmt: skip

with_and_without_workers = pytest.mark.parametrize(
    "more", [(), ("--workers", "1")], ids=["alone", "workers"]
)


def write_app(directory: Path) -> None:
    (directory / "moves.py").write_text(APP)
    (directory / "token").touch(mode=0o600)
    (directory / "token").write_text("0123456789abcdef")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name != "__pycache__"}


async def use_all(server: Running, directory: Path) -> None:
    """Ask at each socket, and have the access log reopened."""
    address = f"unix:{directory}/s.sock"
    assert await server.wait_address() == "unix:s.sock"
    await server.wait_for("control server at unix:ad.sock, with a token\n")
    assert await fetch(address, "/one") == bytes(directory / "elsewhere")
    asked = await run_trifcgi(
        "admin", "config", "--admin-unix", "ad.sock", "--admin-token-file", "token",
        directory=directory,
    )  # fmt: skip
    assert (asked.status, str(directory) in asked.stdout.decode()) == (0, False)
    assert (directory / "p.pid").read_text() == f"{server.process.pid}\n"
    (directory / "a.log").rename(directory / "a.log.1")
    server.process.send_signal(signal.SIGUSR1)
    await server.wait_for("a.log is reopened\n")
    await fetch(address, "/two")


@with_and_without_workers
@pytest.mark.parametrize("when", ["import", "startup", "request"])
async def test_they_keep_their_meaning(tmp_path: Path, when: str, more: tuple[str, ...]) -> None:
    write_app(tmp_path)
    async with running(
        "moves", *PATHS, *more, directory=tmp_path, environment={"WHEN": when}
    ) as server:
        await use_all(server, tmp_path)
        assert await server.stop() == 0
    assert names(tmp_path) == {"moves.py", "token", "elsewhere", "a.log", "a.log.1"}
    assert names(tmp_path / "elsewhere") == set()
    assert b"GET /one " in (tmp_path / "a.log.1").read_bytes()
    assert b"GET /two " in (tmp_path / "a.log").read_bytes()


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A directory in which a socket's absolute path is longer than the system allows."""
    directory = tmp_path / ("d" * 108)
    directory.mkdir()
    write_app(directory)
    return directory


@with_and_without_workers
async def test_a_socket_whose_absolute_path_is_too_long(
    deep: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deep)
    async with running(
        "moves", "--unix", "s.sock", *more, directory=deep, environment={"WHEN": "request"}
    ) as server:
        assert await server.wait_address() == "unix:s.sock"
        assert await fetch("unix:s.sock") == bytes(deep / "elsewhere")
        assert await server.stop() == 0
    assert "s.sock" not in names(deep)


async def test_the_same_once_the_directory_is_another_is_a_mistake(deep: Path) -> None:
    result = await run_trifcgi(
        "run", "moves", "--unix", "s.sock", directory=deep, environment={"WHEN": "import"}
    )
    assert result.status == 2
    assert result.stderr == (
        f"trifcgi: the socket path {deep}/s.sock is longer than the 107 bytes that the system "
        "allows\n"
    )


async def test_a_mistake_names_the_path_as_it_was_written(tmp_path: Path) -> None:
    write_app(tmp_path)
    (tmp_path / "file").touch()
    for arguments, message in (
        (("--unix", "file"), "cannot listen on file: it exists and is not a socket"),
        (("--admin-unix", "file"), "cannot listen on file: it exists and is not a socket"),
        (("--unix", "s", "--access-log", "no/log"), "the access log no/log cannot be opened"),
        (("--admin-unix", "s", "--admin-token-file", "no"), "the token file no cannot be read"),
    ):
        result = await run_trifcgi(
            "run", "moves", *arguments, directory=tmp_path, environment={"WHEN": "import"}
        )
        assert result.status == 2
        assert result.stderr.startswith(f"trifcgi: {message}")


async def test_a_directory_that_is_gone_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    async with running(
        "--root", str(tmp_path), "--unix", str(tmp_path / "s.sock"),
        directory=gone,
        command=("sh", "-c", 'rmdir ../gone && exec "$0" "$@"', TRIFCGI, "run"),
    ) as server:  # fmt: skip
        assert await server.wait_address() == f"unix:{tmp_path}/s.sock"
        assert await server.stop() == 0
