"""Whether the codec in use is the compiled one, and what the compiler is told in the code."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["is_compiled", "mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**attributes: Any) -> Any:
        """What mypyc is to know of a class; it means nothing when the code runs.

        A free list is for classes that hold nothing of an application: an object is on it already
        while what it holds is let go, and no code of anybody's may run then that makes another.
        """
        return lambda decorated: decorated


def is_compiled(module: str = "trifcgi.protocol.pairs") -> bool:
    """Whether that module was compiled when trifcgi was installed.

    One stands for all: a wheel has either every module of the codec compiled (they are listed
    in pyproject.toml) or none. The module is imported, so it is what is in use that
    counts.
    """
    file = import_module(module).__file__
    return file is not None and not file.endswith(".py")
