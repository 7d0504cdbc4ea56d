"""What the control server's commands work on.

A :class:`Source` answers for one process (:class:`~trifcgi.admin.local.LocalSource`) or for all
workers of a supervisor (:class:`~trifcgi.admin.fleet.FleetSource`). Every answer is made of JSON
values, in the same shape from both: a single process is a list of one worker. A request is known
by an ``id``: its number in its process, and with workers the worker's number and a dot before it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs

from trifcgi.errors import Error

__all__ = ["About", "CommandFailed", "Data", "Setting", "Source"]

Data: TypeAlias = dict[str, Any]
"""A JSON object."""


class CommandFailed(Error):
    """A command cannot be done; the message is one plain sentence.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen
class Setting:
    """One option's effective value.

    Attributes:
        name: the option's.
        value: as a user would write it.
        origin: where it came from, in words: ``default``, ``--port``.
    """

    name: str
    value: str
    origin: str


@attrs.frozen
class About:
    """What a server is, for as long as it runs.

    Attributes:
        app: what is served, by name.
        kind: what that is, in words: ``ASGI app``.
        settings: the effective options.
        began: when it started, in seconds since 1970.
    """

    app: str
    kind: str
    settings: Sequence[Setting] = ()
    began: float = attrs.field(factory=time.time)


class Source(Protocol):
    """What the commands ask for. All may raise :class:`CommandFailed`."""

    async def health(self) -> Data:
        """That the event loop answers, and the version."""

    async def ready(self) -> Data:
        """Whether new requests are taken."""

    async def status(self) -> Data:
        """The server at a glance."""

    async def requests(self) -> Data:
        """The requests that run or wait."""

    async def request(self, id: str) -> Data:
        """One request with its tasks and where they wait."""

    async def cancel(self, id: str) -> Data:
        """Cancel one request."""

    async def tasks(self) -> Data:
        """The nursery tree."""

    async def connections(self) -> Data:
        """The open connections."""

    async def memory(self, top: int) -> Data:
        """Memory, and where ``top`` allocations were made, if they are being traced."""

    async def trace_memory(self, on: bool) -> Data:
        """Begin or end to trace allocations."""

    async def config(self) -> Data:
        """Every option's effective value and origin."""

    async def metrics(self) -> Data:
        """Counters, histograms and gauges."""

    async def stop(self, now: bool) -> Data:
        """Stop gracefully, or at once."""

    async def drain(self) -> Data:
        """Stop gracefully; unlike :meth:`stop`, asking again cuts nothing short."""

    async def reload(self) -> Data:
        """Replace the workers."""

    async def log_level(self, level: str) -> Data:
        """Log this level and worse."""

    async def reopen_logs(self) -> Data:
        """Open the log files anew."""

    async def limits(self, changes: Mapping[str, int | None]) -> Data:
        """Change limits of the running server, by their attributes' names; tell them all."""

    async def trace(self, count: int) -> Data:
        """Trace the next requests, record by record."""

    async def traces(self) -> Data:
        """What was traced last."""

    async def collect_garbage(self) -> Data:
        """Have Python's garbage collector look for cycles."""
