"""``trifcgi run`` as a process: ready, signals, sockets, exit statuses."""

import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.running import PATIENCE, TRIFCGI, run_trifcgi, running
from trifcgi.client import Client
from trifcgi.config import TcpAddress, parse_address

pytestmark = pytest.mark.real

_WRITES = """
import sys

sys.stderr.write("loaded")


async def app(request):
    sys.stdout.write("out")
    sys.stderr.write("err")
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\nwritten")
"""


async def connect(address: str) -> Client:
    where = parse_address(address)
    with trio.fail_after(PATIENCE):
        if isinstance(where, TcpAddress):
            return Client(await trio.open_tcp_stream(where.host, where.port))
        return Client(await trio.open_unix_socket(where.path))


async def fetch(address: str, path: str = "/", **params: str) -> bytes:
    """The body that a request to a listener gets."""
    basic = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
    async with await connect(address) as client:
        with trio.fail_after(PATIENCE):
            response = await client.request({**basic, **params})
    assert response.status == 200
    return response.body


@asynccontextmanager
async def asleep(address: str) -> AsyncIterator[None]:
    """A request that the app would sleep over for ten minutes."""
    async with (
        await connect(address) as client,
        client.open({"REQUEST_METHOD": "GET", "SECONDS": "600"}),
    ):
        yield


class TestStart:
    async def test_a_free_port_is_named_once_it_answers(self, apps: Path) -> None:
        async with running("hello:app", "--port", "0", directory=apps) as server:
            address = await server.wait_address()
            assert address.startswith("127.0.0.1:")
            assert await fetch(address, "/x") == b"hello /x\n"
            assert await server.stop() == 0

    async def test_a_unix_socket_has_its_mode_and_is_removed(self, apps: Path) -> None:
        path = apps / "a.sock"
        async with running(
            "hello", "--unix", str(path), "--unix-mode", "600", directory=apps
        ) as server:
            assert await server.wait_address() == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await fetch(f"unix:{path}", "/x") == b"hello /x\n"
            assert await server.stop() == 0
        assert not path.exists()

    async def test_several_listeners_are_named_one_by_one(self, apps: Path) -> None:
        async with running("plain", "--port", "0", "--unix", "a.sock", directory=apps) as server:
            tcp = await server.wait_address()
            await server.wait_for(r"listening on unix:a.sock\n")
            assert await fetch(tcp, "/x") == await fetch(f"unix:{apps}/a.sock", "/x") == b"/x"
            assert await server.stop() == 0

    async def test_python_m_is_the_same(self, apps: Path) -> None:
        command = (sys.executable, "-m", "trifcgi", "run")
        async with running("hello", "--port", "0", directory=apps, command=command) as server:
            assert await fetch(await server.wait_address()) == b"hello /\n"
            assert await server.stop() == 0

    async def test_options_come_from_a_file_and_the_environment(self, apps: Path) -> None:
        (apps / "t.toml").write_text('app = "hello"\nport = 0\nlog-format = "text"\n')
        environment = {"TRIFCGI_CONFIG": "t.toml", "TRIFCGI_LOG_FORMAT": "json"}
        async with running(directory=apps, environment=environment) as server:
            line = (await server.wait_for(r"^\{.*listening on.*\}$"))[0]
            message = json.loads(line)["message"]
            assert message.startswith("hello:app (native handler) listening on 127.0.0.1:")
            assert await server.stop() == 0

    async def test_an_app_that_takes_the_logging_over_does_not_silence_the_server(
        self, apps: Path
    ) -> None:
        async with running("quiet", "--port", "0", directory=apps) as server:
            assert (await server.wait_address()).startswith("127.0.0.1:")
            assert await server.stop() == 0
            assert server.log.splitlines()[-1].endswith("stopped")

    async def test_a_public_address_without_allow_is_warned_of(self, apps: Path) -> None:
        arguments = ("hello", "--port", "0", "--host", "0.0.0.0")
        async with running(*arguments, directory=apps) as server:
            await server.wait_for(r"WARNING .* not on loopback are refused .* --allow$")
            assert await server.stop() == 0
        async with running(*arguments, "--allow", "0.0.0.0/0", directory=apps) as server:
            await server.wait_address()
            assert await server.stop() == 0
            assert "WARNING" not in server.log


