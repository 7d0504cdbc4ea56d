"""The one table of commands: from it come the paths, ``/help``, and ``trifcgi admin``.

A new command is a line here, a method of :class:`~trifcgi.admin.source.Source`, and a text for
people. Reading is GET and changes nothing; changing is POST.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import attrs

from trifcgi.admin import tables
from trifcgi.admin.arguments import Argument, count, identifier, level, limit, switch
from trifcgi.admin.source import CommandFailed, Data, Source
from trifcgi.observe.metrics import CONTENT_TYPE

__all__ = ["COMMANDS", "Command", "find"]

Run: TypeAlias = Callable[..., Awaitable[Data]]
"""Takes the source, and the command's arguments by name."""


@attrs.frozen
class Command:
    """One command.

    Attributes:
        name: after ``trifcgi admin``.
        method: ``GET`` or ``POST``.
        path: its own, with an argument's name in braces where that is part of it.
        help: what it does, in one sentence.
        run: does it.
        text: its answer for people.
        arguments: what it takes.
        text_type: the media type of the text.
        prefers_text: whether who asks for nothing in particular gets the text.
        status: the HTTP status of an answer.
    """

    name: str
    method: str
    path: str
    help: str
    run: Run
    text: Callable[[Data], str]
    arguments: tuple[Argument, ...] = ()
    text_type: str = "text/plain; charset=utf-8"
    prefers_text: bool = False
    status: Callable[[Data], int] = lambda _: 200

    def match(self, path: str) -> dict[str, str] | None:
        """The arguments that a path has in it; ``None`` when it is not this command's."""
        ours, theirs = self.path.split("/"), path.split("/")
        if len(ours) != len(theirs):
            return None
        found = {}
        for segment, given in zip(ours, theirs, strict=True):
            if segment.startswith("{"):
                found[segment[1:-1]] = given
            elif segment != given:
                return None
        return found

    def fill(self, values: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The path for some arguments, and those that are left for the query."""
        rest = dict(values)
        segments = []
        for segment in self.path.split("/"):
            named = segment[1:-1] if segment.startswith("{") else None
            segments.append(segment if named is None else rest.pop(named))
        return "/".join(segments), rest

    @property
    def usage(self) -> list[str]:
        """The arguments, as a command line takes them."""
        if len(self.arguments) > _MOST_NAMED:
            return ["NAME=VALUE"]
        shown = []
        for argument in self.arguments:
            name = argument.name.upper()
            text = name if argument.positional else f"{argument.name}={name}"
            shown.append(text if argument.required else f"[{text}]")
        return shown


_MOST_NAMED: Final = 2  # arguments that a usage line spells out

_ID: Final = Argument("id", identifier, "a request's ID from requests", required=True,
                      positional=True)  # fmt: skip
_LIMITS: Final = tuple(
    Argument(name, limit, text, default=...)
    for name, text in (
        ("max-connections", "connections open at once"),
        ("max-requests", "requests running at once"),
        ("max-params", "bytes of a request's params"),
        ("max-body", "bytes of a request's body, or none"),
    )
)


async def _limits(source: Source, **given: Any) -> Data:  # Any: a value per argument
    changes = {name.replace("-", "_"): value for name, value in given.items() if value is not ...}
    if not changes:
        names = ", ".join(argument.name for argument in _LIMITS)
        raise CommandFailed(400, f"Say which limit: {names}.")
    return await source.limits(changes)


async def _help(source: Source) -> Data:
    return {
        "commands": [
            {
                "name": command.name,
                "method": command.method,
                "path": command.path,
                "help": command.help,
                "usage": command.usage,
                "arguments": {a.name: a.help for a in command.arguments},
            }
            for command in COMMANDS
        ]
    }


def _readiness(data: Data) -> int:
    return 200 if data["ready"] else 503


COMMANDS: Final[tuple[Command, ...]] = (
    Command(
        "status", "GET", "/status", "Show the server, its workers and its totals.",
        lambda source: source.status(), tables.show_status,
    ),
    Command(
        "health", "GET", "/health", "Say that the control server answers.",
        lambda source: source.health(), tables.figures,
    ),
    Command(
        "ready", "GET", "/ready", "Say whether new requests are taken (503 when not).",
        lambda source: source.ready(), tables.figures, status=_readiness,
    ),
    Command(
        "requests", "GET", "/requests", "List the requests that run or wait.",
        lambda source: source.requests(), tables.show_requests,
    ),
    Command(
        "request", "GET", "/requests/{id}", "Show one request, its tasks and where they wait.",
        lambda source, **given: source.request(given["id"]), tables.show_request, (_ID,),
    ),
    Command(
        "cancel", "POST", "/requests/{id}/cancel", "Cancel one request.",
        lambda source, **given: source.cancel(given["id"]), tables.figures, (_ID,),
    ),
    Command(
        "tasks", "GET", "/tasks", "Show the tree of nurseries and tasks, and where each waits.",
        lambda source: source.tasks(), tables.show_tasks,
    ),
    Command(
        "connections", "GET", "/connections", "List the open connections.",
        lambda source: source.connections(), tables.show_connections,
    ),
    Command(
        "memory", "GET", "/memory", "Show memory, garbage collector and, if traced, allocations.",
        lambda source, top: source.memory(top), tables.show_memory,
        (Argument("top", count, "how many places of allocation to show", default=20),),
    ),
    Command(
        "trace-memory", "POST", "/memory/tracing", "Begin or end to trace allocations (slow).",
        lambda source, state: source.trace_memory(state), tables.show_workers,
        (Argument("state", switch, "on or off", required=True, positional=True),),
    ),
    Command(
        "config", "GET", "/config", "Show every option's value, and where it came from.",
        lambda source: source.config(), tables.show_config,
    ),
    Command(
        "metrics", "GET", "/metrics", "Show counters and histograms, as Prometheus reads them.",
        lambda source: source.metrics(), tables.show_metrics,
        text_type=CONTENT_TYPE, prefers_text=True,
    ),
    Command(
        "stop", "POST", "/stop", "Stop gracefully; asked a second time, or now=on, at once.",
        lambda source, now: source.stop(now), tables.figures,
        (Argument("now", switch, "whether to stop at once", default=False),),
    ),
    Command(
        "drain", "POST", "/drain", "Stop gracefully; asked again it cuts nothing short.",
        lambda source: source.drain(), tables.figures,
    ),
    Command(
        "reload", "POST", "/reload", "Replace the workers one by one.",
        lambda source: source.reload(), tables.figures,
    ),
    Command(
        "log-level", "POST", "/log-level", "Log this level and worse.",
        lambda source, level: source.log_level(level), tables.show_workers,
        (Argument("level", level, "debug, info, warning or error", required=True,
                  positional=True),),
    ),
    Command(
        "reopen-logs", "POST", "/logs/reopen", "Open the log files anew.",
        lambda source: source.reopen_logs(), tables.show_workers,
    ),
    Command(
        "limits", "POST", "/limits", "Change limits of the running server.",
        _limits, tables.show_workers, _LIMITS,
    ),
    Command(
        "trace", "POST", "/trace", "Record the next requests, record by record.",
        lambda source, count: source.trace(count), tables.show_workers,
        (Argument("count", count, "how many requests", default=1, positional=True),),
    ),
    Command(
        "traces", "GET", "/trace", "Show what was recorded last.",
        lambda source: source.traces(), tables.show_traces,
    ),
    Command(
        "gc", "POST", "/gc", "Have Python's garbage collector look for cycles.",
        lambda source: source.collect_garbage(), tables.show_workers,
    ),
    Command(
        "help", "GET", "/help", "List the commands.", _help, tables.show_help,
    ),
)  # fmt: skip
"""Every command, in the order of the help."""


def find(path: str) -> Iterator[tuple[Command, dict[str, str]]]:
    """The commands of a path, with the arguments that are in it: at most one a method."""
    for command in COMMANDS:
        found = command.match(path)
        if found is not None:
            yield command, found
