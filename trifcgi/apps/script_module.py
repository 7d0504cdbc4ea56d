"""Running a script file's code and finding the application in it."""

import ast
import contextlib
import itertools
import os
import re
import sys
from types import CodeType, ModuleType
from typing import Any, Final

import attrs

from trifcgi.apps.interface import find_interface
from trifcgi.apps.script_files import Signature, signature
from trifcgi.errors import AppLoadError

__all__ = ["LoadedScript", "load_script"]

_ATTRIBUTES: Final = ("app", "application")
_NOT_IN_NAMES: Final = re.compile(r"\W")
_numbers = itertools.count(1)


@attrs.frozen
class LoadedScript:
    """A script whose code has run.

    Attributes:
        module: it; ``None`` where its code does not even mention an application, and was
            not run.
        target: the application; ``None`` where there is none.
        interface: ``asgi``, ``wsgi`` or ``handler``; ``""`` without an application.
        signature: the state of the file that was read.
    """

    module: ModuleType | None
    target: Any
    interface: str
    signature: Signature

    def forget(self) -> None:
        """Take the module off ``sys.modules``."""
        if self.module is not None:
            sys.modules.pop(self.module.__name__, None)


def load_script(path: str) -> LoadedScript:
    """Read, compile and run a script. Blocks; to be called in a thread.

    The code is compiled from its source each time: a cached ``.pyc`` is told from a newer
    one by whole seconds, and would litter the document root. The module has a name of its
    own, with which it stands in ``sys.modules`` until :meth:`LoadedScript.forget`.

    A file whose code names neither ``app`` nor ``application`` at its top level (and imports
    no ``*``) is not run at all: modules that scripts import lie in the same root, and no
    client may have them run by asking for them.

    Raises:
        AppLoadError: it cannot be read, compiled or run, or what it calls its application is
            none. The script's own exception is the ``__cause__``.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a str it is
            state = signature(os.fstat(file.fileno()))
            tree = ast.parse(file.read(), path)
        code = compile(tree, path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        raise _failure(path, error) from error
    if not _mentions_app(tree, code):
        return LoadedScript(None, None, "", state)
    module = _run(path, code)
    try:
        target, interface = _application(module, path)
    except AppLoadError:
        del sys.modules[module.__name__]
        raise
    return LoadedScript(module, target, interface, state)


def _failure(path: str, error: BaseException) -> AppLoadError:
    return AppLoadError(f"script {path} cannot be loaded: {type(error).__name__}: {error}")


def _mentions_app(tree: ast.Module, code: CodeType) -> bool:
    if not set(_ATTRIBUTES).isdisjoint(code.co_names):
        return True
    return any(
        alias.name == "*"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )


def _run(path: str, code: CodeType) -> ModuleType:
    stem = _NOT_IN_NAMES.sub("_", os.path.basename(path).removesuffix(".py"))  # noqa: PTH119
    name = f"trifcgi_script_{next(_numbers)}_{stem}"
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - which is what a script host is for
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        with contextlib.suppress(KeyError):
            del sys.modules[name]
        # sys.exit() and the like must not end more than the script.
        raise _failure(path, error) from error
    return module


def _application(module: ModuleType, path: str) -> tuple[Any, str]:
    for attribute in _ATTRIBUTES:
        target = getattr(module, attribute, None)
        if target is not None:
            return target, find_interface(target, f"{attribute} in {path}")
    return None, ""
