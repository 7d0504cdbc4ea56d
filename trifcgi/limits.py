"""Limits and Timeouts: the two value objects that travel below the configuration."""

import math
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["Limits", "Timeouts"]


def _at_least(least: int) -> Callable[[object, "attrs.Attribute[Any]", object], None]:
    def check(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{attribute.name} must be an int, not {value!r}")
        if value < least:
            raise ValueError(f"{attribute.name} must be at least {least}, not {value}")

    return check


def _seconds(value: float | None) -> float:
    return math.inf if value is None else value


def _not_negative(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{attribute.name} must be a number of seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, not {value}")


def _positive(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    _not_negative(instance, attribute, value)
    if value == 0:
        raise ValueError(f"{attribute.name} must be more than 0 seconds")


@attrs.frozen(kw_only=True)
class Limits:
    """How much a process takes on. Counts, and sizes in bytes.

    Attributes:
        max_connections: connections open at once; more wait in the backlog. At least 1.
        max_requests: requests running at once; more are answered 503. At least 1.
        max_params: size of one request's params; a larger one is answered 431.
        max_body: size of one request's body; a larger one is answered 413. ``None``: no limit.
    """

    max_connections: int = attrs.field(default=1000, validator=_at_least(1))
    max_requests: int = attrs.field(default=1000, validator=_at_least(1))
    max_params: int = attrs.field(default=1 << 20, validator=_at_least(1))
    max_body: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(0))
    )


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long things may take. Seconds; ``None`` or ``math.inf`` mean no end.

    Attributes:
        request_timeout: a request's whole life; past it its handler is cancelled and a
            response that has not begun becomes a 504.
        abort_grace: after an abort or a lost connection the handler is told at once, and
            cancelled after so long. 0 cancels at once, ``inf`` only tells.
        read_timeout: the longest silence while params or a body are awaited.
        write_timeout: the longest time that a blocked write may make no progress.
        keep_alive: an idle connection is closed after it.
        grace: a graceful stop lets requests run on for so long, then cancels them.
    """

    request_timeout: float = attrs.field(default=math.inf, converter=_seconds, validator=_positive)
    abort_grace: float = attrs.field(default=0.0, converter=_seconds, validator=_not_negative)
    read_timeout: float = attrs.field(default=60.0, converter=_seconds, validator=_positive)
    write_timeout: float = attrs.field(default=60.0, converter=_seconds, validator=_positive)
    keep_alive: float = attrs.field(default=600.0, converter=_seconds, validator=_positive)
    grace: float = attrs.field(default=30.0, converter=_seconds, validator=_not_negative)
