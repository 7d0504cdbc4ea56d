"""Say on the log where a request is that has been running for long, without stopping it."""

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import trio

from trifcgi.observe.stacks import Exchange, ThreadsOf, describe, format_tree, request_tree

__all__ = ["Subject", "TimedExchange", "log_slow_requests", "slow_log"]

_log: Final = logging.getLogger("trifcgi.slow")

_MOST_LINES: Final = 500

_SHARE: Final = 10
"""At most one part in so many of the event loop's time goes into stacks: a thousand requests
that wait for the same dead database are no reason to hold up the others."""

_SHORTEST: Final = 0.01
"""Seconds between two looks at the least."""


class TimedExchange(Exchange, Protocol):
    """A request and when it began (trio clock)."""

    @property
    def begun_at(self) -> float: ...


class Subject(Protocol):
    """What is needed of the data plane."""

    def exchanges(self) -> Sequence[TimedExchange]: ...


@contextlib.asynccontextmanager
async def slow_log(
    subject: Subject, slow_after: float, threads_of: ThreadsOf | None = None
) -> AsyncIterator[None]:
    """:func:`log_slow_requests` for as long as the block lasts; without a task of its own
    where ``slow_after`` is ``inf``.
    """
    if slow_after == math.inf:
        yield
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            log_slow_requests, subject, slow_after, threads_of, name="trifcgi slow log"
        )
        yield
        nursery.cancel_scope.cancel(reason="the server has stopped")


async def log_slow_requests(
    subject: Subject, slow_after: float, threads_of: ThreadsOf | None = None
) -> None:
    """Log each request once, when it has run for so long; until cancelled.

    The entry has its method, URI, number and age, and the await stack of each of its tasks,
    with the threads that work for them. It wakes up once in ``slow_after`` while nothing
    runs.

    Args:
        subject: the data plane.
        slow_after: seconds since its FCGI_BEGIN_REQUEST, more than 0.
        threads_of: says which threads work for a task.
    """
    logged: set[int] = set()
    while True:
        exchanges = subject.exchanges()
        logged.intersection_update(exchange.number for exchange in exchanges)
        fresh = [exchange for exchange in exchanges if exchange.number not in logged]
        # One whose handler has not been called is older than it can show: it is still being
        # received, or waits for its turn. It comes up as soon as there is a stack.
        late = trio.current_time() - slow_after
        due = [each for each in fresh if each.begun_at <= late and _is_served(each)]
        for exchange in due:
            logged.add(exchange.number)
            await _report(exchange, threads_of)
        waiting = [each.begun_at for each in fresh if each.number not in logged]
        now = trio.current_time()
        await trio.sleep(max(min(waiting, default=now) + slow_after - now, _pause(slow_after)))


def _is_served(exchange: TimedExchange) -> bool:
    return exchange.task is not None or exchange.aside is not None


def _pause(slow_after: float) -> float:
    return max(_SHORTEST, slow_after / 10)


async def _report(exchange: TimedExchange, threads_of: ThreadsOf | None) -> None:
    began = trio.current_time()
    tree = request_tree(exchange, threads_of)
    _log.warning(
        "%s has been running for %.1f s\n%s",
        describe(exchange),
        began - exchange.begun_at,
        "it has just ended" if tree is None else format_tree(tree, most_lines=_MOST_LINES),
    )
    await trio.sleep((trio.current_time() - began) * (_SHARE - 1))
