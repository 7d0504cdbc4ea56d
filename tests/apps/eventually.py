"""Waiting for what a thread does, of which the event loop hears nothing."""

from collections.abc import Callable

import trio

__all__ = ["until"]


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return as soon as the condition holds; fail when it does not within so long."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells when it changes
            await trio.sleep(0.001)
