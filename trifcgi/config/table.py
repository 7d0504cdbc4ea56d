"""The table of options: every name, type, default and help text, once.

The attributes of :class:`Configuration` are the options. From them come the command
line's options (``--request-timeout``), the environment's variables
(``TRIFCGI_REQUEST_TIMEOUT``), the TOML keys (``request-timeout``), the help texts and
the effective values.
"""

import enum
import ipaddress
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from trifcgi.config.addresses import InheritedSocket, TcpAddress, UnixAddress
from trifcgi.config.kinds import (
    Bytes,
    Choice,
    Count,
    Flag,
    Kind,
    Mode,
    Mount,
    Network,
    Networks,
    Seconds,
    Text,
    Workers,
)
from trifcgi.limits import Limits, Timeouts

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "LOOPBACK",
    "OPTIONS",
    "SPAWNED_GRACE",
    "Configuration",
    "Group",
    "Option",
    "Origin",
    "Source",
]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9000
DEFAULT_UNIX_MODE: Final = 0o660
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
SPAWNED_GRACE: Final = 3.0
"""Seconds of grace for a process whose listener is file descriptor 0: mod_fcgid 2.3.9
sends SIGKILL 4 s after SIGTERM."""


class Source(enum.IntEnum):
    """Where a value came from; a higher source wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@attrs.frozen
class Origin:
    """Where one effective value came from.

    Attributes:
        source: the source that won.
        where: how a message names the place: ``--port``, ``TRIFCGI_PORT``,
            ``port in trifcgi.toml``.
    """

    source: Source
    where: str

    def __str__(self) -> str:
        return self.where


class Group(enum.Enum):
    """The help text's sections, in order."""

    APP = "What to serve"
    LISTENERS = "Where to listen"
    CONTROL = "Control server (trifcgi admin)"
    WORKERS = "Worker processes"
    TIMEOUTS = "Timeouts (seconds; 500ms, 5min and none are understood too)"
    LIMITS = "Limits"
    LOGS = "Logs"
    SERVICE = "As a service"


@attrs.frozen
class Option:
    """One line of the table.

    Attributes:
        name: ``request-timeout``: the TOML key, and after ``--`` the option.
        attribute: ``request_timeout``.
        variable: ``TRIFCGI_REQUEST_TIMEOUT``.
        positional: whether the command line takes it as an argument, not an option.
        default_text: the default as the help text says it; without it ``default`` is shown.
    """

    name: str
    attribute: str
    variable: str
    kind: Kind[Any]  # of the attribute's own type, which differs from line to line
    default: object
    group: Group
    help: str
    default_text: str | None
    positional: bool

    @property
    def shown_default(self) -> str:
        """The default, as a help text says it."""
        if self.default_text is not None:
            return self.default_text
        return self.kind.show(self.default)


_TABLE: Final = "trifcgi option"


def _option(
    kind: Kind[Any],
    default: object,
    group: Group,
    text: str,
    *,
    default_text: str | None = None,
    positional: bool = False,
) -> Any:  # stands for the annotated type, as attrs.field() does
    line = (kind, group, text, default_text, positional)
    return attrs.field(default=default, metadata={_TABLE: line})


_LIMITS: Final = Limits()
_TIMEOUTS: Final = Timeouts()


