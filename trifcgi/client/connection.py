"""A client's connection: its reader and writer tasks, and who is owed what."""

from collections import deque
from collections.abc import Iterable
from typing import cast

import trio

from trifcgi.client.exchange import Ending, Exchange, Wire
from trifcgi.errors import ConnectionLost, Error, LocalProtocolError, ProtocolError
from trifcgi.protocol import Connection, RecordType, Role, Side
from trifcgi.protocol.events import (
    Event,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
)

__all__ = ["ClientConnection", "ValuesWanted"]

RECEIVE = 64 * 1024
"""Bytes asked of the stream at once: one full record, as uploads and answers have them."""

OUT_HIGH = 64 * 1024
"""Unsent bytes past which senders wait: enough to keep a socket busy while they wake."""

MAX_REQUEST_ID = 0xFFFF


class ValuesWanted:
    """A caller that waits for an FCGI_GET_VALUES_RESULT (§4.1)."""

    __slots__ = ("answered", "failure", "values")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.values: dict[bytes, bytes] = {}
        self.failure: Error | None = None


class ClientConnection:
    """The stream, the protocol and the exchanges on it.

    A single task writes, so that a cancelled sender never leaves part of a record on the wire;
    a single task reads. Neither raises on what a peer does: that becomes :attr:`failure`, and
    every exchange is told.
    """

    def __init__(self, stream: trio.abc.Stream, *, window: int) -> None:
        self.failure: Error | None = None
        self._stream = stream
        self._window = window
        self._protocol = Connection(Side.FRONT_END)
        self._wire = Wire(
            protocol=self._protocol,
            flush=self.flush,
            congested=lambda: self._writable and self._protocol.out_size >= OUT_HIGH,
            writable=lambda: self._writable,
            resized=self._resized,
        )
        self._exchanges: dict[int, Exchange] = {}
        self._wanted: deque[ValuesWanted] = deque()
        self._unsent = trio.Event()
        self._writable = True
        self._full: set[Exchange] = set()
        self._drained = trio.Event()

    @property
    def usable(self) -> bool:
        """Whether a new request could be sent."""
        return self.failure is None and self._writable

    def check_usable(self) -> None:
        """Raise when no new request can be sent."""
        if self.failure is not None:
            raise ConnectionLost(f"the connection has ended: {self.failure}") from self.failure
        if not self._writable:
            raise ConnectionLost("the application server takes no more input")

    def begin(
        self, pairs: Iterable[tuple[bytes, bytes]], role: Role, keep_connection: bool
    ) -> Exchange:
        """Queue FCGI_BEGIN_REQUEST and all params, under the lowest free request ID.

        Raises:
            ConnectionLost: the connection has ended.
            LocalProtocolError: all 65,535 request IDs are in use.
        """
        self.check_usable()
        request_id = self._free_id()
        self._protocol.begin_request(request_id, role, keep_connection)
        self._protocol.send_params(request_id, list(pairs))
        exchange = self._exchanges[request_id] = Exchange(request_id, role, self._wire)
        self.flush()
        return exchange

    def _free_id(self) -> int:
        for request_id in range(1, MAX_REQUEST_ID + 1):
            if request_id not in self._exchanges:
                return request_id
        raise LocalProtocolError("all 65,535 request IDs of this connection are in use")

    def ask_values(self, names: Iterable[bytes]) -> ValuesWanted:
        """Queue FCGI_GET_VALUES. Answers come in the order of the questions."""
        self.check_usable()
        self._protocol.get_values(list(names))
        wanted = ValuesWanted()
        self._wanted.append(wanted)
        self.flush()
        return wanted

    def flush(self) -> None:
        """Wake the writer."""
        self._unsent.set()

    async def write(self) -> None:
        """Write what is queued, whole records, until cancelled or the stream breaks."""
        try:
            while True:
                await self._unsent.wait()
                self._unsent = trio.Event()
                while chunks := self._protocol.data_to_send():
                    await self._stream.send_all(b"".join(chunks))
                    self._make_room()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Not the end of the connection: the server may have answered early and closed, and its
            # answer still waits to be read.
            self._writable = False
            self._protocol.data_to_send()
            self._make_room()

    def _make_room(self) -> None:
        for exchange in self._exchanges.values():
            exchange.make_room()

    def _resized(self, exchange: Exchange) -> None:
        size = exchange.stdout.size
        if size > self._window:
            self._full.add(exchange)
        elif exchange in self._full and size <= self._window // 2:
            self._full.remove(exchange)
            if not self._full:
                self._drained.set()

    async def read(self) -> None:
        """Read until cancelled, the end of the stream, or bytes that are not FastCGI.

        The stream is closed then: neither side has any more use for it.
        """
        try:
            await self._read_all()
            self._protocol.receive_eof()
            self.fail(ConnectionLost("the application server closed the connection"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            failure = ConnectionLost("the connection to the application server broke")
            failure.__cause__ = error
            self.fail(failure)
        except ProtocolError as error:
            # A server that cuts a response may say so with a record that does not exist, in
            # one piece with what came before it.
            for event in error.events:
                self._take(cast("Event", event))
            self.fail(error)
        await trio.aclose_forcefully(self._stream)

    async def _read_all(self) -> None:
        while True:
            while self._full:
                self._drained = trio.Event()
                await self._drained.wait()
            data = await self._stream.receive_some(RECEIVE)
            if not data:
                return
            for event in self._protocol.receive_data(data):
                self._take(event)

    def fail(self, failure: Error) -> None:
        """The connection is over: tell whoever waits for something from it."""
        if self.failure is None:
            self.failure = failure
        self._writable = False
        for exchange in self._exchanges.values():
            exchange.failed(failure)
        self._exchanges.clear()
        while self._wanted:
            wanted = self._wanted.popleft()
            wanted.failure = failure
            wanted.answered.set()

    def _take(self, event: Event) -> None:
        if self.failure is not None:
            return  # the client was closed with this on its way
        match event:
            case StdoutReceived(request_id, data):
                self._exchanges[request_id].stdout.feed(data)
            case StderrReceived(request_id, data):
                self._exchanges[request_id].stderr.feed(data)
            case RequestEnded(request_id, app_status, protocol_status):
                self._exchanges.pop(request_id).ended(Ending(app_status, protocol_status))
            case ValuesReceived(values):
                self._answer(dict(values))
            case UnknownTypeReceived(RecordType.GET_VALUES):
                # It knows no FCGI_GET_VALUES, so it has none of the values.
                self._answer({})
            case _:
                # The ends of the two output streams: FCGI_END_REQUEST is what counts.
                pass

    def _answer(self, values: dict[bytes, bytes]) -> None:
        if self._wanted:
            wanted = self._wanted.popleft()
            wanted.values = values
            wanted.answered.set()
