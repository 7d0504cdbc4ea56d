"""HTTP/1.1 in front of a handler, without a front end (RFC 9112, by h11).

A request becomes the params that nginx would send, so a handler cannot tell the difference; what
it writes, a CGI response, becomes HTTP. Bodies and answers stream both ways.
"""

import logging
import math
import time
from collections.abc import Awaitable, Sequence
from email.utils import formatdate
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import attrs
import h11
import trio

from trifcgi.cgi import complete_head, end_of_head, error_response, is_bodyless
from trifcgi.errors import ResponseError
from trifcgi.failure import divide
from trifcgi.limits import Limits, Timeouts
from trifcgi.protocol.constants import Role
from trifcgi.request import Handler, Request, RequestStream, ResponseStream, StopSignal

__all__ = ["Endpoint", "serve_http"]

_log: Final = logging.getLogger("trifcgi.http")

_Buffer: TypeAlias = bytes | bytearray | memoryview
_Pairs: TypeAlias = list[tuple[bytes, bytes]]

_READ: Final = 64 * 1024
_HIGH_WATER: Final = 64 * 1024
_MAX_HEAD: Final = 128 * 1024

# The half-close at the end: how long the peer may take to close its own half (seconds).
_LINGER: Final = 2.0

# Where params of the same name would come from more than one header: nginx, too, drops names
# with an underscore, since HTTP_X_Y must mean X-Y and nothing else.
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


@attrs.frozen
class Endpoint:
    """Who talks to whom: for the params.

    Attributes:
        client: address and port of the peer; ``None`` on a Unix socket.
        server: the same of our side.
    """

    client: tuple[str, int] | None = None
    server: tuple[str, int] | None = None


async def serve_http(
    handler: Handler,
    stream: trio.abc.HalfCloseableStream,
    *,
    endpoint: Endpoint | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
) -> None:
    """Serve one HTTP/1.1 connection until it ends, and close the stream.

    A cancel closes it at once. Every request but a malformed one reaches the handler, whose
    failures end that request only.

    Args:
        handler: answers the requests; its roles and lifespan are the caller's business.
        stream: the connection.
        endpoint: who talks to whom.
        limits: ``max_params`` bounds the request head, ``max_body`` the body.
        timeouts: as for FastCGI; ``keep_alive`` also bounds the wait for the first request.
    """
    connection = _Connection(
        handler, stream, endpoint or Endpoint(), limits or Limits(), timeouts or Timeouts()
    )
    try:
        await connection.run()
    finally:
        await trio.aclose_forcefully(stream)


