"""Whose an exception is: the application's own, or one that only passes through it."""

import math

import trio

__all__ = ["divide", "in_words"]


def divide(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Tell an application's own failure from what only passes through it.

    Cancelled and KeyboardInterrupt are not the application's, alone or in a group. Everything
    else is, and ends what it was raised in, not the server: SystemExit, and what libraries derive
    from BaseException (the panics of those written in Rust, asyncio's own CancelledError).

    Returns:
        Its own, and what is to be raised again; ``None`` where there is no such part.
    """
    passing: BaseException | None = None
    own: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):
        passing, own = error.split((trio.Cancelled, KeyboardInterrupt))
    elif isinstance(error, (trio.Cancelled, KeyboardInterrupt)):
        passing, own = error, None
    if passing is not None and _is_stray(passing):
        return error, None
    return own, passing


def in_words(error: BaseException) -> str:
    """Name an exception for the end of a sentence: ``SystemExit: 3``; the name alone where it says
    no more, as that of ``sys.exit()``.
    """
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_stray(error: BaseException) -> bool:
    """Whether a Cancelled was kept and raised where nothing is cancelled."""
    if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
        return False
    return (
        not isinstance(error, KeyboardInterrupt) and trio.current_effective_deadline() != -math.inf
    )
