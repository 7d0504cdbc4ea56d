"""What is mostly done at once, to be awaited all the same; compiled."""

import warnings
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from trifcgi._compiled import mypyc_attr
from trifcgi.protocol.pairs import COMPILED

__all__ = ["DONE", "Attempt"]


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


DONE: Final[Iterator[Any]] = iter(())
"""At its end, always: to go on with it makes no error that would have to be caught."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Attempt:
    """What an async method returns that seldom has to wait: nothing is done before it is awaited.

    A coroutine in all that awaiting and trio need, and without one where nothing has to be waited
    for: to make a coroutine and its frame costs more than many a thing that they are made for.
    Compiled, that is: in pure Python a coroutine is given instead.

    There is no ``__init__()``, as it would be one call more each time: whoever makes one sets
    what it has, beginning with these two.

    Attributes:
        begun: whether it was awaited, or closed.
        waiting: what it waits in; ``None`` at first.
    """

    __slots__ = ("begun", "waiting")

    begun: bool
    waiting: _Waiting | None

    def __await__(self) -> Any:
        """Do what can be done at once: :data:`DONE` if that was all, else what :meth:`wait` says.

        Raises:
            RuntimeError: it has :attr:`begun` already; see :meth:`reused`.
        """
        raise NotImplementedError

    def wait(self, rest: Any) -> _Waiting:
        """Go on with a coroutine that does the rest."""
        waiting = self.waiting = _Waiting(rest)
        return waiting

    def reused(self) -> RuntimeError:
        """What to raise when it is awaited a second time."""
        return RuntimeError(f"cannot reuse a {self.name()} that was awaited already")

    def name(self) -> str:
        """What has been called."""
        raise NotImplementedError

    @property
    def __name__(self) -> str:
        """The same as coroutines have it: trio says it where one was expected not to be called."""
        return self.name().removesuffix("()")

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        waiting = self.waiting
        if waiting is not None:
            return waiting.send(value)
        iterator = self.__await__()
        if iterator is DONE:
            raise StopIteration
        return next(iterator)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Go on with an error, as a coroutine does."""
        if self.waiting is not None:
            return self.waiting.throw(kind, value, traceback)
        self.begun = True
        raise kind if value is None else value

    def close(self) -> None:
        """Do not go on."""
        self.begun = True
        if self.waiting is not None:
            self.waiting.close()

    def __del__(self) -> None:
        if not self.begun:
            # As Python says it of a coroutine, for the same mistake.
            level = 1 if COMPILED else 2  # compiled, this has no frame
            warnings.warn(f"{self.name()} was never awaited", RuntimeWarning, stacklevel=level)


Coroutine.register(Attempt)