class _Connection:
    """One connection: requests one after the other, and a task that writes."""

    def __init__(
        self,
        handler: Handler,
        stream: trio.abc.HalfCloseableStream,
        endpoint: Endpoint,
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self.handler = handler
        self.stream = stream
        self.endpoint = endpoint
        self.limits = limits
        self.timeouts = timeouts
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_params)
        self.gone = False
        self.stopping = StopSignal()  # never set: what serves here ends by a cancel only
        self._out = bytearray()
        self._wake = trio.Event()
        self._sending = False
        self._progress = trio.lowlevel.ParkingLot()
        self._exchange: _Exchange | None = None
        self._method = b""  # of the request that is to be answered

    # What leaves

    def send(self, event: Any) -> None:  # Any: h11's events have no type in common
        """Queue an event; it leaves as soon as the writing task runs."""
        self.queue(self.protocol.send(event) or b"")

    def queue(self, data: bytes) -> None:
        """Queue bytes."""
        if data and not self.gone:
            self._out += data
            self._wake.set()

    async def wait_room(self) -> None:
        """Wait until not too much is unsent, or the peer is gone."""
        while len(self._out) > _HIGH_WATER and not self.gone:
            await self._progress.park()

    async def _wait_sent(self) -> None:
        while (self._out or self._sending) and not self.gone:
            await self._progress.park()

    async def _write(self) -> None:
        try:
            while True:
                if not self._out:
                    self._wake = trio.Event()
                    await self._wake.wait()
                data = bytes(self._out[:_HIGH_WATER])
                del self._out[: len(data)]
                self._sending = True
                with trio.fail_after(self.timeouts.write_timeout):
                    await self.stream.send_all(data)
                self._sending = False
                self._progress.unpark_all()
        except trio.TooSlowError:
            _log.warning("took no output for %g s; connection closed", self.timeouts.write_timeout)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.lose()

    def lose(self) -> None:
        """The peer is gone."""
        self.gone = True
        self._out.clear()
        self._progress.unpark_all()
        if self._exchange is not None:
            self._exchange.abort()

    # What comes

    async def receive(self) -> bool:
        """Read once; whether the peer is still there."""
        try:
            data = await self.stream.receive_some(_READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
            self.lose()
        self.protocol.receive_data(bytes(data))
        return bool(data)

    async def run(self) -> None:
        """Serve until either side has had enough."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, name="trifcgi http writer")
            await self._serve()
            with trio.move_on_after(self.timeouts.write_timeout):
                await self._wait_sent()
            await self._say_goodbye()
            nursery.cancel_scope.cancel(reason="the connection has ended")

    async def _say_goodbye(self) -> None:
        """Close our half, and wait a moment for the peer to close its own: a reset would overtake
        an answer that was given before the request was whole (RFC 9112 §9.6).
        """
        if self.gone:
            return
        with trio.move_on_after(_LINGER):  # noqa: ASYNC912 - all may be sent
            try:
                await self.stream.send_eof()
                while await self.stream.receive_some(_READ):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _serve(self) -> None:
        try:
            while not self.gone:
                # Requests that come ahead of time need not be waited for.
                await trio.lowlevel.checkpoint()
                request = await self._next_request()
                if request is None or not await self._answer(request):
                    return
                if self.protocol.their_state is not h11.DONE:
                    return
                if self.protocol.our_state is not h11.DONE:
                    return
                self.protocol.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self.refuse(error.error_status_hint or 400, f"{error}.")

    async def _next_request(self) -> h11.Request | None:
        self._method = b""
        with trio.move_on_after(self.timeouts.keep_alive) as patience:  # noqa: ASYNC912 - it may be here
            while (event := self.protocol.next_event()) is h11.NEED_DATA:
                began = bool(self.protocol.trailing_data[0])
                if not await self.receive() and self.gone:
                    return None
                if not began:
                    # The rest of a head has less time than its beginning.
                    limit = trio.current_time() + self.timeouts.read_timeout
                    patience.deadline = min(patience.deadline, limit)
            return event if isinstance(event, h11.Request) else None
        if self.protocol.trailing_data[0]:
            self.refuse(408, "The request did not arrive in time.")
        return None

    def refuse(self, status: int, why: str) -> None:
        """Answer by ourselves, and let the connection end."""
        if self.protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.gone:
            return
        head, _, body = error_response(status, why).partition(b"\r\n\r\n")
        code, reason, headers = _read_head(head)
        headers += [(b"connection", b"close"), (b"date", _date())]
        self.send(h11.Response(status_code=code, headers=headers, reason=reason))
        if self._method != b"HEAD":
            self.send(h11.Data(data=body))
        self.send(h11.EndOfMessage())

    async def _answer(self, message: h11.Request) -> bool:
        """Have one request answered; whether the connection can go on."""
        self._method = message.method
        if not message.http_version.startswith(b"1."):
            self.refuse(505, "This server speaks HTTP/1.1.")
            return False
        try:
            pairs = _params(message, self.endpoint)
        except ValueError as error:
            self.refuse(400, str(error))
            return False
        limit = self.limits.max_body
        if limit is not None and _announced(message) > limit:
            self.refuse(413, "The request's body is too large.")
            return False
        exchange = self._exchange = _Exchange(self, pairs, message)
        try:
            await exchange.run()
        finally:
            self._exchange = None
        return exchange.whole and not self.gone


class _Exchange(Request):
    """One request on an HTTP connection."""

    __slots__ = (
        "_abort_event",
        "_aborted",
        "_scope",
        "_stdin",
        "_stdout",
        "connection",
        "method",
        "over",
        "too_large",
        "whole",
    )

    def __init__(self, connection: _Connection, pairs: _Pairs, message: h11.Request) -> None:
        self.connection = connection
        self.id = 1
        self.role = Role.RESPONDER
        self.keep_connection = True
        self.pairs = pairs
        self._params = None
        self.method = message.method
        self.whole = False
        self.over = False
        self.too_large = False
        self._aborted = False
        self._abort_event = trio.Event()
        self._scope = trio.CancelScope()
        self._stdin = _Input(self)
        self._stdout = _Output(self)

    @property
    def stdin(self) -> "_Input":
        return self._stdin

    @property
    def data(self) -> RequestStream:
        return _Nothing()

    @property
    def stdout(self) -> "_Output":
        return self._stdout

    @property
    def stderr(self) -> trio.abc.SendStream:
        return _ErrorLog()

    @property
    def cancel_scope(self) -> trio.CancelScope:
        return self._scope

    @property
    def aborted(self) -> bool:
        return self._aborted

    async def wait_aborted(self) -> None:
        if not self._aborted:
            await self._abort_event.wait()

    @property
    def stop_signal(self) -> StopSignal:
        return self.connection.stopping

    def abort(self) -> None:
        """The client is gone: tell the handler, and cancel it after the grace."""
        if self._aborted or self.over:
            return
        self._aborted = True
        self._abort_event.set()
        grace = self.connection.timeouts.abort_grace
        if grace == 0:
            self._scope.cancel(reason="the client is gone")
        elif grace < math.inf:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace)

    async def run(self) -> None:
        """Call the handler and end the response, whatever comes of it."""
        failed = False
        async with trio.open_nursery() as watch:
            watch.start_soon(self._watch)
            with trio.move_on_after(self.connection.timeouts.request_timeout) as timeout:  # noqa: ASYNC912
                with self._scope:
                    try:
                        await _awaited(self.connection.handler(self))
                    except BaseException as error:  # noqa: ASYNC103 - what passes through is raised
                        own, passing = divide(error)
                        failed = own is not None and not self._aborted
                        if failed and not self.too_large:
                            _log.error("%a: the application failed", self.method, exc_info=own)
                        if passing is error:
                            raise
                        if passing is not None:
                            raise passing from None  # noqa: ASYNC104 - Cancelled is in it
            watch.cancel_scope.cancel(reason="the request has ended")
        self._end(failed, timed_out=timeout.cancelled_caught)

    def _end(self, failed: bool, *, timed_out: bool) -> None:
        if self.connection.gone or self.whole:
            return
        out = self._stdout
        if not out.begun:
            status, why = 500, "The application failed."
            if self.too_large:
                status, why = 413, "The request's body is too large."
            elif timed_out:
                status, why = 504, "The application took too long."
            elif self._scope.cancelled_caught:
                status, why = 503, "The request was cancelled."
            self.connection.refuse(status, why)
        elif not (failed or timed_out or self._scope.cancelled_caught):
            out.finish()
        # Otherwise the connection closes without the response's end, which says that it was cut.
        self.over = True

    async def _watch(self) -> None:
        """Notice a client that goes away while its request is being answered."""
        await self._stdin.wait_whole()
        # What comes now is the next request, which may come ahead of time (RFC 9112 §9.3.2);
        # one piece of it is taken, so that nobody can make us hold more.
        if not await self.connection.receive():
            self.connection.lose()


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable


class _Input(RequestStream):
    """The request's body."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._chunks: list[bytes] = []
        self._received = 0
        self._closed = False
        self._whole = trio.Event()
        self._reading = False
        self._take_ready()

    @property
    def ended(self) -> bool:
        return self._whole.is_set() and not self._chunks

    async def wait_whole(self) -> None:
        """Wait until all of it has arrived."""
        await self._whole.wait()

    def _take_ready(self) -> None:
        """Take what h11 holds already; most requests have no body, and end here."""
        protocol = self._exchange.connection.protocol
        while not self._whole.is_set():
            event = protocol.next_event()
            if isinstance(event, h11.Data):
                self._chunks.append(bytes(event.data))
                self._count(len(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._whole.set()
            else:
                return

    def _count(self, size: int) -> None:
        self._received += size
        limit = self._exchange.connection.limits.max_body
        if limit is not None and self._received > limit:
            self._exchange.too_large = True
            self._exchange.cancel_scope.cancel(reason="the body is too large")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, or ``b""`` after the last; see ``Request.stdin``."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._closed:
            raise trio.ClosedResourceError("this request stream is closed")
        while not self._chunks:
            if self._whole.is_set():
                return b""
            await self._receive_more()
        data = self._chunks.pop(0)
        if max_bytes is not None and len(data) > max_bytes:
            self._chunks.insert(0, data[max_bytes:])
            data = data[:max_bytes]
        return data

    async def _receive_more(self) -> None:
        if self._reading:
            raise trio.BusyResourceError("another task is already waiting for this input")
        connection = self._exchange.connection
        if connection.protocol.they_are_waiting_for_100_continue:
            connection.send(h11.InformationalResponse(status_code=100, headers=[]))
        self._reading = True
        try:
            with trio.move_on_after(connection.timeouts.read_timeout) as patience:
                alive = await connection.receive()
            if patience.cancelled_caught or not alive:
                connection.lose()
                raise trio.BrokenResourceError("the client went away before the body ended")
            self._take_ready()
        except h11.RemoteProtocolError as error:
            connection.lose()
            raise trio.BrokenResourceError(f"the body is malformed: {error}") from error
        finally:
            self._reading = False

    async def aclose(self) -> None:
        """Stop reading: the connection closes after the response, where more would come."""
        self._closed = True
        self._chunks.clear()
        await trio.lowlevel.checkpoint()


class _Nothing(RequestStream):
    """The second stream that only filters have."""

    @property
    def ended(self) -> bool:
        return True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Always the end."""
        return b""

    async def aclose(self) -> None:
        """A checkpoint and nothing else."""
        await trio.lowlevel.checkpoint()


class _Output(ResponseStream):
    """The response: a CGI head, then the body."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._held = bytearray()
        self._begun = False
        self._bodyless = False
        self._closed = False

    @property
    def begun(self) -> bool:
        return self._begun

    def send_head(self, head: bytes, *, bodyless: bool = False) -> None:
        if self._begun or self._held:
            raise ResponseError("the response head has been sent already")
        self._check()
        self._begin(head, bodyless)

    def _check(self) -> None:
        exchange = self._exchange
        if exchange.aborted or exchange.connection.gone:
            raise trio.BrokenResourceError("the client is gone")
        if self._closed or exchange.over:
            raise trio.ClosedResourceError("this request has ended")

    def _begin(self, head: bytes, bodyless: bool) -> None:
        connection = self._exchange.connection
        status, reason, headers = _read_head(head)
        self._bodyless = bodyless or is_bodyless(self._exchange.method, status)
        if not any(name == b"date" for name, _ in headers):
            headers.append((b"date", _date()))
        if connection.protocol.their_state not in (h11.DONE, h11.MUST_CLOSE):
            # A body that nobody has read to its end stands between this and the next request.
            headers.append((b"connection", b"close"))
        self._begun = True
        try:
            connection.send(h11.Response(status_code=status, headers=headers, reason=reason))
        except h11.LocalProtocolError as error:
            raise ResponseError(f"HTTP cannot carry this response head: {error}") from error

    async def send_all(self, data: _Buffer) -> None:
        """Send response bytes; see :class:`~trifcgi.request.ResponseStream`."""
        self._check()
        body = bytes(data)
        if not self._begun:
            body = self._take_head(body)
        if body and not self._bodyless:
            try:
                self._exchange.connection.send(h11.Data(data=body))
            except h11.LocalProtocolError as error:
                raise ResponseError(f"the body does not fit its head: {error}") from error
        await self._exchange.connection.wait_room()
        self._check()

    def _take_head(self, data: bytes) -> bytes:
        start = max(0, len(self._held) - 3)
        self._held += data
        end = end_of_head(self._held, start)
        if end < 0:
            if len(self._held) > _MAX_HEAD:
                raise ResponseError(
                    f"no blank line ends the response head within {_MAX_HEAD} bytes"
                )
            return b""
        head, _ = complete_head(bytes(self._held[:end]))
        body = bytes(self._held[end:])
        self._held.clear()
        self._begin(head, bodyless=False)
        return body

    async def wait_send_all_might_not_block(self) -> None:
        """Return once a small ``send_all`` would not wait."""
        await self._exchange.connection.wait_room()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """End the response; the handler may go on."""
        self.end()
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        if self._begun and not self._closed and not self._exchange.aborted:
            self.finish()

    def finish(self) -> None:
        """The response is whole."""
        if self._closed:
            return
        self._closed = True
        exchange = self._exchange
        try:
            exchange.connection.send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            # Fewer bytes than the head has promised. The connection closes, which says so.
            _log.error("%a: the response is not whole: %s", exchange.method, error)
            return
        exchange.whole = exchange.over = True


class _ErrorLog(trio.abc.SendStream):
    """Without a front end stderr goes to our own log."""

    async def send_all(self, data: _Buffer) -> None:
        """Log the lines."""
        for line in bytes(data).decode("utf-8", "backslashreplace").splitlines():
            _log.warning("%s", line)
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """A checkpoint: it never blocks."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """A checkpoint and nothing else."""
        await trio.lowlevel.checkpoint()


def _date() -> bytes:
    return formatdate(time.time(), usegmt=True).encode()


def _read_head(head: bytes) -> tuple[int, bytes, _Pairs]:
    """Take a finished CGI head apart: status, reason, and the other fields in lower case."""
    status, reason = 200, b"OK"
    headers = []
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        if name.lower() == b"status":
            code, _, reason = value.strip().partition(b" ")
            status = int(code)
        else:
            headers.append((name.lower(), value.strip()))
    return status, reason, headers


def _params(message: h11.Request, endpoint: Endpoint) -> _Pairs:
    """The params that nginx sends with SCRIPT_NAME empty and PATH_INFO the whole path.

    Raises:
        ValueError: the target is no path; the message is a sentence.
    """
    target = bytes(message.target)
    if not target.startswith(b"/"):
        # The absolute form, which clients send to proxies (RFC 9112 §3.2.2).
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise ValueError("The request target is neither a path nor an http URL.")
        target = b"/" + rest.partition(b"/")[2]
    path, _, query = target.partition(b"?")
    pairs: _Pairs = [
        (b"GATEWAY_INTERFACE", b"CGI/1.1"),
        (b"SERVER_PROTOCOL", b"HTTP/" + bytes(message.http_version)),
        (b"REQUEST_METHOD", bytes(message.method)),
        (b"REQUEST_SCHEME", b"http"),
        (b"REQUEST_URI", target),
        (b"SCRIPT_NAME", b""),
        (b"PATH_INFO", unquote_to_bytes(path)),
        (b"QUERY_STRING", query),
        *_addresses(endpoint),
    ]
    return pairs + _header_params(message.headers)


def _announced(message: h11.Request) -> int:
    """The length that the body is to have; h11 lets only one through, and only digits."""
    return next((int(v) for name, v in message.headers if name == b"content-length"), 0)


def _addresses(endpoint: Endpoint) -> _Pairs:
    pairs: _Pairs = []
    if endpoint.client is not None:
        host, port = endpoint.client
        pairs += [(b"REMOTE_ADDR", host.encode()), (b"REMOTE_PORT", b"%d" % port)]
    if endpoint.server is not None:
        host, port = endpoint.server
        pairs += [
            (b"SERVER_ADDR", host.encode()),
            (b"SERVER_NAME", host.encode()),
            (b"SERVER_PORT", b"%d" % port),
        ]
    return pairs


def _header_params(headers: Sequence[tuple[bytes, bytes]]) -> _Pairs:
    pairs = []
    for name, value in headers:
        if name in (b"content-type", b"content-length"):
            pairs.append((name.upper().replace(b"-", b"_"), value))
        elif _PLAIN.issuperset(name) and name not in (b"proxy", b"transfer-encoding"):
            pairs.append((b"HTTP_" + name.upper().replace(b"-", b"_"), value))
    return pairs