@attrs.frozen(kw_only=True)
class Configuration:
    """The effective value of every option, with where each came from.

    Attributes:
        origins: by option name; an option that nobody set is not in it.
        directory: what relative paths start from; empty: the current directory, whichever that
            is when one is used.
    """

    app: str | None = _option(
        Text("an app", metavar="APP"), None, Group.APP,
        "The app: module:attribute.",
        default_text="scripts", positional=True,
    )  # fmt: skip
    interface: str = _option(
        Choice(("auto", "asgi", "wsgi", "handler"), "KIND"), "auto", Group.APP,
        "What the app is: auto, asgi, wsgi or handler.",
    )  # fmt: skip
    root: str = _option(
        Text("a directory", metavar="DIR"), ".", Group.APP,
        "Without APP: run the .py file that the front end names, below DIR only.",
    )  # fmt: skip
    mount: str | None = _option(
        Mount(), None, Group.APP,
        "URL prefix that the app lives under.",
        default_text="what the front end says",
    )  # fmt: skip
    threads: int = _option(
        Count("a number of threads", most=10_000), 40, Group.APP,
        "WSGI: worker threads.",
    )  # fmt: skip

    port: int | None = _option(
        Count("a port", least=0, most=65535), None, Group.LISTENERS,
        "Listen on this TCP port; 0 takes a free one.",
        default_text="9000, unless another listener is named",
    )  # fmt: skip
    host: str | None = _option(
        Text("a host", metavar="ADDR"), None, Group.LISTENERS,
        "Listen for TCP on this address.",
        default_text=DEFAULT_HOST,
    )  # fmt: skip
    unix: str | None = _option(
        Text("a socket path", metavar="PATH"), None, Group.LISTENERS,
        "Listen on this Unix socket; a stale one is replaced.",
        default_text="none",
    )  # fmt: skip
    unix_mode: int = _option(
        Mode(), DEFAULT_UNIX_MODE, Group.LISTENERS,
        "Access mode of that socket, in octal.",
    )  # fmt: skip
    fd: int | None = _option(
        Count("a file descriptor", least=0), None, Group.LISTENERS,
        "Listen on this inherited socket.",
        default_text="0 if it is one, and what systemd passes",
    )  # fmt: skip
    allow: tuple[Network, ...] = _option(
        Networks(), LOOPBACK, Group.LISTENERS,
        "TCP peers that may connect: addresses, networks.",
        default_text="loopback",
    )  # fmt: skip

    workers: int | None = _option(
        Workers(), None, Group.WORKERS,
        "Serve in so many processes under a supervisor; auto: one a core.",
        default_text="none, one process serves",
    )  # fmt: skip
    max_worker_requests: int | None = _option(
        Count("a number of requests"), None, Group.WORKERS,
        "Replace a worker after N requests, or up to a tenth more.",
        default_text="never",
    )  # fmt: skip
    max_worker_rss: int | None = _option(
        Bytes(unlimited=True), None, Group.WORKERS,
        "Replace a worker that uses more memory.",
        default_text="none",
    )  # fmt: skip

    admin_port: int | None = _option(
        Count("a port", least=0, most=65535), None, Group.CONTROL,
        "Listen on this TCP port; 0 takes a free one.",
        default_text="off",
    )  # fmt: skip
    admin_host: str | None = _option(
        Text("a host", metavar="ADDR"), None, Group.CONTROL,
        "Listen for TCP on this address.",
        default_text=DEFAULT_HOST,
    )  # fmt: skip
    admin_unix: str | None = _option(
        Text("a socket path", metavar="PATH"), None, Group.CONTROL,
        "Listen on this Unix socket, for its owner only (mode 0600).",
        default_text="off",
    )  # fmt: skip
    admin_token_file: str | None = _option(
        Text("a file name", metavar="FILE"), None, Group.CONTROL,
        "Ask every request for the token in this file.",
        default_text="none",
    )  # fmt: skip

    request_timeout: float = _option(
        Seconds(), _TIMEOUTS.request_timeout, Group.TIMEOUTS,
        "A request's whole life; past it the app is cancelled (504).",
    )  # fmt: skip
    abort_grace: float = _option(
        Seconds(zero=True), _TIMEOUTS.abort_grace, Group.TIMEOUTS,
        "Time between telling the app that its client is gone and cancelling it; "
        "inf never cancels.",
    )  # fmt: skip
    read_timeout: float = _option(
        Seconds(), _TIMEOUTS.read_timeout, Group.TIMEOUTS,
        "Longest silence while a request is being received.",
    )  # fmt: skip
    write_timeout: float = _option(
        Seconds(), _TIMEOUTS.write_timeout, Group.TIMEOUTS,
        "Longest time that a blocked write may make no progress.",
    )  # fmt: skip
    keep_alive: float = _option(
        Seconds(), _TIMEOUTS.keep_alive, Group.TIMEOUTS,
        "An idle connection is closed after it.",
    )  # fmt: skip
    grace: float = _option(
        Seconds(zero=True), _TIMEOUTS.grace, Group.TIMEOUTS,
        "A graceful stop lets requests run on for so long.",
        default_text=f"{_TIMEOUTS.grace:g}s; {SPAWNED_GRACE:g}s on fd 0",
    )  # fmt: skip
    hang_timeout: float = _option(
        Seconds(), 30.0, Group.TIMEOUTS,
        "An event loop blocked for so long has all stacks logged; a worker is replaced.",
    )  # fmt: skip

    start_timeout: float = _option(
        Seconds(), 60.0, Group.TIMEOUTS,
        "A worker that is not ready after so long has its stacks logged, and is given up.",
    )  # fmt: skip

    max_connections: int = _option(
        Count("a number of connections"), _LIMITS.max_connections, Group.LIMITS,
        "Connections open at once; more wait.",
    )  # fmt: skip
    max_requests: int = _option(
        Count("a number of requests"), _LIMITS.max_requests, Group.LIMITS,
        "Requests running at once; more are answered 503.",
    )  # fmt: skip
    max_params: int = _option(
        Bytes(), _LIMITS.max_params, Group.LIMITS,
        "Size of a request's params; more is answered 431.",
    )  # fmt: skip
    max_body: int | None = _option(
        Bytes(unlimited=True, least=0), _LIMITS.max_body, Group.LIMITS,
        "Size of a request's body; more is answered 413.",
    )  # fmt: skip

    access_log: str | None = _option(
        Text("a file name", metavar="FILE|-"), None, Group.LOGS,
        "Write a line per request to FILE, or to stdout (-).",
        default_text="off",
    )  # fmt: skip
    log_level: str = _option(
        Choice(("debug", "info", "warning", "error"), "LEVEL"), "info", Group.LOGS,
        "Log this and worse to stderr: debug, info, warning, error.",
    )  # fmt: skip
    log_format: str = _option(
        Choice(("text", "json"), "FORMAT"), "text", Group.LOGS,
        "How to log: text, or a JSON object a line (json).",
    )  # fmt: skip
    slow_request: float = _option(
        Seconds(), math.inf, Group.LOGS,
        "Log the stacks of a request that has been running for so long (seconds).",
    )  # fmt: skip

    daemon: bool = _option(
        Flag(), False, Group.SERVICE,
        "Go to the background once ready; exit 0 only then.",
    )  # fmt: skip
    pid_file: str | None = _option(
        Text("a file name", metavar="PATH"), None, Group.SERVICE,
        "Write the process ID to this file, and refuse to run twice with it.",
        default_text="none",
    )  # fmt: skip
    user: str | None = _option(
        Text("a user", metavar="USER"), None, Group.SERVICE,
        "Become this user once the sockets are open, before the app is loaded.",
        default_text="who starts it",
    )  # fmt: skip
    group: str | None = _option(
        Text("a group", metavar="GROUP"), None, Group.SERVICE,
        "Become this group; Unix sockets are given to it.",
        default_text="the user's",
    )  # fmt: skip

    origins: Mapping[str, Origin] = attrs.field(factory=dict)
    directory: str = ""

    def origin(self, name: str) -> Origin:
        """Where the value of the option ``name`` (as in TOML) came from."""
        return self.origins.get(name, Origin(Source.DEFAULT, "default"))

    def absolute(self, path: str) -> str:
        """Where a path leads that an option has, whatever directory the app has changed to."""
        # Not by way of a Path, which takes "./-" for "-" and "log/" for "log".
        return os.path.join(self.directory, path)  # noqa: PTH118

    def listeners(
        self, inherited: Iterable[int] = ()
    ) -> list[TcpAddress | UnixAddress | InheritedSocket]:
        """What to listen on, in order.

        Inherited sockets are served beside those that the options name: whoever started
        this process with one waits for it to answer there. Only where there is
        nothing at all it is ``127.0.0.1:9000``.

        Args:
            inherited: file descriptors of sockets that came by themselves.
        """
        found: list[TcpAddress | UnixAddress | InheritedSocket] = []
        if self.port is not None or self.host is not None:
            port = DEFAULT_PORT if self.port is None else self.port
            found.append(TcpAddress(self.host or DEFAULT_HOST, port))
        if self.unix is not None:
            found.append(UnixAddress(self.unix))
        named = () if self.fd is None else (self.fd,)
        found += map(InheritedSocket, dict.fromkeys((*named, *inherited)))
        return found or [TcpAddress(DEFAULT_HOST, DEFAULT_PORT)]

    def limits(self) -> Limits:
        """The options that the data plane's limits are made of."""
        return Limits(
            max_connections=self.max_connections,
            max_requests=self.max_requests,
            max_params=self.max_params,
            max_body=self.max_body,
        )

    @property
    def has_control(self) -> bool:
        """Whether there is a control server."""
        return self.admin_port is not None or self.admin_unix is not None

    def timeouts(self, *, spawned: bool = False) -> Timeouts:
        """The options that the data plane's timeouts are made of.

        Args:
            spawned: whether a front end started this process with its listener as file
                descriptor 0. It then kills what does not stop soon, so the grace is
                :data:`SPAWNED_GRACE` unless someone set it.
        """
        unset = self.origin("grace").source is Source.DEFAULT
        return Timeouts(
            request_timeout=self.request_timeout,
            abort_grace=self.abort_grace,
            read_timeout=self.read_timeout,
            write_timeout=self.write_timeout,
            keep_alive=self.keep_alive,
            grace=SPAWNED_GRACE if spawned and unset else self.grace,
        )


def _table() -> dict[str, Option]:
    table = {}
    for field in attrs.fields(Configuration):
        if _TABLE not in field.metadata:
            continue
        kind, group, text, default_text, positional = field.metadata[_TABLE]
        name = field.name.replace("_", "-")
        table[name] = Option(
            name=name,
            attribute=field.name,
            variable=f"TRIFCGI_{field.name.upper()}",
            kind=kind,
            default=field.default,
            group=group,
            help=text,
            default_text=default_text,
            positional=positional,
        )
    return table


OPTIONS: Final[Mapping[str, Option]] = _table()
"""The table, by option name, in the order of the help text."""
