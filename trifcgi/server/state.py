"""What every request of a data plane looks at; compiled."""

from typing import Any, Final

import trio

from trifcgi.limits import Limits, Timeouts
from trifcgi.observe.trace import Tracer
from trifcgi.protocol.constants import Role
from trifcgi.request import StopSignal
from trifcgi.server.clock import Clock
from trifcgi.server.observers import Observers

__all__ = ["State"]

_NO_LIMIT: Final = -1


class State:
    """What the connections of one data plane share, where compiled code gets at it in no time.

    Attributes:
        observers: the data plane's.
        roles: those that the handler serves, by number.
        limits: the ones in force; :meth:`limit` changes them.
        max_requests: one of them.
        max_body: another; negative: none.
        running: requests running or queued now.
        reads: whether the handler has params read as they come.
        taskless: how the handler serves requests without a task, if it does.
        reading: whether the poller goes through a batch of what is ready on sockets.
        reading_since: when the last such batch began (trio clock): what came in one counts as
            come together.
        waiting: the turns that have got requests in that batch.
        begun: requests begun so far.
        draining: whether a graceful stop has begun.
        stopping: tells requests that a stop has begun.
        drivers: those that wait for their next handler.
        clock: trio's; ``None`` before the data plane is entered.
        request_timeout, read_timeout, abort_grace: some of its timeouts (seconds).
        params_timeout: the shorter one of the first two.
        tracer: is told all bytes that come and go, while there is one.
    """

    __slots__ = (
        "abort_grace",
        "begun",
        "clock",
        "draining",
        "drivers",
        "limits",
        "max_body",
        "max_requests",
        "observers",
        "params_timeout",
        "read_timeout",
        "reading",
        "reading_since",
        "reads",
        "request_timeout",
        "roles",
        "running",
        "stopping",
        "taskless",
        "tracer",
        "waiting",
    )

    def __init__(
        self, observers: Observers, roles: dict[int, Role], limits: Limits, timeouts: Timeouts
    ) -> None:
        self.observers = observers
        self.roles = roles
        self.reads = False
        self.taskless: Any = None
        self.reading = False
        self.reading_since = 0.0
        # Any: what is made of turns looks at this.
        self.waiting: list[Any] = []
        self.running = 0
        self.begun = 0
        self.draining = False
        self.tracer: Tracer | None = None
        self.stopping = StopSignal()
        self.drivers: list[Any] = []
        self.clock: Clock | None = None
        self.request_timeout: float = timeouts.request_timeout
        self.read_timeout: float = timeouts.read_timeout
        self.params_timeout: float = min(timeouts.request_timeout, timeouts.read_timeout)
        self.abort_grace: float = timeouts.abort_grace
        self.limit(limits)

    def now(self) -> float:
        """The trio clock, in seconds."""
        clock = self.clock
        return trio.current_time() if clock is None else clock.now()

    def limit(self, limits: Limits) -> None:
        """Take other limits from now on."""
        self.limits = limits
        self.max_requests = limits.max_requests
        self.max_body = _NO_LIMIT if limits.max_body is None else limits.max_body
