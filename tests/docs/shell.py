"""Shell sessions in the documentation: ``$ command`` lines with what they print."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import click

from tests.docs.markdown import Block
from trifcgi.cli import cli
from trifcgi.cli.admin import prepare as prepare_order
from trifcgi.cli.request import prepare
from trifcgi.config import OPTIONS, Configuration, configure

__all__ = ["Command", "commands", "matches", "parse_arguments"]

_ASSIGNMENT = re.compile(r"[A-Z_]+=")


@attrs.frozen
class Command:
    """One command of a session.

    Attributes:
        text: as it stands there, continued lines joined.
        output: what the page says it prints; empty where it does not say.
        where: the place, for failures.
    """

    text: str
    output: str
    where: str

    @property
    def words(self) -> list[str]:
        """The command's words, without comments and assignments."""
        words = shlex.split(self.text, comments=True)
        return words[len(self.environment) :]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that are set for it."""
        found = {}
        for word in shlex.split(self.text, comments=True):
            if not _ASSIGNMENT.match(word):
                break
            name, _, value = word.partition("=")
            found[name] = value
        return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a ``console`` block."""
    text: list[str] = []
    output: list[str] = []
    where = ""
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            if text:
                yield Command("\n".join(text), "\n".join(output), where)
            text, output = [line[2:]], []
            where = f"{block.page}:{number}"
        elif text and text[-1].endswith("\\"):
            text.append(line)
        else:
            assert text, f"{block.page}:{number}: output before any command"
            output.append(line)
    if text:
        yield Command("\n".join(text), "\n".join(output), where)


def matches(documented: str, real: str) -> bool:
    """Whether output is as documented, where ``…`` stands for anything, also for lines."""
    parts = (re.escape(part) for part in documented.strip().split("…"))
    return re.search("(?s:" + ".*".join(parts) + ")", real) is not None


def parse_arguments(
    arguments: list[str], environment: Mapping[str, str], directory: Path
) -> Configuration | None:
    """Take a ``trifcgi`` command line apart as the program itself does.

    Args:
        arguments: what follows ``trifcgi``.
        environment: variables that are set for it.
        directory: where a file that ``--config`` names may be.

    Returns:
        the configuration of a ``run`` or ``check``.
    """
    if arguments in (["--version"], ["--help"]):
        return None
    name, *rest = arguments
    assert isinstance(cli, click.Group)
    command = cli.commands[name]
    if rest == ["--help"]:
        return None
    given = command.make_context(name, rest).params
    if name == "request":
        prepare(**given)
        return None
    config = given["config"]
    if name == "admin":
        # Its token file is on the reader's machine; where the server is, its options say.
        assert given["admin_port"] or given["admin_unix"]
        where = configure({"admin-port": "9001"}, environ={})
        prepare_order(given["words"], where, as_json=given["as_json"])
        return None
    return configure(
        {
            option.name: given[option.attribute]
            for option in OPTIONS.values()
            if given.get(option.attribute) is not None
        },
        config=None if config is None else str(directory / config),
        environ=environment,
    )