class TestMistakes:
    async def test_a_taken_port(self, apps: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = await run_trifcgi("run", "hello", "--port", str(port), directory=apps)
        assert result.status == 2
        assert result.stderr == (
            f"trifcgi: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        )

    async def test_a_unix_socket_where_none_can_be(self, apps: Path) -> None:
        (apps / "file").write_text("precious")
        result = await run_trifcgi("run", "hello", "--unix", "file", directory=apps)
        assert result.status == 2
        assert result.stderr.startswith("trifcgi: cannot listen on file: ")
        assert result.stderr.count("\n") == 1
        assert (apps / "file").read_text() == "precious"

    async def test_a_second_listener_that_fails_takes_the_first_one_back(self, apps: Path) -> None:
        result = await run_trifcgi(
            "run", "hello", "--unix", "a.sock", "--fd", "99", directory=apps
        )
        assert result.status == 2
        assert result.stderr == "trifcgi: descriptor 99 is not a listening socket\n"
        assert not (apps / "a.sock").exists()

    async def test_an_access_log_that_cannot_be_opened(self, apps: Path) -> None:
        result = await run_trifcgi("run", "hello", "--access-log", "no/log", directory=apps)
        assert result.status == 2
        assert result.stderr == (
            "trifcgi: the access log no/log cannot be opened: No such file or directory\n"
        )

    @pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
    @pytest.mark.parametrize(
        ("option", "said"),
        [
            (("--access-log", "no/log"), "the access log no/log cannot be opened: "),
            (("--unix", "no/sock"), "cannot listen on no/sock: "),
            (("--unix", "file"), "cannot listen on file: "),
        ],
    )
    async def test_a_control_server_does_not_hold_up_a_start_that_fails(
        self, apps: Path, option: tuple[str, str], said: str, more: tuple[str, ...]
    ) -> None:
        (apps / "file").write_text("precious")
        result = await run_trifcgi(
            "run", "hello", *option, "--admin-unix", "admin.sock", *more, directory=apps
        )
        assert result.status == 2
        assert f"trifcgi: {said}" in result.stderr
        assert not (apps / "admin.sock").exists()

    async def test_an_app_that_says_it_cannot_start(self, apps: Path) -> None:
        result = await run_trifcgi(
            "run", "lifespan", "--port", "0", directory=apps, environment={"STARTUP": "fail"}
        )
        assert result.status == 2
        assert "no database" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert "listening on" not in result.stderr

    @pytest.mark.parametrize(
        "arguments", [("lifespan",), ("lifespan", "--workers", "1"), ("own_lifespan",)]
    )
    async def test_an_app_whose_startup_ends_the_program_is_one(
        self, apps: Path, arguments: tuple[str, ...]
    ) -> None:
        environment = {"STARTUP": "exit", "FAIL": "exit"}
        result = await run_trifcgi(
            "run", *arguments, "--port", "0", directory=apps, environment=environment
        )
        assert result.status == 2
        assert "\ntrifcgi: the app's startup failed: SystemExit: missing FOO\n" in (
            f"\n{result.stderr}"
        )
        assert "Traceback" not in result.stderr
        assert "listening on" not in result.stderr
        assert result.stderr.count("missing FOO") == 1  # nothing is tried again

    async def test_an_app_whose_startup_raises_shows_where(self, apps: Path) -> None:
        result = await run_trifcgi(
            "run", "own_lifespan", "--port", "0", directory=apps, environment={"FAIL": "startup"}
        )
        assert result.status == 2
        first, *_, last = result.stderr.splitlines()
        assert first == "Traceback (most recent call last):"
        assert last == "trifcgi: the app's startup failed: RuntimeError: no database"
        assert str(apps / "own_lifespan.py") in result.stderr


async def test_a_failure_while_running_is_on_the_log_and_exit_status_1(apps: Path) -> None:
    async with running(
        "own_lifespan", "--port", "0", directory=apps, environment={"FAIL": "shutdown"}
    ) as server:
        await server.wait_address()
        assert await server.stop() == 1
        assert "ERROR   trifcgi: the server failed\n    Traceback" in server.log
        assert server.log.endswith("\n    RuntimeError: no way out\n")


async def test_a_lifespan_that_ends_the_program_while_serving_ends_itself_only(
    apps: Path,
) -> None:
    environment = {"STARTUP": "exit while serving"}
    async with running(
        "lifespan", "--port", "0", directory=apps, environment=environment
    ) as server:
        address = await server.wait_address()
        await server.wait_for("ERROR .* the app's lifespan ended with an error while serving$")
        assert await fetch(address) == b"served"
        assert await server.stop() == 0
        assert server.log.count("SystemExit: 5") == 1


async def test_a_script_whose_lifespan_ends_the_program_ends_itself_only(apps: Path) -> None:
    environment = {"STARTUP": "exit"}
    async with running(
        "--root", ".", "--port", "0", directory=apps, environment=environment
    ) as server:
        address = await server.wait_address()
        request = {"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": str(apps / "lifespan.py")}
        async with await connect(address) as client:
            with trio.fail_after(PATIENCE):
                assert (await client.request(request)).status == 500
        await server.wait_for("the app's startup failed: SystemExit: missing FOO$")
        body = await fetch(address, "/plain.py", SCRIPT_FILENAME=str(apps / "plain.py"))
        assert body == b""
        assert await server.stop() == 0


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_running_request_is_finished_first(
        self, apps: Path, number: signal.Signals
    ) -> None:
        async with running("slow", "--port", "0", directory=apps) as server:
            address = await server.wait_address()
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    assert await fetch(address, SECONDS="0.5") == b"done\n"

                nursery.start_soon(ask)
                await server.wait_for("at work")
                server.process.send_signal(number)
                await server.wait_for("stopping: requests running: 1")
            assert await server.wait_end() == 0
            assert "Traceback" not in server.log

    async def test_a_second_signal_stops_at_once(self, apps: Path) -> None:
        async with running("slow", "--port", "0", directory=apps) as server:
            async with asleep(await server.wait_address()):
                await server.wait_for("at work")
                server.process.send_signal(signal.SIGINT)
                await server.wait_for("stopping: requests running: 1")
                server.process.send_signal(signal.SIGINT)
                assert await server.wait_end() == 1
            assert "cleaned up" in server.log
            assert "requests cut: 1" in server.log
            assert "Traceback" not in server.log

    async def test_the_grace_is_an_end(self, apps: Path) -> None:
        async with running("slow", "--port", "0", "--grace", "0", directory=apps) as server:
            async with asleep(await server.wait_address()):
                await server.wait_for("at work")
                assert await server.stop() == 1
            assert "cleaned up" in server.log
            assert "requests cut: 1" in server.log

    async def test_an_app_that_hangs_while_it_starts_can_be_stopped(self, apps: Path) -> None:
        async with running(
            "lifespan", "--port", "0", directory=apps, environment={"STARTUP": "hang"}
        ) as server:
            await server.wait_for("^starting$")
            assert await server.stop(signal.SIGINT) == 0
            assert "listening on" not in server.log
            assert "Traceback" not in server.log

    async def test_the_app_shuts_down(self, apps: Path) -> None:
        async with running(
            "lifespan", "--port", "0", directory=apps, environment={"STARTUP": "complete"}
        ) as server:
            await server.wait_address()
            assert await server.stop() == 0
            assert "shutting down" in server.log

    async def test_a_shutdown_that_ends_the_program_is_logged(self, apps: Path) -> None:
        async with running(
            "lifespan", "--port", "0", directory=apps, environment={"STARTUP": "exit in the end"}
        ) as server:
            await server.wait_address()
            assert await server.stop() == 0
            assert "ended with an error while shutting down\n    Traceback" in server.log
            assert "SystemExit: 4\n" in server.log
            assert server.log.endswith(" trifcgi: stopped\n")

    async def test_ctrl_c_while_the_app_is_loaded_shows_no_traceback(self, apps: Path) -> None:
        (apps / "heavy.py").write_text(
            'import sys, time\nprint("loading", file=sys.stderr, flush=True)\ntime.sleep(600)\n'
        )
        async with running("heavy", "--port", "0", directory=apps) as server:
            await server.wait_for("^loading\n")
            assert await server.stop(signal.SIGINT) == -signal.SIGINT
            assert server.log == "loading\n"


class TestOtherSignals:
    async def test_hup_says_that_there_is_nothing_to_replace(self, apps: Path) -> None:
        async with running("hello", "--port", "0", directory=apps) as server:
            address = await server.wait_address()
            server.process.send_signal(signal.SIGHUP)
            await server.wait_for("SIGHUP: there are no worker processes to replace")
            assert await fetch(address) == b"hello /\n"
            assert await server.stop() == 0

    async def test_usr1_reopens_the_access_log(self, apps: Path) -> None:
        log, moved = apps / "access.log", apps / "access.log.1"
        async with running(
            "hello", "--port", "0", "--access-log", str(log), directory=apps
        ) as server:
            address = await server.wait_address()
            await fetch(address, "/one")
            log.rename(moved)
            server.process.send_signal(signal.SIGUSR1)
            await server.wait_for("is reopened")
            await fetch(address, "/two")
            assert await server.stop() == 0
        assert b'"GET /one -" 200 11 ' in moved.read_bytes()
        assert b'"GET /two -" 200 11 ' in log.read_bytes()
        assert (moved.read_bytes() + log.read_bytes()).count(b"\n") == 2

    async def test_usr1_without_a_log_file_is_harmless(self, apps: Path) -> None:
        async with running("hello", "--port", "0", directory=apps) as server:
            await server.wait_address()
            server.process.send_signal(signal.SIGUSR1)
            await server.wait_for("there is no log file to reopen")
            assert await server.stop() == 0


class TestAccessLog:
    async def test_it_can_go_to_stdout_as_json(self, apps: Path) -> None:
        async with running(
            "hello", "--port", "0", "--access-log", "-", "--log-format", "json", directory=apps
        ) as server:
            address = (await server.wait_for(r'listening on (\S+)"'))[1]
            await fetch(address, "/x", STATUS="3")
            assert server.process.stdout is not None
            with trio.fail_after(PATIENCE):
                line = await server.process.stdout.receive_some()
            assert await server.stop() == 0
        fields = json.loads(line)
        assert (fields["method"], fields["uri"], fields["status"]) == ("GET", "/x", 200)
        assert (fields["bytes"], fields["app_status"], fields["end"]) == (9, 3, "complete")


class TestInheritedSockets:
    async def test_a_listening_descriptor_0_is_served(self, apps: Path) -> None:
        # As mod_fcgid and lighttpd leave it: a Unix socket, listening, blocking.
        path = str(apps / "spawned.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            async with running("slow", directory=apps, stdin=listener.fileno()) as server:
                assert await server.wait_address() == f"unix:{path}"
                assert await fetch(f"unix:{path}", SECONDS="0") == b"done\n"
                assert await server.stop() == 0
        assert await trio.Path(path).exists()  # its maker's to remove

    async def test_a_named_descriptor_is_served(self, apps: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fd = listener.fileno()
            async with running("hello", "--fd", str(fd), directory=apps, pass_fds=[fd]) as server:
                assert await fetch(await server.wait_address()) == b"hello /\n"
                assert await server.stop() == 0

    async def test_systemd_sockets_are_served_and_readiness_is_told(self, apps: Path) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        ):
            notify.bind(str(apps / "notify"))
            fd = listener.fileno()
            # What systemd does: the sockets from descriptor 3 on, and the process's own ID.
            shell = f'exec 3<&{fd}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"'
            async with running(
                "hello",
                directory=apps,
                environment={"NOTIFY_SOCKET": str(apps / "notify")},
                command=("bash", "-c", shell, TRIFCGI, "run"),
                pass_fds=[fd],
            ) as server:
                address = await server.wait_address()
                assert address.endswith(f":{listener.getsockname()[1]}")
                assert await fetch(address) == b"hello /\n"
                notify.settimeout(PATIENCE)
                assert notify.recv(999) == f"READY=1\nSTATUS=listening on {address}".encode()
                assert await server.stop() == 0
                assert notify.recv(999) == b"STOPPING=1"

    async def test_a_process_without_stderr_serves_all_the_same(self, apps: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(apps / "notify"))
            notify.settimeout(PATIENCE)
            async with running(
                "hello", "--unix", "a.sock",
                directory=apps,
                environment={"NOTIFY_SOCKET": str(apps / "notify")},
                command=("bash", "-c", 'exec "$0" "$@" 2>&-', TRIFCGI, "run"),
            ) as server:  # fmt: skip
                assert notify.recv(999) == b"READY=1\nSTATUS=listening on unix:a.sock"
                assert await fetch(f"unix:{apps}/a.sock") == b"hello /\n"
                assert await server.stop() == 0

    @pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "workers"])
    async def test_nothing_but_the_listener_need_be_open(
        self, apps: Path, more: tuple[str, ...]
    ) -> None:
        # As §2.2 has a front end start an application.
        path = str(apps / "spawned.sock")
        (apps / "writes.py").write_text(_WRITES)
        with (
            socket.socket(socket.AF_UNIX) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        ):
            notify.bind(str(apps / "notify"))
            notify.settimeout(PATIENCE)
            listener.bind(path)
            listener.listen()
            async with running(
                "writes", *more,
                directory=apps,
                environment={"NOTIFY_SOCKET": str(apps / "notify")},
                command=("sh", "-c", 'exec "$0" "$@" >&- 2>&-', TRIFCGI, "run"),
                stdin=listener.fileno(),
            ) as server:  # fmt: skip
                received = await trio.to_thread.run_sync(notify.recv, 999)
                assert received == f"READY=1\nSTATUS=listening on unix:{path}".encode()
                assert await fetch(f"unix:{path}") == b"written"
                assert await server.stop() == 0

    async def test_sockets_of_another_process_are_left_alone(self, apps: Path) -> None:
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        async with running(
            "hello", "--port", "0", directory=apps, environment=environment
        ) as server:
            await server.wait_address()
            assert await server.stop() == 0
            assert server.log.count("listening on") == 1

    async def test_a_notify_socket_that_is_gone_is_a_warning(self, apps: Path) -> None:
        environment = {"NOTIFY_SOCKET": str(apps / "gone")}
        async with running(
            "hello", "--port", "0", directory=apps, environment=environment
        ) as server:
            await server.wait_for("WARNING .* systemd cannot be told READY=1: No such file")
            assert await server.stop() == 0


async def test_a_spawned_process_lets_requests_run_for_3_seconds_at_most(apps: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(apps / "s"))
        listener.listen()
        result = await trio.run_process(
            [TRIFCGI, "check", "slow"], stdin=listener.fileno(), cwd=apps, capture_stdout=True
        )
    assert b"listen  file descriptor 0, inherited\n" in result.stdout
    assert b"grace = 3s" in result.stdout
