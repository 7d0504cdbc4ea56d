"""Whether the codec in use is the compiled one."""

from importlib import import_module

__all__ = ["is_compiled"]


def is_compiled(module: str = "trifcgi.protocol.pairs") -> bool:
    """Whether that module was compiled when trifcgi was installed.

    One stands for all: a wheel has either every module of the codec compiled (they are listed
    in pyproject.toml) or none. The module is imported, so it is what is in use that
    counts.
    """
    file = import_module(module).__file__
    return file is not None and not file.endswith(".py")
