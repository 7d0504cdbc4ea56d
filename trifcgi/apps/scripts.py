"""The script host: runs the Python file that the front end names.

A script is a ``.py`` file below the root that defines ``app`` or ``application``: an ASGI or
WSGI application or a native handler. It is loaded when it is first asked for, in a thread,
so that a slow import holds up nobody but those who wait for it, and again once it has
changed on disk. Requests that an older version is serving are finished by it.

An ASGI script's lifespan runs from its loading until the next version has replaced it and
its last request is over, or the host stops.
"""

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from trifcgi.apps.asgi import asgi
from trifcgi.apps.script_files import (
    Place,
    ScriptMissing,
    Signature,
    confine,
    cut_url,
    find_script,
)
from trifcgi.apps.script_module import LoadedScript, load_script
from trifcgi.apps.script_request import ScriptRequest
from trifcgi.apps.threads import Crew, ThreadPool
from trifcgi.apps.wsgi import wsgi
from trifcgi.cgi import error_response
from trifcgi.errors import AppLoadError, ConfigurationError, RoleRefused
from trifcgi.failure import divide
from trifcgi.protocol.constants import Role
from trifcgi.request import Handler, Request

__all__ = ["ScriptHost", "scripts"]

logger = logging.getLogger(__name__)

_ROLES: Final = frozenset(Role)

# Seconds after which a script that failed to load is tried again although it has not
# changed: what it imports may have, or the database that it asks is back.
_RETRY: Final = 1.0

# Spellings of paths that are remembered; clients can make up any number of them.
_MOST_NAMES: Final = 4096


def scripts(
    root: str | os.PathLike[str], *, threads: int | ThreadPool = 40, mount: str | None = None
) -> "ScriptHost":
    """Serve the scripts below a directory, each by its own path.

    Args:
        root: nothing outside it is ever run, wherever links lead. Modules in it can be
            imported; those are not loaded again when they change.
        threads: for WSGI scripts and for loading; see :func:`trifcgi.wsgi`.
        mount: a URL prefix that is no part of the path below the root: with ``/app``, the URL
            ``/app/hello.py`` means ``hello.py`` where the file that the front end names is
            not there.

    Raises:
        ConfigurationError: the root is no directory.
    """
    return ScriptHost(root, threads=threads, mount=mount)


class _Version:
    """One state of a script file, from its loading until nobody needs it."""

    def __init__(self, path: str, state: Signature) -> None:
        self.path = path
        self.signature = state
        self.ready = trio.Event()
        self.handler: Handler | None = None
        self.roles: Any = _ROLES
        self.failure: BaseException | None = None
        self.failed_at = 0.0
        self.running = 0
        self._superseded = False
        self.unused = trio.Event()

    def matches(self, state: Signature, now: float) -> bool:
        """Whether it is still the one to use."""
        if self.signature != state:
            return False
        return self.failure is None or now < self.failed_at + _RETRY

    def supersede(self) -> None:
        """There is a newer one: end when the last request is over."""
        self._superseded = True
        self._end_unused()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it for a request."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._end_unused()

    def _end_unused(self) -> None:
        if self._superseded and not self.running:
            self.unused.set()

    def check(self) -> Handler:
        """The application, once :attr:`ready`.

        Raises:
            AppLoadError: it could not be loaded; the same cause each time.
            ScriptMissing: there is none in it.
        """
        if self.failure is not None:
            raise AppLoadError(str(self.failure)) from (self.failure.__cause__ or self.failure)
        if self.handler is None:
            raise ScriptMissing(f"{self.path} has neither app nor application in it")
        return self.handler


