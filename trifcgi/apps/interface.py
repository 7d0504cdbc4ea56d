"""Telling the three kinds of application apart: ASGI 3, WSGI, native handler.

All three are callables; what differs is whether they are async and how many positional
arguments they take. Where that does not decide, the user is asked rather than guessed at: a
wrong guess would show only as a strange error in the first request.
"""

import functools
import inspect
from typing import Any, Final

from trifcgi.errors import AppLoadError

__all__ = ["INTERFACES", "find_interface"]

INTERFACES: Final = ("asgi", "wsgi", "handler")
"""What an application may be, by the names that ``--interface`` takes."""

_ARGUMENTS: Final = {
    "asgi": "(scope, receive, send)",
    "wsgi": "(environ, start_response)",
    "handler": "(request)",
}
_COUNTS: Final = {"asgi": 3, "wsgi": 2, "handler": 1}
_SAY_WHICH: Final = (
    "say which with --interface asgi, wsgi or handler"
    " (a script has to take the arguments of one kind only)"
)


def find_interface(target: Any, name: str, interface: str = "auto") -> str:
    """Say as which kind an application is to be run.

    Args:
        target: the application, as it was found.
        name: what to call it in an error.
        interface: a member of :data:`INTERFACES` to only check that it can be one, or ``auto``.

    Raises:
        AppLoadError: it is no application, or cannot be told apart.
        ValueError: ``interface`` is none of those.
    """
    if interface not in {"auto", *INTERFACES}:
        raise ValueError(f"interface is auto, asgi, wsgi or handler, not {interface!r}")
    if not callable(target):
        kind = "a module" if inspect.ismodule(target) else f"of type {type(target).__name__}"
        raise AppLoadError(f"{name} is {kind}, not an application: it cannot be called")
    takes = _Arguments(target)
    if interface != "auto":
        return _checked(takes, name, interface)
    if not takes.known:
        raise AppLoadError(f"it cannot be seen what arguments {name} takes: {_SAY_WHICH}")
    if inspect.isclass(target):
        return _interface_of_class(target, takes, name)
    if _is_async(target):
        return _interface_of_async(takes, name)
    return _interface_of_sync(takes, name)


class _Arguments:
    """How many positional arguments a callable takes."""

    def __init__(self, target: Any) -> None:
        self.known = True
        try:
            self._signature = inspect.signature(target)
        except (TypeError, ValueError):  # written in C, say
            self.known = False
            self._signature = inspect.Signature()

    def fit(self, count: int) -> bool:
        """Whether it can be called with exactly so many."""
        try:
            self._signature.bind(*[None] * count)
        except TypeError:
            return False
        return True

    @property
    def fitting(self) -> frozenset[int]:
        """The counts from 0 to 3 that it can be called with."""
        return frozenset(count for count in range(4) if self.fit(count))

    @property
    def first_name(self) -> str:
        return next(iter(self._signature.parameters), "")

    def __str__(self) -> str:
        return str(self._signature)


def _checked(takes: _Arguments, name: str, interface: str) -> str:
    if takes.known and not takes.fit(_COUNTS[interface]):
        raise AppLoadError(
            f"{name} takes {takes}, but as --interface {interface} it has to take"
            f" {_ARGUMENTS[interface]}"
        )
    return interface


def _is_async(target: Any) -> bool:
    """Whether a call gives an awaitable, as far as can be seen without one.

    A decorator that is a plain function around an async one passes for async, since it
    returns what that one returns.
    """
    while isinstance(target, functools.partial):
        target = target.func
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        target = type(target).__call__
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        inspect.unwrap(target)
    )


def _interface_of_class(target: type, takes: _Arguments, name: str) -> str:
    if takes.fitting == {2} and hasattr(target, "__iter__"):
        return "wsgi"  # PEP 3333's AppClass: an instance is the response
    if takes.fit(1) and takes.first_name == "scope":
        raise _asgi2(name)
    raise AppLoadError(
        f"{name} is a class; name an instance of it: write app = {target.__name__}(...) in the"
        " module and name that"
    )


def _interface_of_async(takes: _Arguments, name: str) -> str:
    fitting = takes.fitting
    if 3 in fitting and 1 in fitting:
        raise AppLoadError(
            f"{name} takes {takes}, which fits an ASGI app and a handler: {_SAY_WHICH}"
        )
    if 3 in fitting:
        return "asgi"
    if 1 in fitting:
        return "handler"
    if 0 in fitting:
        raise _factory(name)
    raise AppLoadError(
        f"{name} is async and takes {takes}: an ASGI app takes {_ARGUMENTS['asgi']}, a handler"
        f" {_ARGUMENTS['handler']}"
    )


def _interface_of_sync(takes: _Arguments, name: str) -> str:
    fitting = takes.fitting
    if 2 in fitting and 1 not in fitting:
        return "wsgi"
    if fitting == {3}:
        return "asgi"  # a plain function that returns another one's coroutine
    if 2 in fitting:
        raise AppLoadError(f"{name} takes {takes}, which fits more than one kind: {_SAY_WHICH}")
    if 0 in fitting:
        raise _factory(name)
    if 1 in fitting and takes.first_name == "scope":
        raise _asgi2(name)
    if 1 in fitting:
        raise AppLoadError(
            f"{name} takes {takes} and is not async: a handler is written"
            " 'async def', and a WSGI app takes (environ, start_response)"
        )
    raise AppLoadError(
        f"{name} takes {takes}: a WSGI app takes {_ARGUMENTS['wsgi']}, an ASGI app"
        f" {_ARGUMENTS['asgi']}, a handler {_ARGUMENTS['handler']}"
    )


def _factory(name: str) -> AppLoadError:
    last = name.rpartition(":")[2].rpartition(".")[2]
    return AppLoadError(
        f"{name} takes no arguments: it looks like a function that makes an app;"
        f" write app = {last}() in the module and name that"
    )


def _asgi2(name: str) -> AppLoadError:
    return AppLoadError(
        f"{name} takes the scope alone, as apps did in ASGI 2; an ASGI 3 app takes"
        " (scope, receive, send): wrap it in asgiref.compatibility.guarantee_single_callable"
    )
