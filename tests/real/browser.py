"""A real headless browser, driven over Chromium's own pipe: no driver, no port, no dependency."""

import base64
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.real.processes import require

__all__ = ["Page", "browse"]

_PATIENCE: Final = 20.0
_FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1200,900",
)  # fmt: skip

# Chromium finds its pipe's two ends there, and nowhere else.
_AT_3_AND_4: Final = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A page of the browser (Chrome DevTools Protocol).

    Attributes:
        complaints: what the page has written to its console, or was refused by its policy.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._unread = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: object) -> Any:  # Any: as the protocol has it
        """Send a command and return its result."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _next(self) -> Any:
        while b"\0" not in self._unread:
            piece = os.read(self._answers, 1 << 16)
            assert piece, "the browser has ended"
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\0")
        return json.loads(line)

    def _note(self, event: Any) -> None:
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]))
            case "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        """Go to a URL; return when its document is whole."""
        self.command("Page.navigate", url=url)
        self.wait(
            f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'"
        )

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str) -> Any:
        """What an expression gives, once that is something."""
        deadline = time.monotonic() + _PATIENCE
        while not (value := self.evaluate(script)):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body.innerText")
                pytest.fail(f"{script} stays {value!r}; the page says:\n{text}", pytrace=False)
            time.sleep(0.05)
        return value

    def picture(self, path: Path, features: Mapping[str, str] | None = None) -> None:
        """Save what it looks like as PNG."""
        media = [{"name": name, "value": value} for name, value in (features or {}).items()]
        self.command("Emulation.setEmulatedMedia", features=media)
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browse() -> Iterator[Page]:
    """A browser of its own, with nothing stored, for the length of the block."""
    chromium = require("chromium")
    their_commands, commands = os.pipe()
    answers, their_answers = os.pipe()
    with tempfile.TemporaryDirectory(
        prefix="trifcgi-browser-", ignore_cleanup_errors=True
    ) as home:
        process = subprocess.Popen(
            [sys.executable, "-c", _AT_3_AND_4, str(their_commands), str(their_answers),
             chromium, *_FLAGS, f"--user-data-dir={home}", "about:blank"],
            pass_fds=(their_commands, their_answers),
            env={**os.environ, "HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(their_commands)
        os.close(their_answers)
        try:
            yield Page(commands, answers)
        finally:
            os.close(commands)
            os.close(answers)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
