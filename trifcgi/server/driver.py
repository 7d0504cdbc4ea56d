"""How handlers' coroutines are stepped by hand."""

import types
from collections.abc import Awaitable, Generator
from typing import Any, Final

__all__ = ["RETURNED", "Returned", "awaiting", "drive"]


class Returned:
    """What a driver yields once a handler has returned.

    Attributes:
        status: what it has returned.
    """

    __slots__ = ("status",)

    def __init__(self, status: object) -> None:
        self.status = status


RETURNED: Final = Returned(None)
"""The same for one that has returned ``None``, as nearly all do."""


@types.coroutine
def drive() -> Generator[Any, Any, None]:
    """Drive one coroutine after the other: each is sent in; what it waits for comes out, and at
    its end a :class:`Returned`.

    Whoever steps a coroutine itself learns of its end by a StopIteration, which costs as much as
    the rest of a small handler. One that is delegated to ends without. What a handler raises ends
    its driver, too.
    """
    coroutine: Any = yield
    while True:
        status = yield from coroutine  # noqa: ASYNC101 - its task's own scopes are around it
        del coroutine
        coroutine = yield RETURNED if status is None else Returned(status)


async def awaiting(awaitable: Awaitable[Any]) -> Any:
    """A coroutine for what is none: a handler may return any awaitable."""
    return await awaitable
