"""Input flow control: what happens when a handler does not read its request's body.

FastCGI has no flow control for a single request: a connection is read or it is not. Not
reading it holds the front end back, which is right for the one request that it carries, but
hides whatever stands behind the body: an abort, or another request. Hence three steps:

1. Past :data:`~trifcgi.server.body.WINDOW` bytes in memory the connection is not read on; a
   handler that reads within :data:`PAUSE` never gets further.
2. After that, or at once where the front end multiplexes, the connection is read on and the
   body goes to a temporary file, up to :data:`~trifcgi.server.body.SPOOL_LIMIT` bytes.
3. Past that the connection is not read on again. A request that is alone may stay so for
   ever. Where others share the connection they wait as long as the handler makes progress; one
   that has read nothing for :data:`PATIENCE` loses its request.
"""

import math
from typing import TYPE_CHECKING

from trifcgi.server.body import SPOOL_LIMIT, WINDOW, Body

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection
    from trifcgi.server.exchange import Exchange

__all__ = ["PATIENCE", "PAUSE", "ReadWindow"]

PAUSE = 0.02
"""Seconds for which a full window alone keeps a connection from being read."""

PATIENCE = 1.0
"""Seconds that a handler with a full file may take between two reads where others wait."""


class ReadWindow:
    """Decides for one connection whether it is read on, and where body bytes go.

    Attributes:
        multiplexed: whether the front end is known to put several requests on the connection.
        paused_since: when it stopped being read (trio clock); ``None``: it is read.
    """

    __slots__ = ("_connection", "_progress", "_spooling", "multiplexed", "paused_since")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.paused_since: float | None = None
        self._progress = -math.inf
        # A stream that is not a socket shows that its peer is gone only by being read.
        self._spooling = not connection.wire.sees_hangup
        self.multiplexed = False

    def expect_others(self) -> None:
        """The front end multiplexes: from now on nobody may hold up the connection."""
        if not self.multiplexed:
            self.multiplexed = self._spooling = True
            self.reconsider()

    def feed(self, exchange: "Exchange", body: Body, data: bytes) -> None:
        """Take body bytes that have arrived."""
        if self._spooling:
            try:
                body.feed_spooling(data)
            except OSError as error:
                why = f"its body cannot be kept in a temporary file: {error}"
                self._connection.refuse_body(exchange, why)
                return
            if exchange.spooled > SPOOL_LIMIT and self.paused_since is None:
                self._pause(PATIENCE)
        else:
            body.feed(data)
            if exchange.unread > WINDOW and self.paused_since is None:
                self._pause(PAUSE)

    def _pause(self, look_again: float) -> None:
        connection = self._connection
        self.paused_since = now = connection.plane.now()
        connection.wire.pause_reading()
        connection.arm(now + look_again)

    def taken(self) -> None:
        """A handler has read, or does not want to read any more."""
        if self.paused_since is not None:
            self._progress = self._connection.plane.now()
            self.reconsider()

    def reconsider(self) -> None:
        """Read on, if nothing stands against it any more."""
        if self.paused_since is None:
            return
        for exchange in self._connection.exchanges.values():
            if exchange.spooled > SPOOL_LIMIT // 2:
                return
            if not self._spooling and exchange.unread > WINDOW // 2:
                return
        self.paused_since = None
        self._connection.wire.resume_reading()

    def check(self, now: float) -> float:
        """Take the next step once its time has come; return when to look again."""
        since = self.paused_since
        if since is None:
            return math.inf
        # Half the limit, as in reconsider(): a handler may stop anywhere above it.
        full = [e for e in self._connection.exchanges.values() if e.spooled > SPOOL_LIMIT // 2]
        if not full:
            if since + PAUSE <= now:
                self._spooling = True
                self.reconsider()
                return math.inf
            return since + PAUSE
        if not self.multiplexed:
            return math.inf
        last = max(since, self._progress)
        if last + PATIENCE > now:
            return last + PATIENCE
        for exchange in full:
            self._connection.refuse_body(
                exchange, f"its handler left {exchange.spooled} bytes of its body unread"
            )
        self.reconsider()
        return math.inf