class ScriptHost:
    """The handler that :func:`scripts` makes.

    Attributes:
        root: the directory, as it was named.
        pool: the threads.
        roles: all three, since a native script may serve any. A script of another kind is
            a responder only; for other roles it raises :class:`trifcgi.Error`.
    """

    roles = _ROLES

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        threads: int | ThreadPool = 40,
        mount: str | None = None,
    ) -> None:
        self.root = os.path.abspath(root)  # noqa: PTH100 - no Path: bytes are needed below
        if not os.path.isdir(self.root):  # noqa: PTH112
            raise ConfigurationError(f"the scripts' root {self.root} is no directory")
        self.pool = threads if isinstance(threads, ThreadPool) else ThreadPool(threads)
        self._mount = b"" if mount is None else b"/" + os.fsencode(mount.strip("/"))
        if self._mount == b"/":
            self._mount = b""
        self._root = os.fsencode(self.root)
        self._real_paths: dict[bytes, str] = {}
        self._versions: dict[str, _Version] = {}
        self._loading: dict[str, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<trifcgi.scripts {self.root!r}>"

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Host the scripts: have threads, and the root on ``sys.path``.

        On leaving, cancelled or not, the lifespans of ASGI scripts end, then the threads.

        Raises:
            RuntimeError: entered already.
        """
        if self._nursery is not None:
            raise RuntimeError("this script host is served already: make one for each server")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.pool.running())
            stack.callback(self._forget)
            nursery_manager = trio.open_nursery()
            nursery = await nursery_manager.__aenter__()
            # Not shown the block's own exception, which it would put in a group.
            stack.push_async_callback(nursery_manager.__aexit__, None, None, None)
            stack.callback(nursery.cancel_scope.cancel)
            sys.path.insert(0, self.root)
            self._nursery = nursery
            yield

    def _forget(self) -> None:
        self._nursery = None
        with contextlib.suppress(ValueError):  # a script took it off
            sys.path.remove(self.root)
        self._real_paths.clear()
        self._versions.clear()
        self._loading.clear()

    async def __call__(self, request: Request) -> int | None:
        """Run the script that a request is for.

        Raises:
            AppLoadError: it could not be loaded.
            Error: it does not serve the request's role.
            RuntimeError: nobody has entered :meth:`lifespan`; servers do so by themselves.
            Exception: whatever the script raised.
        """
        nursery = self._nursery
        if nursery is None:
            raise RuntimeError(
                "scripts need their host: enter `async with handler.lifespan():` around"
                " whatever calls the handler"
            )
        try:
            place = find_script(request.pairs, self._root, self._mount)
            version = self._version(place, nursery)
            with version.in_use():
                await version.ready.wait()
                handler = version.check()
                return await self._run(handler, version, place, request)
        except ScriptMissing as missing:
            logger.log(missing.level, "404: %s", missing)
        await request.stdout.send_all(error_response(404))
        return None

    async def _run(
        self, handler: Handler, version: _Version, place: Place, request: Request
    ) -> int | None:
        if request.role not in version.roles:
            raise RoleRefused(f"script {version.path} does not serve the role {request.role!s}")
        cut = cut_url(request.pairs, place.path)
        if cut is not None:
            request = ScriptRequest(request, *cut)
        return await handler(request)

    def _version(self, place: Place, nursery: trio.Nursery) -> _Version:
        """The version of a script to use, whose loading may have just begun."""
        now = trio.current_time()
        real = self._real_paths.get(place.path)
        if real is not None:
            version = self._versions.get(real)
            if version is not None and version.matches(place.signature, now):
                return version
        # Only a path whose file is the very one that was found inside the root is spared this.
        real = confine(place.path, self._root)
        if len(self._real_paths) >= _MOST_NAMES:
            self._real_paths.clear()
        self._real_paths[place.path] = real
        version = self._versions.get(real)
        if version is not None:
            if version.matches(place.signature, now):
                return version
            version.supersede()
        version = self._versions[real] = _Version(real, place.signature)
        nursery.start_soon(self._host, version)
        return version

    async def _host(self, version: _Version) -> None:
        """A version's life, in a task of its own: no client that leaves stops its loading."""
        loaded: LoadedScript | None = None
        try:
            async with self._loading.setdefault(version.path, trio.Lock()):
                loaded = await self._crew.run_sync(
                    load_script, version.path, label=f"the loading of {version.path}"
                )
            version.signature = loaded.signature
            async with self._serve(version, loaded):
                version.ready.set()
                await version.unused.wait()
        except BaseException as error:  # noqa: ASYNC103 - what passes through is raised
            own, passing = divide(error)
            if own is not None:
                self._failed(version, own)
            if passing is error:
                raise
            if passing is not None:
                raise passing from None  # noqa: ASYNC104 - Cancelled is in it
        finally:
            if loaded is not None:
                loaded.forget()

    def _failed(self, version: _Version, error: BaseException) -> None:
        if version.ready.is_set():
            logger.error("script %s failed outside of its requests", version.path, exc_info=error)
        version.failure = error
        version.failed_at = trio.current_time()
        version.ready.set()

    @property
    def _crew(self) -> Crew:
        crew = self.pool.crew
        if crew is None:
            raise RuntimeError("the script host has ended")
        return crew

    @asynccontextmanager
    async def _serve(self, version: _Version, loaded: LoadedScript) -> AsyncIterator[None]:
        """Make a loaded script a handler, and run its lifespan."""
        handler: Any = loaded.target
        if loaded.interface == "asgi":
            handler = asgi(loaded.target)
        elif loaded.interface == "wsgi":
            handler = wsgi(loaded.target, self.pool)
        version.roles = getattr(handler, "roles", _ROLES)
        lifespan = getattr(handler, "lifespan", None)
        entered: AbstractAsyncContextManager[Any] = (
            contextlib.nullcontext() if lifespan is None else lifespan()
        )
        async with entered:
            version.handler = handler
            yield
