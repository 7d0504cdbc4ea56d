"""What systemd is told, and when it is told nothing."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from trifcgi.daemon import Systemd


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def told(listening: socket.socket) -> Systemd:
    return Systemd.from_environment({"NOTIFY_SOCKET": listening.getsockname()})


def test_each_turn_has_its_message(listening: socket.socket) -> None:
    systemd = told(listening)
    systemd.ready(["127.0.0.1:9000", "unix:/run/app.sock"])
    systemd.ready(["127.0.0.1:9000"], main_pid=17)
    systemd.status("3 workers")
    systemd.reloaded()
    systemd.stopping()
    assert [listening.recv(999).decode() for _ in range(5)] == [
        "READY=1\nSTATUS=listening on 127.0.0.1:9000, unix:/run/app.sock",
        "READY=1\nSTATUS=listening on 127.0.0.1:9000\nMAINPID=17",
        "STATUS=3 workers",
        "READY=1",
        "STOPPING=1",
    ]


def test_a_reload_says_when_it_began(listening: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    told(listening).reloading()
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", listening.recv(999).decode())
    assert found is not None
    assert before <= int(found[1]) <= time.monotonic_ns() // 1000


def test_a_name_in_the_abstract_namespace_will_do() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the system chooses one
        sock.setblocking(False)
        name = "@" + sock.getsockname()[1:].decode()
        Systemd.from_environment({"NOTIFY_SOCKET": name}).stopping()
        assert sock.recv(999) == b"STOPPING=1"


def test_without_systemd_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Systemd.from_environment({}).stopping()
    Systemd.from_environment({"NOTIFY_SOCKET": "vsock:1:2"}).stopping()
    assert caplog.records == []


def test_a_socket_that_is_gone_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Systemd(str(tmp_path / "gone")).ready([])
    assert caplog.messages == ["systemd cannot be told READY=1: No such file or directory"]


@pytest.mark.parametrize(("environ", "watchdog"), [
    ({}, None),
    ({"WATCHDOG_USEC": "30000000"}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
])  # fmt: skip
def test_the_watchdog_is_kept_by_the_process_it_is_meant_for(
    environ: dict[str, str], watchdog: float | None
) -> None:
    systemd = Systemd.from_environment({"NOTIFY_SOCKET": "/run/x", **environ})
    assert systemd.watchdog == watchdog


async def test_the_watchdog_hears_from_the_loop_twice_in_its_time(
    listening: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    systemd = Systemd(listening.getsockname(), watchdog=30)
    systemd.ready([])
    assert listening.recv(99).startswith(b"READY=1\n")
    with trio.move_on_after(40):
        await systemd.keep_watchdog()
    assert [listening.recv(99) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        listening.recv(99)


async def test_a_long_start_does_not_fill_the_socket(
    listening: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    systemd = Systemd(listening.getsockname(), watchdog=30)
    with trio.move_on_after(10_000):
        await systemd.keep_watchdog()
    systemd.ready([])
    assert listening.recv(99).startswith(b"READY=1\n")


async def test_without_a_watchdog_no_task_stays(listening: socket.socket) -> None:
    await told(listening).keep_watchdog()
