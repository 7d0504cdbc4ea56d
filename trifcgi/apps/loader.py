"""From ``module:attribute`` on the command line to an application.

Whatever is wrong comes out as one :class:`AppLoadError` sentence. An exception of the
application's own module is its ``__cause__``, for :func:`format_cause` to show.
"""

import difflib
import importlib
import os
import runpy
import sys
import traceback
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, Final

import attrs

from trifcgi.apps.asgi import asgi
from trifcgi.apps.interface import find_interface
from trifcgi.apps.wsgi import wsgi
from trifcgi.errors import AppLoadError
from trifcgi.request import Handler

__all__ = ["LoadedApp", "as_handler", "format_cause", "load_app"]

_DEFAULT_ATTRIBUTES: Final = ("app", "application")
_FACTORY_NAMES: Final = ("create_app", "make_app", "get_app", "build_app", "app_factory")

# Code that stands between a user and the line of theirs that failed.
_MACHINERY: Final = (
    f"{Path(__file__).resolve().parents[1]}{os.sep}",
    f"{Path(importlib.__file__).resolve().parent}{os.sep}",
    str(Path(runpy.__file__).resolve()),
    "<frozen importlib",
    "<frozen runpy",
)


@attrs.frozen
class LoadedApp:
    """An application that was found.

    Attributes:
        interface: ``asgi``, ``wsgi`` or ``handler``.
        target: the application itself.
        spec: ``module:attribute``, with the attribute that was taken.
    """

    interface: str
    target: Any
    spec: str


def load_app(spec: str, interface: str = "auto", *, directory: Path) -> LoadedApp:
    """Import an application.

    Args:
        spec: ``module:attribute``, where the attribute may be dotted; ``module`` alone means
            ``module:app``, and ``module:application`` where that is not there.
        interface: ``asgi``, ``wsgi``, ``handler``, or ``auto`` to find out.
        directory: made importable, ahead of everything else, and left so: an application
            may import from it at any time.

    Raises:
        AppLoadError: there is no such module or attribute, it is no application, or importing
            it failed; in the last case the application's own exception is the ``__cause__``.
    """
    module_name, attribute = _split(spec)
    module = _import(module_name, directory)
    if attribute:
        target = _attribute(module, attribute)
    else:
        attribute, target = _default_attribute(module)
    spec = f"{module_name}:{attribute}"
    return LoadedApp(find_interface(target, spec, interface), target, spec)


def as_handler(
    target: Any, interface: str, *, mount: str | None = None, threads: int = 40
) -> Handler:
    """Turn an application into a handler.

    Args:
        target: the application.
        interface: ``asgi``, ``wsgi`` or ``handler``, as :class:`LoadedApp` has it.
        mount: the URL prefix it lives under; a native handler reads its params itself.
        threads: WSGI: how many requests run at once, each in a thread.
    """
    if interface == "asgi":
        return asgi(target, mount=mount)
    if interface == "wsgi":
        return wsgi(target, threads=threads, mount=mount)
    if interface == "handler":
        handler: Handler = target
        return handler
    raise ValueError(f"interface is asgi, wsgi or handler, not {interface!r}")


def format_cause(error: AppLoadError) -> str:
    """The traceback of what the application's own code raised, as text.

    It begins in the application: frames of trifcgi, importlib and runpy are left out.
    ``""`` when the error has no cause, or one that has its own words for it: ``sys.exit("…")``.
    """
    cause = error.__cause__
    if cause is None:
        return ""
    if isinstance(cause, SystemExit) and isinstance(cause.code, str):
        # Where it is not caught Python itself shows the words alone.
        return ""
    shown = traceback.TracebackException.from_exception(cause)
    _trim(shown)
    if not shown.stack:
        # A syntax error has no frame of the application's, and says itself where it is.
        return "".join(shown.format_exception_only())
    return "".join(shown.format())


def _trim(shown: traceback.TracebackException) -> None:
    kept = [frame for frame in shown.stack if not _is_machinery(frame.filename)]
    shown.stack = traceback.StackSummary.from_list(kept)
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if other is not None:
            _trim(other)


def _is_machinery(filename: str) -> bool:
    return filename.startswith(_MACHINERY) or os.path.realpath(filename).startswith(_MACHINERY)


