"""The contenders: trifcgi and the servers that it is compared with, and how each is started."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BUILT", "CONTENDERS", "HELLO_PHP", "Contender", "find_program"]

HELLO_PHP = Path(__file__).with_name("peers") / "hello.php"
BUILT = Path(sys.prefix)
"""The environment that ``scripts/bench`` makes; peers lie in it, and the reasons for those that
could not be had."""

_BIN = Path(sys.executable).parent
_PURE = BUILT / "pure"
_SHOWN = {"asgi": "ASGI", "wsgi": "WSGI", "c": "(C)", "php": "", "go": ""}
_MANY = ("--max-connections", "12000", "--max-requests", "12000", "--keep-alive", "none")


def find_program(*names: str) -> str | None:
    """The path of the first of these that there is; the sbin directories are looked at too."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


@dataclass(frozen=True)
class Contender:
    """A server with an app.

    Attributes:
        name: the server.
        app: what it serves, and through which interface.
        protocol: ``fastcgi`` or ``http``.
        command: starts it; ``SOCKET`` and ``DIRECTORY`` in it stand for paths.
        needs: files without which it cannot run.
        part: what of the environment's parts it needs; a file of that name in
            ``left-out`` says why there is none.
        pure: whether it runs on trifcgi's pure Python codec.
        files: files to be written into its directory first, with their content.
    """

    name: str
    app: str
    protocol: str
    command: Sequence[str]
    needs: Sequence[Path] = ()
    part: str = ""
    pure: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names it, and is fit for a file name."""
        codec = "-pure" if self.pure else ""
        return f"{self.name}-{self.app}{codec}".replace(" ", "-")

    def __str__(self) -> str:
        app = _SHOWN.get(self.app, self.app)
        return f"{self.name} {app}".rstrip() + (", pure Python codec" if self.pure else "")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it is started with."""
        return {"PYTHONPATH": str(_PURE)} if self.pure else {}

    def missing(self) -> str | None:
        """Why it cannot run here, or None if it can."""
        reason = BUILT / "left-out" / self.part
        if self.part and reason.is_file():
            return reason.read_text().strip()
        needs = [Path(self.command[0]), *self.needs, *([_PURE] if self.pure else [])]
        gone = [str(path) for path in needs if not path.exists()]
        return f"there is no {', no '.join(gone)}" if gone else None


def _both(*contenders: Contender) -> Iterable[Contender]:
    """Each on either codec."""
    for one in contenders:
        yield one
        yield Contender(one.name, one.app, one.protocol, one.command, pure=True)


def _trifcgi(app: str, target: str, *options: str) -> Contender:
    command = [sys.executable, "-m", "trifcgi", "run", f"benchmark.apps.{target}"]
    return Contender("trifcgi", app, "fastcgi", [*command, "--unix", "SOCKET", *options])


def _bare() -> Contender:
    command = [sys.executable, "-m", "benchmark.bare", "SOCKET"]
    return Contender("bare loop", "handler", "fastcgi", command)


def _uwsgi(app: str, target: str) -> Contender:
    command = [
        str(_BIN / "uwsgi"), "--fastcgi-socket", "SOCKET", "--module", f"benchmark.apps.{target}",
        "--master", "--die-on-term", "--disable-logging", "--chmod-socket=666", "--listen", "128",
    ]  # fmt: skip
    return Contender("uWSGI", app, "fastcgi", command, part="uwsgi")


def _library(name: str, app: str) -> Contender:
    command = [sys.executable, "-m", "benchmark.rivals", name, app, "SOCKET"]
    return Contender(name, app, "fastcgi", command, part=name)


def _php() -> Contender:
    program = find_program("php-fpm", *(f"php-fpm8.{minor}" for minor in range(9, 0, -1)))
    # Each kept connection takes a process. The opcode cache is on, as Debian configures it.
    pool = (
        "[global]\nerror_log = DIRECTORY/php-fpm.log\ndaemonize = no\n"
        "[bench]\nlisten = SOCKET\nlisten.backlog = 1024\npm = static\npm.max_children = 48\n"
    )
    root = ["--allow-to-run-as-root"] if os.geteuid() == 0 else []
    if root:
        pool += "user = root\ngroup = root\n"
    command = [
        program or "php-fpm", "--nodaemonize", "--fpm-config", "DIRECTORY/php-fpm.conf", *root,
    ]  # fmt: skip
    files = {"php-fpm.conf": pool}
    return Contender("PHP-FPM", "php", "fastcgi", command, part="php-fpm", files=files)


