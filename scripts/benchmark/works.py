"""What is measured: the works, and which contenders do each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["WORKS", "Work"]

CONNECTIONS = 32


@dataclass(frozen=True)
class Work:
    """One kind of load.

    Attributes:
        name: names it.
        title: the same in words.
        contenders: keys of those that do it.
        how: ``load``, ``aborts`` or ``system calls``.
        kind: of the load; see :class:`~.load.Round`.
        connections: of the load.
        streams: requests at a time on each.
        nginx: whether nginx stands between.
        idle: connections that idle beside it.
        params: params that FastCGI requests have besides nginx's own, or in their place.
        rounds: at most so many; each costs more than a round of plain load.
    """

    name: str
    title: str
    contenders: Sequence[str]
    how: str = "load"
    kind: str = "kept"
    connections: int = CONNECTIONS
    streams: int = 1
    nginx: bool = False
    idle: int = 0
    params: Mapping[str, str] = field(default_factory=dict)
    rounds: int = 1 << 30


_FASTCGI = (
    "trifcgi-handler", "trifcgi-handler-pure", "trifcgi-asgi", "trifcgi-asgi-pure", "trifcgi-wsgi",
    "trifcgi-wsgi-pure", "libfcgi-c", "uWSGI-wsgi", "PHP-FPM-php", "Go-net/http/fcgi-go",
    "fcgisgi-asgi", "flup-wsgi",
)  # fmt: skip
_HTTP = (
    "uvicorn-asgi", "granian-asgi", "granian-wsgi", "gunicorn-gthread-wsgi", "hypercorn-trio-asgi",
)  # fmt: skip

WORKS = {
    work.name: work
    for work in (
        Work(
            "direct",
            f"A small answer, directly on a Unix socket, {CONNECTIONS} kept connections",
            ("bare-loop-handler", "bare-loop-handler-pure", *_FASTCGI, *_HTTP),
        ),
        Work(
            "nginx",
            f"The same behind nginx, {CONNECTIONS} clients",
            (*_FASTCGI, *_HTTP),
            nginx=True,
        ),
        Work(
            "starlette",
            "Starlette, directly",
            ("trifcgi-starlette", "uvicorn-starlette", "granian-starlette"),
        ),
        Work(
            "flask",
            "Flask, directly",
            ("trifcgi-flask", "uWSGI-flask", "flup-flask", "gunicorn-gthread-flask"),
            # uWSGI and flup take the path from here only, so who uses them tells nginx to send it.
            params={"SCRIPT_NAME": "", "PATH_INFO": "/shop/articles/4711"},
        ),
        Work(
            "suspending",
            "An ASGI app that waits once, directly",
            ("trifcgi-suspending", "uvicorn-suspending"),
        ),
        Work(
            "upload",
            "1 MiB bodies to an ASGI app, directly, 8 connections",
            ("trifcgi-bodies", "uvicorn-bodies"),
            kind="upload",
            connections=8,
        ),
        Work(
            "download",
            "16 MiB bodies from an ASGI app, directly, 4 connections",
            ("trifcgi-bodies", "uvicorn-bodies"),
            kind="download",
            connections=4,
        ),
        Work(
            "short",
            "A connection for each request, directly, 32 at a time",
            (
                "trifcgi-handler",
                "trifcgi-asgi",
                "trifcgi-wsgi",
                "libfcgi-c",
                "uWSGI-wsgi",
                "PHP-FPM-php",
                "Go-net/http/fcgi-go",
                "uvicorn-asgi",
            ),
            kind="short",
        ),
        Work(
            "multiplexed",
            "4 connections with 8 requests at a time on each",
            ("trifcgi-handler", "trifcgi-asgi"),
            kind="multiplexed",
            connections=4,
            streams=8,
        ),
        Work(
            "idle-1000",
            "32 kept connections beside 1,000 idle ones",
            ("trifcgi-handler-idle-1000",),
            idle=1000,
        ),
        Work(
            "idle-10000",
            "32 kept connections beside 10,000 idle ones",
            ("trifcgi-handler-idle-10000",),
            idle=10000,
        ),
        Work(
            "access-log",
            "With an access log",
            ("trifcgi-handler-logging", "trifcgi-asgi-logging"),
        ),
        Work(
            "aborts",
            "From an abort to its END_REQUEST, 1,000 running requests",
            ("trifcgi-endless",),
            how="aborts",
        ),
        Work(
            "system-calls",
            "System calls, 32 kept connections under load",
            ("bare-loop-handler", "trifcgi-handler", "trifcgi-asgi", "trifcgi-wsgi"),
            how="system calls",
            rounds=2,
        ),
    )
}
"""All works by their names, in the order of the report."""
