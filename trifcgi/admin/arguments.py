"""What commands are given: read from a path, a query or a form, and from a command line."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from trifcgi.admin.source import CommandFailed
from trifcgi.observe.trace import MOST_REQUESTS

__all__ = ["Argument", "count", "identifier", "level", "limit", "read_all", "switch"]


@attrs.frozen
class Argument:
    """One argument of a command.

    Attributes:
        name: in a query, and in the path's braces.
        parse: reads it, or raises ``ValueError`` with the rule: ``a number from 1 to 9``.
        help: what it is, in a few words.
        default: what it is when it is not given.
        required: whether it has to be.
        positional: whether a command line takes it without its name.
    """

    name: str
    parse: Callable[[str], Any]  # each gives a type of its own
    help: str
    default: Any = None
    required: bool = False
    positional: bool = False

    def read(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            CommandFailed: it breaks the rule.
        """
        try:
            return self.parse(text)
        except ValueError as error:
            raise CommandFailed(400, f"{self.name} must be {error}, not {text[:80]!r}.") from error


def read_all(arguments: Sequence[Argument], given: Mapping[str, str]) -> dict[str, Any]:
    """All arguments' values by name; those that were not given have their defaults.

    Raises:
        CommandFailed: one is missing, unknown or no good.
    """
    known = {argument.name for argument in arguments}
    for name in given:
        if name not in known:
            meant = f" It takes {', '.join(sorted(known))}." if known else ""
            raise CommandFailed(400, f"There is no argument {name[:80]!r} here.{meant}")
    values = {}
    for argument in arguments:
        text = given.get(argument.name)
        if text is not None:
            values[argument.name] = argument.read(text)
        elif argument.required:
            raise CommandFailed(400, f"{argument.name} is missing: {argument.help}.")
        else:
            values[argument.name] = argument.default
    return values


_ID: Final = re.compile(r"(?:\d{1,10}\.)?\d{1,20}", re.ASCII)
_LEVELS: Final = ("debug", "info", "warning", "error")


def identifier(text: str) -> str:
    """A request's ID, as ``/requests`` shows it."""
    if not _ID.fullmatch(text):
        raise ValueError("a request's id, such as 17 or 2.17")
    return text


def level(text: str) -> str:
    """A log level."""
    if text.lower() not in _LEVELS:
        raise ValueError("debug, info, warning or error")
    return text.lower()


def switch(text: str) -> bool:
    """On or off."""
    if text.lower() in ("on", "yes", "true", "1"):
        return True
    if text.lower() in ("off", "no", "false", "0"):
        return False
    raise ValueError("on or off")


def _number(text: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"a number from {least} to {most}")


def count(text: str) -> int:
    """How many of something."""
    return _number(text, 1, MOST_REQUESTS)


def limit(text: str) -> int | None:
    """A count or a size in bytes; ``none`` for no limit."""
    return None if text.lower() == "none" else _number(text, 0, 2**63 - 1)