def _split(spec: str) -> tuple[str, str]:
    """Take ``module:attribute`` apart; the attribute is ``""`` where none is named."""
    module, colon, attribute = spec.partition(":")
    if "/" in module or module.endswith(".py"):
        dotted = ".".join(Path(module).with_suffix("").parts).strip("./")
        instead = dotted + colon + attribute
        raise AppLoadError(
            f"{spec!r} looks like a file, but an app is named module:attribute: try {instead!r}"
        )
    if not _is_dotted(module) or (colon and not _is_dotted(attribute)):
        raise AppLoadError(
            f"{spec!r} does not name an app: write module:attribute, for instance hello:app"
        )
    return module, attribute


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(name: str, directory: Path) -> ModuleType:
    place = str(directory.absolute())
    if place not in sys.path:
        sys.path.insert(0, place)
    # Written since the interpreter looked at the directory last, perhaps.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if _is_missing(name, error):
            raise AppLoadError(_missing(name, error, directory)) from None
        raise _own_failure(name, error) from error
    except SystemExit as error:
        where = _last_line(error.__traceback__)
        raise AppLoadError(
            f"module {name!r} ended the program while it was imported: sys.exit({error.code!r})"
            f"{where}; a script that runs by itself keeps that below"
            " if __name__ == '__main__'"
        ) from None
    except Exception as error:
        raise _own_failure(name, error) from error


def _own_failure(name: str, error: Exception) -> AppLoadError:
    return AppLoadError(f"importing module {name!r} failed: {type(error).__name__}: {error}")


def _own_frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    return [
        (frame, line)
        for frame, line in traceback.walk_tb(trace)
        if not _is_machinery(frame.f_code.co_filename)
    ]


def _is_missing(name: str, error: ModuleNotFoundError) -> bool:
    """Whether it is the named module that is missing, or a package above it, and not a
    module that the application imports.
    """
    missing = error.name or ""
    named = name == missing or name.startswith(missing + ".")
    return named and not _own_frames(error.__traceback__)


def _missing(name: str, error: ModuleNotFoundError, directory: Path) -> str:
    top, *below = name.split(".")
    if below and error.name != top:
        parent, _, last = name.rpartition(".")
        hint = f"; did you mean '{parent}:{last}'?" if _has(parent, last) else ""
        return f"there is no module {name!r}: {error.msg}{hint}"
    there = sorted(
        {path.stem for path in directory.glob("*.py")}
        | {path.parent.name for path in directory.glob("*/__init__.py")}
    )
    close = difflib.get_close_matches(top, there, n=1)
    hint = f"; did you mean {'.'.join([*close, *below])!r}?" if close else ""
    return f"there is no module {top!r} in {directory.absolute()} or on Python's path{hint}"


def _has(module: str, attribute: str) -> bool:
    return module in sys.modules and hasattr(sys.modules[module], attribute)


def _last_line(trace: TracebackType | None) -> str:
    frames = _own_frames(trace)
    if not frames:
        return ""
    frame, line = frames[-1]
    return f" ({frame.f_code.co_filename}, line {line})"


def _attribute(module: ModuleType, path: str) -> Any:
    target: Any = module
    name = module.__name__
    for part in path.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            what = "module" if target is module else "object"
            raise AppLoadError(
                f"{what} {name!r} has no attribute {part!r}{_similar(part, target)}"
            ) from None
        except Exception as error:
            raise AppLoadError(
                f"reading {part!r} of {name!r} failed: {type(error).__name__}: {error}"
            ) from error
        name = f"{name}.{part}"
    return target


def _similar(name: str, target: object) -> str:
    names = [other for other in dir(target) if not other.startswith("_")]
    close = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _default_attribute(module: ModuleType) -> tuple[str, Any]:
    for attribute in _DEFAULT_ATTRIBUTES:
        if hasattr(module, attribute):
            return attribute, _attribute(module, attribute)
    raise AppLoadError(
        f"module {module.__name__!r} has neither 'app' nor 'application'{_candidates(module)}"
    )


def _candidates(module: ModuleType) -> str:
    """What else in the module could be meant, for the end of a sentence."""
    for factory in _FACTORY_NAMES:
        if callable(getattr(module, factory, None)):
            return f"; write app = {factory}() in it"
    found = [
        f"{module.__name__}:{name}" for name, value in vars(module).items() if _is_app(name, value)
    ]
    return f"; name the attribute: {' or '.join(found[:3])}" if found else ""


def _is_app(name: str, value: object) -> bool:
    if name.startswith("_"):
        return False
    try:
        find_interface(value, name)
    except AppLoadError:
        return False
    return True
