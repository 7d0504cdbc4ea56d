"""Standard streams that a process was started without."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.services.processes import PATIENCE

pytestmark = pytest.mark.real

LOOK = """
import fcntl, json, os, sys
from pathlib import Path
from trifcgi.observe.stdio import ensure_standard_streams
ensure_standard_streams()
names = ("stdin", "stdout", "stderr")
json.dump(
    {
        "paths": [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)],
        "modes": [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in range(3)],
        "inheritable": [os.get_inheritable(fd) for fd in range(3)],
        "numbers": [getattr(sys, name).fileno() for name in names],
        "read": os.read(0, 1).decode() if sys.argv[2] == "reads" else None,
    },
    open(sys.argv[1], "w"),
)
print("\\udcff")
sys.stderr.write("\\udcff")
"""


def look(
    closed: str, path: Path, *, stdin: int = subprocess.DEVNULL, reads: bool = True
) -> dict[str, Any]:  # Any: what JSON has
    """What a process finds that was started with these redirections."""
    how = "reads" if reads else ""
    subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", LOOK, path, how],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&- 2>&-", ">&-", ""])
def test_they_lead_nowhere_and_are_as_standard_streams_are(tmp_path: Path, closed: str) -> None:
    found = look(f"2>/dev/null {closed}", tmp_path / "found")
    assert found["paths"] == ["/dev/null"] * 3
    assert found["inheritable"] == [True] * 3
    assert found["numbers"] == [0, 1, 2]
    assert found["read"] == ""


def test_each_goes_the_way_that_its_stream_does(tmp_path: Path) -> None:
    found = look("<&- >&- 2>&-", tmp_path / "found")
    assert found["modes"] == [os.O_RDONLY, os.O_WRONLY, os.O_WRONLY]


def test_a_front_ends_listener_on_0_stays(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = look(">&- 2>&-", tmp_path / "found", stdin=listener.fileno(), reads=False)
    assert found["paths"][0].startswith("socket:")
    assert found["paths"][1:] == ["/dev/null"] * 2
