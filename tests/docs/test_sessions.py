"""Pages that show what commands print: their commands run, in order, and print it.

A ``trifcgi run`` or ``nginx`` goes on in the background, as in a second terminal, until the
page starts another that takes its place; then it gets the SIGINT of Ctrl-C.
"""

import os
import signal
import subprocess
import urllib.request

import pytest

from tests.docs.markdown import PAGES, Page
from tests.docs.shell import Command, commands, matches
from tests.docs.workspace import Workspace
from tests.real.processes import PrivateProcess, require
from tests.real.serving import TRIFCGI

_FETCHES = ("trifcgi request ", "curl ")

SESSIONS = [
    page
    for page in PAGES
    if any(
        command.output and command.text.startswith(_FETCHES)
        for block in page.code("console")
        for command in commands(block)
    )
]

pytestmark = pytest.mark.real


class Session:
    """The reader, with as many terminals as it takes."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._servers: dict[str, PrivateProcess] = {}
        self.ran = 0

    def run(self, command: Command) -> None:
        """Give one command, and compare what it prints."""
        words = [self._workspace.localize(word) for word in command.words]
        expected = self._workspace.localize(command.output)
        match words:
            case ["trifcgi", "run", *_]:
                printed = self._start(command, [TRIFCGI, *words[1:]], "listening on")
            case ["trifcgi", "check", *_]:
                # It opens no socket, so the ports can be those of the page.
                printed = self._call([TRIFCGI, *command.words[1:]])
                expected = command.output
            case ["nginx", *arguments]:
                printed = self._start(
                    command, [require("nginx"), *_as_ourselves(), *arguments], None
                )
            case ["trifcgi", *arguments]:
                printed = self._call([TRIFCGI, *arguments])
            case ["curl", *arguments]:
                printed = _fetch(arguments)
            case _:
                return
        self.ran += 1
        assert matches(expected, printed), (
            f"{command.where}: {command.text}\n"
            f"--- the page says\n{expected}\n--- it prints\n{printed}"
        )

    def _start(self, command: Command, words: list[str], ready: str | None) -> str:
        place = _place(words)
        self._stop(place)
        process = PrivateProcess(
            command.text,
            words,
            log=self._workspace.directory / "log" / f"{self.ran}.out",
            environment=command.environment | self._default_port(words),
            directory=self._workspace.directory,
        )
        self._servers[place] = process
        if ready is None:
            process.wait_listening([("127.0.0.1", self._workspace.port("8080"))])
            return process.read_log()
        return process.wait_log(ready)

    def _default_port(self, words: list[str]) -> dict[str, str]:
        if {"--unix", "--port", "--fd"} & set(words):
            return {}
        return {"TRIFCGI_PORT": str(self._workspace.port("9000"))}

    def _call(self, words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=self._workspace.directory, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def _stop(self, place: str) -> None:
        process = self._servers.pop(place, None)
        if process is not None:
            assert process.stop(signal.SIGINT) == 0, process.read_log()

    def close(self) -> None:
        """Press Ctrl-C in every terminal."""
        for place in sorted(self._servers):
            self._stop(place)

    def kill(self) -> None:
        """End whatever a failure has left."""
        for process in self._servers.values():
            process.kill()


def _place(words: list[str]) -> str:
    """What two servers that cannot run at once have in common."""
    if "--unix" in words:
        return words[words.index("--unix") + 1]
    return "nginx" if "nginx" in words[0] else "trifcgi"


def _as_ourselves() -> list[str]:
    # nginx's workers become another user where root starts it, who may not use the sockets.
    return ["-g", "user root;"] if os.geteuid() == 0 else []


def _fetch(arguments: list[str]) -> str:
    """``curl [-d DATA] URL``; curl itself may be missing."""
    data = arguments[1].encode() if arguments[0] == "-d" else None
    url = arguments[-1]
    assert len(arguments) == (1 if data is None else 3)
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        text: bytes = answer.read()
    return text.decode()


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
def test_the_page_can_be_followed_from_top_to_bottom(page: Page, workspace: Workspace) -> None:
    session = Session(workspace)
    try:
        for block in page.blocks:
            if block.file is not None:
                workspace.write_block(block)
            for command in commands(block) if block.language == "console" else ():
                session.run(command)
        assert session.ran
        session.close()
    finally:
        session.kill()


def test_the_tutorial_is_one_of_them() -> None:
    assert {"README.md", "docs/tutorial.md"} <= {page.name for page in SESSIONS}
