"""What is mostly done at once, to be awaited all the same; compiled."""

import warnings
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from trifcgi._compiled import mypyc_attr
from trifcgi.protocol.pairs import COMPILED

__all__ = ["Attempt"]


class _Waiting:
    """The coroutine of an attempt that has to wait, as something to iterate.

    It shows what walks a stack of coroutines the same as that coroutine does.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine

    @property
    def cr_frame(self) -> Any:
        return self._coroutine.cr_frame

    @property
    def cr_running(self) -> Any:
        return self._coroutine.cr_running

    @property
    def cr_await(self) -> Any:
        return self._coroutine.cr_await

    def __iter__(self) -> "_Waiting":
        return self

    def __next__(self) -> Any:
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        if value is None and traceback is None:
            return self._coroutine.throw(kind)
        return self._coroutine.throw(kind, value, traceback)

    def close(self) -> None:
        self._coroutine.close()


_DONE: Final[Iterator[Any]] = iter(())
"""At its end, always: to go on with it makes no error that would have to be caught."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Attempt:
    """What an async method returns that seldom has to wait: nothing is done before it is awaited.

    A coroutine in all that awaiting and trio need, and without one where :meth:`begin` does all:
    to make a coroutine and its frame costs more than many a thing that they are made for.
    """

    __slots__ = ("_begun", "_waiting")

    def __init__(self) -> None:
        self._begun = False
        self._waiting: _Waiting | None = None

    def begin(self) -> Any:
        """Do what can be done at once.

        Returns:
            ``None`` if that was all, or a coroutine that does the rest.
        """
        raise NotImplementedError

    def __await__(self) -> Any:
        if self._begun:
            raise RuntimeError(f"cannot reuse a {self.name()} that was awaited already")
        self._begun = True
        rest = self.begin()
        if rest is None:
            return _DONE
        waiting = self._waiting = _Waiting(rest)
        return waiting

    def name(self) -> str:
        """What has been called."""
        raise NotImplementedError

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        waiting = self._waiting
        if waiting is not None:
            return waiting.send(value)
        iterator = self.__await__()
        if iterator is _DONE:
            raise StopIteration
        return next(iterator)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Go on with an error, as a coroutine does."""
        if self._waiting is not None:
            return self._waiting.throw(kind, value, traceback)
        self._begun = True
        raise kind if value is None else value

    def close(self) -> None:
        """Do not go on."""
        self._begun = True
        if self._waiting is not None:
            self._waiting.close()

    def __del__(self) -> None:
        if not self._begun:
            # As Python says it of a coroutine, for the same mistake.
            level = 1 if COMPILED else 2  # compiled, this has no frame
            warnings.warn(f"{self.name()} was never awaited", RuntimeWarning, stacklevel=level)


Coroutine.register(Attempt)
