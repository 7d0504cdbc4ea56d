"""A control server that crashes, a disk that is full: what requests see of it is nothing."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.real.chaos import MODES
from tests.real.control import Control
from tests.real.faults import BreakableControl, full_disk
from tests.real.ports import PortBlock
from tests.real.processes import PrivateProcess
from tests.real.serving import PROJECT, TRIFCGI
from tests.real.workers import Workers, params, wait_until


@pytest.fixture
def workers(short_directory: Path, ports: PortBlock) -> Iterator[Workers]:
    """Not started yet."""
    found = Workers(short_directory, ports)
    try:
        yield found
    finally:
        found.close()


async def test_a_control_server_that_crashes_leaves_connections_and_requests_alone(
    workers: Workers, ports: PortBlock
) -> None:
    control = Control(ports.take())
    breakable = BreakableControl(workers.directory, control.port)
    workers.program = breakable.program
    workers.start("--admin-port", str(control.port))
    pids = workers.pids
    async with await workers.connect() as running, await workers.connect() as idle:
        await idle.request(params())
        async with running.open(params("sleep=3")) as exchange:
            await exchange.stdin.aclose()
            await trio.to_thread.run_sync(workers.wait_log, "asleep")
            with breakable.broken():
                for pause in ("0.1", "0.2", "0.4"):  # longer each time
                    told = f"the control server failed; it starts again in {pause} s"
                    await trio.to_thread.run_sync(workers.wait_log, told)
                assert not control.answers()
                assert (await idle.request(params())).body.startswith(b"1 ")
            wait_until(control.answers, "the control server is back")
            assert (await exchange.response()).status == 200
        assert (await running.request(params())).body.startswith(b"1 ")
    assert workers.pids == pids
    assert control.totals()["requests"] == 4
    assert workers.stop() == 0


def test_the_script_names_every_fault_that_it_can_make() -> None:
    said = subprocess.run(
        [PROJECT / "scripts" / "chaos", "--help"], capture_output=True, text=True, check=True
    ).stdout
    named = [line.split()[0] for line in said.splitlines() if line.startswith("    ")]
    assert named == ["scripts/chaos", *MODES, "all"]


def test_an_access_log_on_a_full_disk_loses_lines_and_says_so_once(
    workers: Workers, ports: PortBlock
) -> None:
    access_log = workers.directory / "access"
    control = Control(ports.take())
    options = ["--admin-port", str(control.port)]
    workers.start("--access-log", str(access_log), *options, count=1)
    for _ in range(5):
        workers.ask()
    wait_until(lambda: access_log.read_bytes().count(b"\n") == 5, "the lines are written")
    with full_disk(workers.pids, access_log.stat().st_size + 30):
        assert workers.ask().startswith(b"1 ")
        log = workers.wait_log("access cannot be written: File too large; lines are lost until")
        for _ in range(5):
            assert workers.ask().startswith(b"1 ")
        size = access_log.stat().st_size
    workers.ask()
    workers.wait_log("access can be written again; lines lost: ")
    status, metrics = control.ask("GET", "/metrics")
    lost = re.findall(r"^trifcgi_log_lines_lost{.*} (\d+)\.0$", metrics, re.MULTILINE)
    told = re.findall(r"can be written again; lines lost: (\d+)", workers.log)
    assert (status, lost) == (200, told)
    assert workers.stop() == 0
    assert log.count("cannot be written") == workers.log.count("cannot be written") == 1
    assert access_log.stat().st_size > size
    lines = access_log.read_bytes().splitlines()
    # What was torn where the disk was full is a line of its own; those after it are whole.
    assert lines[-1].startswith(b"- - - [")
    assert lines[-1].endswith(b" end=complete")
    assert all(line.startswith(b"- - - [") for line in lines)


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_log_that_cannot_be_written_from_the_start(
    short_directory: Path, ports: PortBlock, more: list[str]
) -> None:
    (short_directory / "hello.py").write_text(
        "async def app(request):\n"
        "    await request.stdout.send_all(b'Content-Type: text/plain\\r\\n\\r\\nhello')\n"
    )
    control = Control(ports.take())
    command = " ".join(
        ["exec", TRIFCGI, "run", "hello", "--port", "0", "--admin-port", str(control.port), *more,
         "2>/dev/full"]
    )  # fmt: skip
    process = PrivateProcess(
        "trifcgi", ["sh", "-c", command], log=short_directory / "log", directory=short_directory
    )
    try:
        wait_until(
            lambda: control.answers() and control.ask("GET", "/ready")[0] == 200, "it is ready"
        )
        (address,) = control.get("/status")["listeners"]
        asked = PrivateProcess(
            "asking", [TRIFCGI, "request", address, "/"], log=short_directory / "answer"
        )
        assert asked.wait() == 0
        assert asked.read_log() == "hello"
        lost = [line for line in control.ask("GET", "/metrics")[1].splitlines()
                if line.startswith("trifcgi_log_lines_lost{")]  # fmt: skip
        assert lost
        assert process.stop() == 0
    finally:
        process.kill()
