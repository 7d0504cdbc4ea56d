"""Every command in the documentation is one that exists, with options that it has."""

import shlex
import shutil
import subprocess

import pytest

from tests.docs.markdown import PAGES, PROJECT, Page
from tests.docs.shell import Command, commands, parse_arguments
from tests.docs.workspace import Workspace

# What readers do to their machines; that it is sound shell is all that is tested.
_NOT_RUN = {
    ".venv/bin/pip", "curl", "nginx", "python3", "sudo",
}  # fmt: skip

WITH_COMMANDS = [page for page in PAGES if page.code("console")]


def _all(page: Page) -> list[Command]:
    return [command for block in page.code("console") for command in commands(block)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_every_command_is_one_that_can_be_given(page: Page, workspace: Workspace) -> None:
    workspace.write(page)
    for command in _all(page):
        program = command.words[0]
        if program == "trifcgi":
            try:
                parse_arguments(command.words[1:], command.environment, workspace.directory)
            except Exception as error:
                error.add_note(f"in {command.where}: {command.text}")
                raise
        elif program.startswith("scripts/"):
            assert (PROJECT / program).stat().st_mode & 0o111, command.where
        else:
            assert program in _NOT_RUN, f"{command.where}: what is {program!r}?"


def test_every_command_is_sound_shell() -> None:
    shell = shutil.which("bash")
    assert shell is not None
    text = "\n".join(command.text for page in WITH_COMMANDS for command in _all(page))
    subprocess.run([shell, "-n"], input=text, text=True, check=True)


def _started_by(line: str) -> str | None:
    """The command that a line of a systemd unit, or of a launcher, starts trifcgi with."""
    line = line.strip()
    for prefix in ("ExecStart=", "exec "):
        if line.startswith(prefix):
            return line.removeprefix(prefix)
    return None


def test_every_program_that_starts_trifcgi_gives_it_options_that_it_has(
    workspace: Workspace,
) -> None:
    found = [
        command
        for page in PAGES
        for block in page.code("ini", "sh")
        for line in block.text.splitlines()
        if (command := _started_by(line)) is not None
    ]
    assert len(found) >= 3
    for command in found:
        program, *arguments = shlex.split(command)
        assert program.endswith("/trifcgi")
        parse_arguments(arguments, {}, workspace.directory)


def test_the_readme_names_the_test_command_that_ci_calls() -> None:
    ci = (PROJECT / ".ci" / "run").read_text()
    assert "exec scripts/test " in ci
    assert "$ scripts/test " in (PROJECT / "README.md").read_text()
