"""``trifcgi run`` in the background, under a PID file, as another user."""

import contextlib
import os
import pwd
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cli.running import TRIFCGI, Result, run_trifcgi
from tests.services.processes import is_alive, others_can_run_python, wait_until
from trifcgi import Client
from trifcgi.testing import params

pytestmark = pytest.mark.real

APP = """
import os

async def app(request):
    text = f"{os.getpid()} {os.getresuid()} {os.getgroups()} {os.environ.get('USER')}"
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\n" + text.encode())
"""
LEAVES = """
import sys

async def app(scope, receive, send):
    await receive()
    sys.exit("missing FOO")
"""
TOKEN = "0123456789abcdef0123"
NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not others_can_run_python(),
    reason="only root can become another user, who also has to reach the interpreter",
)


class Daemon:
    """Starts ``trifcgi run --daemon`` in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid_file = directory / "pid"
        self.socket = directory / "s"

    async def start(self, *arguments: str, app: str = "who", redirections: str = "") -> Result:
        return await run_trifcgi(
            "run", app, "--unix", str(self.socket), "--daemon", "--pid-file", str(self.pid_file),
            *arguments, directory=self.directory, redirections=redirections,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def streams(self) -> list[Path]:
        return [Path(f"/proc/{self.pid}/fd/{fd}").readlink() for fd in range(3)]

    async def ask(self) -> str:
        async with Client(await trio.open_unix_socket(str(self.socket))) as client:
            return (await client.request(params("/"))).body.decode()

    def stop(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "who.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "leaves.py").write_text(LEAVES)
    found = Daemon(tmp_path)
    yield found
    if found.pid_file.exists() and found.pid_file.read_text():
        pid = found.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))


async def test_it_serves_once_the_command_has_ended(daemon: Daemon) -> None:
    result = await daemon.start()
    assert (result.status, result.stdout) == (0, b"")
    assert f"listening on unix:{daemon.socket}\n" in result.stderr
    assert result.stderr.endswith("the log ends here, in the background; 2>>FILE keeps it\n")
    assert (await daemon.ask()).split()[0] == str(daemon.pid)
    daemon.stop()
    assert not daemon.pid_file.exists()
    assert not daemon.socket.exists()


async def test_workers_let_go_of_the_terminal_too(daemon: Daemon) -> None:
    result = await daemon.start("--workers", "2")  # ends with the last that holds its stderr
    assert result.status == 0
    assert (await daemon.ask()).split()[0] != str(daemon.pid)
    daemon.stop()
    assert not daemon.pid_file.exists()


@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
async def test_it_can_be_started_without_standard_streams(
    daemon: Daemon, closed: str, more: tuple[str, ...]
) -> None:
    result = await daemon.start(*more, redirections=closed)
    assert (result.status, result.stdout) == (0, b"")
    assert daemon.streams == [Path("/dev/null")] * 3
    assert (await daemon.start()).stderr.startswith(f"trifcgi: process {daemon.pid} is running ")
    assert ((await daemon.ask()).split()[0] == str(daemon.pid)) == (not more)
    daemon.stop()
    assert not daemon.pid_file.exists()
    assert not daemon.socket.exists()


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("broken", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("leaves", "trifcgi: the app's startup failed: SystemExit: missing FOO"),
    ],
    ids=["import", "lifespan"],
)
@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    daemon: Daemon, more: tuple[str, ...], app: str, reason: str
) -> None:
    result = await daemon.start(*more, app=app)
    assert result.status == 2
    assert f"{reason}\n" in result.stderr
    assert "listening on" not in result.stderr
    assert not daemon.pid_file.exists()
    assert not daemon.socket.exists()


async def test_a_second_one_with_its_pid_file_is_refused(daemon: Daemon) -> None:
    assert (await daemon.start()).status == 0
    result = await daemon.start()
    assert result.status == 2
    assert result.stderr.startswith(
        f"trifcgi: process {daemon.pid} is running with the PID file {daemon.pid_file}: "
    )
    assert (await daemon.ask()).split()[0] == str(daemon.pid)
    daemon.stop()


async def test_it_takes_a_socket_that_it_inherits(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = os.dup(listener.fileno())
        os.set_inheritable(fd, True)
        command = (
            f"LISTEN_PID=$$ LISTEN_FDS=1 exec {TRIFCGI} run who"
            f" --daemon --pid-file {daemon.pid_file} 3<&{fd}"
        )
        process = await trio.run_process(
            ["bash", "-c", command], cwd=daemon.directory, pass_fds=[fd], capture_stderr=True
        )
        os.close(fd)
        address = listener.getsockname()
        assert f"listening on 127.0.0.1:{address[1]}\n" in process.stderr.decode()
        async with Client(await trio.open_tcp_stream(*address)) as client:
            assert (await client.request(params("/"))).body.split()[0] == b"%d" % daemon.pid
    daemon.stop()


@pytest.mark.parametrize("asked", ["signal", "command"])
@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
async def test_its_log_file_can_be_moved_away(
    daemon: Daemon, more: tuple[str, ...], asked: str
) -> None:
    control = f"--admin-unix={daemon.directory / 'c'}"
    log, moved = daemon.directory / "log", daemon.directory / "log.1"
    arguments = ["run", "who", "--unix", str(daemon.socket), "--daemon",
                 "--pid-file", str(daemon.pid_file), control, *more]  # fmt: skip
    with log.open("ab") as stderr:
        command = [TRIFCGI, *arguments]
        await trio.run_process(command, cwd=daemon.directory, stderr=stderr.fileno())
    log.rename(moved)
    if asked == "signal":
        os.kill(daemon.pid, signal.SIGUSR1)
    else:
        assert (await run_trifcgi("admin", "reopen-logs", control)).status == 0
    wait_until(log.exists)
    daemon.stop()
    assert "listening on" in moved.read_text()
    assert log.read_text().endswith(": stopped\n")
    assert "SIGTERM received" not in moved.read_text()


@needs_root
@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
async def test_root_opens_the_socket_and_somebody_else_serves(
    daemon: Daemon, more: tuple[str, ...]
) -> None:
    # Everything below belongs to root, as /run does; the app's directory can be read.
    for directory in (daemon.directory, *daemon.directory.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    result = await daemon.start("--user", "nobody", "--group", "daemon", *more)
    assert result.status == 0, result.stderr
    assert (daemon.socket.stat().st_uid, daemon.socket.stat().st_gid) == (NOBODY.pw_uid, 1)
    uid = NOBODY.pw_uid
    assert (await daemon.ask()).partition(" ")[2] == f"({uid}, {uid}, {uid}) [1] nobody"
    daemon.stop()
    # Neither can be removed from there; the next start replaces both.
    assert daemon.pid_file.read_text() == ""
    assert (await daemon.start()).status == 0
    daemon.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_root_opens_the_control_server_too(daemon: Daemon, tmp_path: Path) -> None:
    # The user may read neither the token nor the directory of the socket, nor take a low port;
    # nothing is started later, so this user need not reach the interpreter.
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    token = private / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    port = _free_low_port()
    result = await daemon.start(
        "--user", "nobody", "--group", "daemon", "--admin-port", str(port),
        "--admin-unix", str(private / "c"), "--admin-token-file", str(token),
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert (await daemon.ask()).partition(" ")[2].startswith(f"({NOBODY.pw_uid}, ")
    streams = (
        await trio.open_tcp_stream("127.0.0.1", port),
        await trio.open_unix_socket(str(private / "c")),
    )
    for stream in streams:
        async with Client(stream) as client:
            for headers, status in (({}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 200)):
                asked = params("/health", headers=headers)
                assert (await client.request(asked)).status == status
    assert (private / "c").stat().st_mode & 0o777 == 0o600
    daemon.stop()


def _free_low_port() -> int:
    """A port that only root may listen on."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("every low port is taken")


@needs_root
async def test_an_app_is_loaded_without_roots_rights(daemon: Daemon) -> None:
    (daemon.directory / "peek.py").write_text("open('/etc/shadow')\n")
    for directory in (daemon.directory, *daemon.directory.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    result = await daemon.start("--user", "nobody", app="peek")
    assert result.status == 2
    assert "PermissionError: [Errno 13] Permission denied: '/etc/shadow'\n" in result.stderr


async def test_an_unknown_user_is_a_mistake(daemon: Daemon) -> None:
    result = await daemon.start("--user", "no-such-one")
    assert (result.status, result.stderr) == (2, "trifcgi: there is no user 'no-such-one'\n")


async def test_stdout_is_no_place_for_a_daemons_access_log(daemon: Daemon) -> None:
    result = await daemon.start("--access-log", "-")
    assert (result.status, result.stderr) == (
        2,
        "trifcgi: --access-log - is stdout, which --daemon lets go of: name a file\n",
    )
