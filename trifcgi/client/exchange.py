"""One request on a client's connection, from FCGI_BEGIN_REQUEST to FCGI_END_REQUEST."""

import copy
from collections.abc import Callable
from functools import partial

import attrs
import trio

from trifcgi.client.head import ResponseHead, parse_head
from trifcgi.client.streams import InputStream, OutputStream
from trifcgi.errors import Error, RequestRefused, ResponseError
from trifcgi.protocol import Connection, ProtocolStatus, Role

__all__ = ["STDERR_KEPT", "Ending", "Exchange", "Wire"]

STDERR_KEPT = 1 << 20
"""Bytes of FCGI_STDERR kept unread. It is a log for people: losing the end of an endless
one is better than a connection that stands still because nobody reads it."""


@attrs.frozen
class Ending:
    """What FCGI_END_REQUEST said (§5.5).

    Attributes:
        app_status: the application status, 0 where all went well.
        protocol_status: a ``ProtocolStatus``, or an int where the number is unknown.
    """

    app_status: int
    protocol_status: ProtocolStatus | int


@attrs.frozen
class Wire:
    """What an exchange needs of its connection.

    Attributes:
        protocol: the sans-I/O connection.
        flush: have what is queued written.
        congested: whether too much is unsent.
        writable: whether the server still takes input.
        resized: tell that the exchange has another number of unread bytes.
    """

    protocol: Connection
    flush: Callable[[], None]
    congested: Callable[[], bool]
    writable: Callable[[], bool]
    resized: Callable[["Exchange"], None]


class Exchange:
    """A request and its response as streams; :meth:`Client.open` gives it.

    Read ``stdout``, or close it: what is unread past the client's window keeps the whole
    connection from being read, since FastCGI cannot hold back one request's output.

    Attributes:
        request_id: its ID on the connection.
        role: the role asked for.
        stdin: the request body; ``aclose`` ends it. Closed from the start for an
            authorizer, which has none.
        data: the second input of a filter (§6.4), to be sent after ``stdin``. Closed from the
            start for the other roles.
        stdout: the output, raw; after :meth:`response` what follows the head.
        stderr: the application's messages; up to 1 MiB of them is kept unread.
    """

    def __init__(self, request_id: int, role: Role, wire: Wire) -> None:
        protocol = wire.protocol
        self.request_id = request_id
        self.role = role
        self.stdin = InputStream(
            self,
            self._sender(partial(protocol.send_stdin, request_id)),
            self._ender(partial(protocol.end_stdin, request_id)),
        )
        self.data = InputStream(
            self,
            self._sender(partial(protocol.send_data, request_id)),
            self._ender(partial(protocol.end_data, request_id)),
        )
        self.stdin.closed = role is Role.AUTHORIZER
        self.data.closed = role is not Role.FILTER
        self.stdout = OutputStream(limit=None, resized=partial(wire.resized, self))
        self.stderr = OutputStream(limit=STDERR_KEPT, resized=_nothing)
        self._wire = wire
        self._head: ResponseHead | None = None
        self._left = False
        self._over = trio.Event()
        self._ending: Ending | None = None
        self._failure: Error | None = None
        self._room = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "open"
        return f"<Exchange request_id={self.request_id} role={self.role} {state}>"

    async def response(self) -> ResponseHead:
        """Wait for the response head, and take it off ``stdout``. Later calls give it again.

        Raises:
            RequestRefused: the server ended the request with a protocol status other than
                REQUEST_COMPLETE before any head.
            ResponseError: the output has no CGI head. The bytes stay in ``stdout``.
            ConnectionLost: the connection ended first.
            ProtocolError: the server sent bytes that are not FastCGI.
        """
        if self._head is not None:
            await trio.lowlevel.checkpoint()
            return self._head
        try:
            head = await self.stdout.receive_head()
        except ResponseError as error:
            self._raise_refusal(error)
            raise
        self._head = parse_head(head)
        return self._head

    def _raise_refusal(self, cause: ResponseError) -> None:
        status = self._ending.protocol_status if self._ending is not None else 0
        if status != ProtocolStatus.REQUEST_COMPLETE:
            message = f"the application server refused the request: {status!s}"
            raise RequestRefused(message, int(status)) from cause

    async def wait_ended(self) -> Ending:
        """Wait for FCGI_END_REQUEST. It comes behind all output: read ``stdout`` before.

        Raises:
            ConnectionLost: the connection ended first.
            ProtocolError: the server sent bytes that are not FastCGI.
        """
        await self._over.wait()
        if self._ending is None:
            self._raise_failure()
        assert self._ending is not None
        return self._ending

    @property
    def over(self) -> bool:
        """Whether FCGI_END_REQUEST has come, or the connection is gone."""
        return self._over.is_set()

    async def wait_over(self) -> None:
        """Wait until :attr:`over`, whatever the reason."""
        await self._over.wait()

    async def wait_for_room(self) -> None:
        """Wait while the connection has too much unsent."""
        if self._wire.congested():
            await self._room.park()

    def make_room(self) -> None:
        """The connection has sent what it had: each waiting sender may add one chunk."""
        self._room.unpark_all()

    def check_sendable(self) -> None:
        """Raise when the application can take no more input."""
        if self._left:
            raise trio.ClosedResourceError("this exchange was left")
        self._raise_failure()
        if self._ending is not None:
            raise trio.BrokenResourceError("the request has ended")
        if not self._wire.writable():
            raise trio.BrokenResourceError("the application server takes no more input")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise copy.copy(self._failure) from self._failure

    def _sender(self, queue: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def send(data: bytes) -> None:
            queue(data)
            self._wire.flush()

        return send

    def _ender(self, queue: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            if not self._over.is_set():
                queue()
                self._wire.flush()

        return end

    def ended(self, ending: Ending) -> None:
        """FCGI_END_REQUEST has come."""
        self._ending = ending
        self._finish(None)

    def failed(self, failure: Error) -> None:
        """The connection ended before the request."""
        self._failure = failure
        self._finish(failure)

    def _finish(self, failure: Error | None) -> None:
        self.stdout.feed_end(failure)
        self.stderr.feed_end(failure)
        self._over.set()
        self.make_room()

    def leave(self) -> None:
        """Close all streams; abort the request if it is not over (§5.4)."""
        self._left = True
        if not self._over.is_set():
            self._wire.protocol.abort_request(self.request_id)
            self._wire.flush()
        self.stdin.closed = self.data.closed = True
        self.stdout.close()
        self.stderr.close()
        self.make_room()


def _nothing() -> None:
    """FCGI_STDERR has a limit of its own: its size holds nobody back."""
