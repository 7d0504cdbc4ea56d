"""What a terminal hears of a process that goes to the background, and what that keeps of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.processes import PATIENCE, is_alive, run_python, wait_until

pytestmark = pytest.mark.real

# Goes to the background, writes its process ID to the first argument, and lives until that
# file is gone.
STAY = """
import os, sys, time
from pathlib import Path
from trifcgi.daemon import go_to_background
note = Path(sys.argv[1])
background = go_to_background()
{before}
note.with_suffix(".new").write_text(str(os.getpid()))
note.with_suffix(".new").rename(note)
background.ready()
{after}
while note.exists():
    time.sleep(0.01)
"""


def stay(before: str = "", after: str = "") -> str:
    return STAY.format(before=before, after=after)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "note"


def test_the_caller_is_released_once_it_is_ready(note: Path) -> None:
    done = run_python(stay(), note)  # ends at EOF of its pipes: the daemon has let go of them
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    pid = int(note.read_text())
    assert is_alive(pid)
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    note.unlink()
    wait_until(lambda: not is_alive(pid))


def test_what_goes_wrong_before_that_reaches_the_terminal_with_its_status(note: Path) -> None:
    done = run_python(stay(before='sys.exit("it will not do")'), note)
    assert (done.returncode, done.stderr) == (1, b"it will not do\n")
    done = run_python(stay(before="sys.exit(2)"), note)
    assert done.returncode == 2
    done = run_python(stay(before="os.kill(os.getpid(), 9)"), note)
    assert done.returncode == 128 + 9


def test_an_end_without_being_ready_is_no_success(note: Path) -> None:
    assert run_python(stay(before="sys.exit(0)"), note).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_caller_ends_the_start(note: Path, number: signal.Signals) -> None:
    before = f"""
import signal
signal.signal({int(number)}, lambda *_: sys.exit(7))
print("here", flush=True)
time.sleep({PATIENCE})
"""
    with subprocess.Popen(
        [sys.executable, "-c", stay(before=before), note], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 7


def test_a_log_that_is_a_file_stays_and_can_be_moved_away(note: Path, tmp_path: Path) -> None:
    log, moved = tmp_path / "log", tmp_path / "log.1"
    after = f"""
from trifcgi.observe.stdio import StderrFile
log = StderrFile()
os.write(2, b"first\\n")
os.rename({str(log)!r}, {str(moved)!r})
log.reopen()
os.write(2, b"second\\n")
"""
    with log.open("ab") as stderr:
        done = run_python(stay(after=after), note, stderr=stderr.fileno())
    assert done.returncode == 0
    wait_until(lambda: moved.exists() and log.exists() and bool(log.read_bytes()))
    assert (moved.read_bytes(), log.read_bytes()) == (b"first\n", b"second\n")
    note.unlink()
