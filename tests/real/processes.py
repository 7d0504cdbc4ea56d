"""Private processes: started in a group of their own, waited for, stopped to the last child."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

__all__ = ["PrivateProcess", "require"]

_START_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.02
_SERVER_PATH = os.pathsep.join(
    (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")
)


def require(command: str) -> str:
    """The path of a program that a test needs.

    Missing, it fails the test where ``REQUIRE_FRONT_ENDS`` is set, as in CI, and
    skips it elsewhere.
    """
    found = shutil.which(command, path=_SERVER_PATH)
    if found is None:
        reason = f"{command} is not installed"
        if os.environ.get("REQUIRE_FRONT_ENDS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def _inherited() -> dict[str, str]:
    """The environment, without what would configure trifcgi."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIFCGI_")}


def _group_members(group: int) -> list[str]:
    """What still runs in a process group. Zombies do not count: in a container nobody may
    be there to collect them."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _parent, member_of = rest.split()[:3]
        if int(member_of) == group and state != "Z":
            members.append(name + ")")
    return members


class PrivateProcess:
    """A process with everything it starts, and its log.

    Attributes:
        name: what it is called in failures.
        logs: files whose growth is shown with a test that fails.
    """

    running: ClassVar[list["PrivateProcess"]] = []
    """Every process that has been started and not stopped."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        more_logs: Iterable[Path] = (),
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.logs = (log, *more_logs)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_inherited(), **(environment or {})},
                cwd=directory,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        PrivateProcess.running.append(self)

    @property
    def pid(self) -> int:
        """The process's own ID, which is its group's too."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, ``None`` while it runs."""
        return self._popen.poll()

    def read_log(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_listening(self, addresses: Iterable[tuple[str, int] | Path]) -> None:
        """Return once every address takes connections; fail when that takes too long or the
        process ends instead."""
        deadline = time.monotonic() + _START_S
        for address in addresses:
            while not _accepts(address):
                self._still_starting(f"does not listen on {address}", deadline)

    def wait_log(self, text: str, times: int = 1) -> str:
        """Return the log once it holds ``text`` so many times."""
        deadline = time.monotonic() + _START_S
        while (log := self.read_log()).count(text) < times:
            self._still_starting(f"does not log {text!r}", deadline)
        return log

    def _still_starting(self, trouble: str, deadline: float) -> None:
        status = self._popen.poll()
        if status is not None:
            trouble = f"ended with status {status}"
        elif time.monotonic() < deadline:
            time.sleep(_POLL_S)
            return
        log = self.read_log()
        self.kill()
        pytest.fail(f"{self.name} {trouble}; its log:\n{log}", pytrace=False)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process, and only it, a signal."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = _STOP_S) -> int:
        """Its exit status, once it and all that it started have ended (seconds)."""
        deadline = time.monotonic() + timeout
        try:
            status = self._popen.wait(timeout)
            while left := _group_members(self.pid):
                if time.monotonic() > deadline:
                    pytest.fail(f"{self.name} left {left} behind", pytrace=False)
                time.sleep(_POLL_S)
        except subprocess.TimeoutExpired:
            pytest.fail(
                f"{self.name} runs on {timeout} s after it was told to stop; its log:\n"
                + self.read_log(),
                pytrace=False,
            )
        finally:
            self.kill()
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and give its exit status."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it and all that it started, at once. Harmless when nothing is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        if self in PrivateProcess.running:
            PrivateProcess.running.remove(self)


def _accepts(address: tuple[str, int] | Path) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
    return True