def _built(name: str, app: str, part: str) -> Contender:
    return Contender(name, app, "fastcgi", [str(BUILT / "peers" / part), "SOCKET"], part=part)


def _uvicorn(app: str, target: str, *options: str) -> Contender:
    command = [
        str(_BIN / "uvicorn"), f"benchmark.apps.{target}", "--uds", "SOCKET", "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning",
        "--timeout-keep-alive", "3600", *options,
    ]  # fmt: skip
    return Contender("uvicorn", app, "http", command, part="uvicorn")


def _granian(app: str, interface: str, target: str) -> Contender:
    command = [
        str(_BIN / "granian"), f"benchmark.apps.{target}", "--uds", "SOCKET", "--interface",
        interface, "--loop", "uvloop", "--workers", "1", "--no-ws", "--no-access-log",
        "--log-level", "warning",
    ]  # fmt: skip
    return Contender("granian", app, "http", command, part="granian")


def _gunicorn(app: str, target: str) -> Contender:
    command = [
        str(_BIN / "gunicorn"), f"benchmark.apps.{target}", "--bind", "unix:SOCKET",
        "--worker-class", "gthread", "--workers", "1", "--threads", "32", "--keep-alive", "3600",
        "--log-level", "warning", "--no-control-socket",
    ]  # fmt: skip
    return Contender("gunicorn gthread", app, "http", command, part="gunicorn")


def _hypercorn() -> Contender:
    command = [
        str(_BIN / "hypercorn"), "benchmark.apps.hello:asgi", "--worker-class", "trio", "--bind",
        "unix:SOCKET", "--keep-alive", "3600", "--log-level", "warning",
    ]  # fmt: skip
    return Contender("hypercorn trio", "asgi", "http", command, part="hypercorn")


CONTENDERS = {
    one.key: one
    for one in (
        *_both(
            _trifcgi("handler", "hello:handler"),
            _trifcgi("asgi", "hello:asgi"),
            _trifcgi("wsgi", "hello:wsgi"),
            _bare(),
        ),
        _trifcgi("starlette", "with_starlette:app"),
        _trifcgi("flask", "with_flask:app"),
        _trifcgi("suspending", "suspending:on_trio"),
        _trifcgi("bodies", "bodies:asgi"),
        _trifcgi("handler logging", "hello:handler", "--access-log", "DIRECTORY/access.log"),
        _trifcgi("asgi logging", "hello:asgi", "--access-log", "DIRECTORY/access.log"),
        _trifcgi("handler idle 1000", "hello:handler", *_MANY),
        _trifcgi("handler idle 10000", "hello:handler", *_MANY),
        _trifcgi("endless", "endless:handler", *_MANY),
        _built("libfcgi", "c", "libfcgi"),
        _uwsgi("wsgi", "hello:wsgi"),
        _uwsgi("flask", "with_flask:app"),
        _php(),
        _built("Go net/http/fcgi", "go", "go"),
        _library("fcgisgi", "asgi"),
        _library("flup", "wsgi"),
        _library("flup", "flask"),
        _uvicorn("asgi", "hello:asgi"),
        _uvicorn("starlette", "with_starlette:app"),
        _uvicorn("suspending", "suspending:on_asyncio"),
        _uvicorn("bodies", "bodies:asgi"),
        _granian("asgi", "asgi", "hello:asgi"),
        _granian("starlette", "asgi", "with_starlette:app"),
        _granian("wsgi", "wsgi", "hello:wsgi"),
        _gunicorn("wsgi", "hello:wsgi"),
        _gunicorn("flask", "with_flask:app"),
        _hypercorn(),
    )
}
"""All contenders by their keys."""
