"""``trifcgi.Client``: what callers use."""

import copy
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

import trio

from trifcgi.client.connection import ClientConnection
from trifcgi.client.exchange import Exchange
from trifcgi.client.head import Response, split_response
from trifcgi.client.streams import InputStream, OutputStream
from trifcgi.errors import ConnectionLost, Error
from trifcgi.protocol import Role

__all__ = ["Client", "ParamsLike"]

ParamsLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""Params by name, or as pairs that may repeat a name. Strings become UTF-8 with
surrogateescape, so what ``Request.params`` gave goes out unchanged."""

CLOSE_TIMEOUT = 1.0
"""Seconds for closing the stream: a TLS stream says goodbye to a peer that may not listen."""


class Client:
    """The front end's side of FastCGI over one trio stream.

    An async context manager, which owns the stream: leaving closes it. Inside, any number of
    tasks may have requests on it at once, each under the lowest request ID that is free::

        async with trifcgi.Client(await trio.open_tcp_stream("127.0.0.1", 9000)) as client:
            response = await client.request({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/"})

    Whatever is cancelled inside, the records on the wire stay whole, and other requests go on.
    Methods raise :class:`~trifcgi.ConnectionLost` once the connection has ended, and
    ``trio.ClosedResourceError`` outside the block.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, window: int = 256 * 1024, abort_timeout: float = 2.0
    ) -> None:
        """Nothing is sent before the first request.

        Args:
            stream: a connected stream: a socket, TLS, memory.
            window: bytes of FCGI_STDOUT that one exchange may leave unread. Past it nothing
                more is read from the connection until the exchange has read half of them, or
                was left; so one that does not read holds up its neighbours. 1 or more.
            abort_timeout: seconds that leaving an unfinished exchange waits, shielded from
                cancellation, for FCGI_END_REQUEST. After that the request ID stays taken
                until it comes. 0 or more.
        """
        if window < 1:
            raise ValueError("window must be 1 byte or more")
        if not abort_timeout >= 0:
            raise ValueError("abort_timeout must be 0 or more seconds")
        self._stream = stream
        self._connection = ClientConnection(stream, window=window)
        self._abort_timeout = abort_timeout
        self._stack = AsyncExitStack()
        # Shielded, since a cancel from outside has to let aborts leave and their answers
        # arrive; leaving the block, which waits for those, cancels it.
        self._scope = trio.CancelScope(shield=True)
        self._entered = False
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Client can be entered only once")
        self._entered = True
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self._run, name="trifcgi client")
            stack.push_async_callback(self._close)
            self._stack = stack.pop_all()
        return self

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._connection.read, name="trifcgi client: read")
                nursery.start_soon(self._connection.write, name="trifcgi client: write")

    async def _close(self) -> None:
        self._closed = True
        self._connection.fail(ConnectionLost("the client was closed"))
        self._scope.cancel()
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._stream.aclose()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        # The block's own exception is not shown to the nursery: it would come back inside a
        # group, though no other task can have failed with it.
        return self._stack.aclose()

    @property
    def usable(self) -> bool:
        """Whether the connection is still open, as far as has been noticed."""
        return self._entered and not self._closed and self._connection.usable

    async def request(
        self,
        params: ParamsLike,
        body: bytes | bytearray | memoryview = b"",
        *,
        role: Role = Role.RESPONDER,
        keep_connection: bool = True,
        data: bytes | bytearray | memoryview = b"",
    ) -> Response:
        """Send one request and return the whole response, however large.

        Params go out as they are: a body does not set ``CONTENT_LENGTH``. The answer is
        read while the body is being sent, and may end before it (§6.2). Cancelling it aborts the
        request, as leaving :meth:`open` early does.

        Args:
            params: the params.
            body: FCGI_STDIN. Not sent to an authorizer.
            role: the role asked for.
            keep_connection: whether the server shall keep the connection open.
            data: FCGI_DATA, for a filter.

        Raises:
            ConnectionLost: the connection ended before the response did.
            ProtocolError: the server sent bytes that are not FastCGI.
            LocalProtocolError: all request IDs are in use.
        """
        async with self.open(params, role=role, keep_connection=keep_connection) as exchange:
            if body or data:
                output = await _send_and_receive(exchange, body, data)
            else:
                exchange.stdin.close()
                exchange.data.close()
                output = await _receive_all(exchange.stdout)
            ending = await exchange.wait_ended()
            head, content = split_response(output)
            return Response(
                status=head.status,
                reason=head.reason,
                headers=head.headers,
                body=content,
                stderr=await _receive_all(exchange.stderr),
                app_status=ending.app_status,
                protocol_status=ending.protocol_status,
            )

    @asynccontextmanager
    async def open(
        self, params: ParamsLike, *, role: Role = Role.RESPONDER, keep_connection: bool = True
    ) -> AsyncGenerator[Exchange]:
        """Begin a request, and give it as streams for the length of the block.

        Leaving the block before FCGI_END_REQUEST has come aborts the request (§5.4), and waits
        up to ``abort_timeout`` seconds, shielded, for the server to end it.

        Args:
            params: the params.
            role: the role asked for.
            keep_connection: whether the server shall keep the connection open.

        Raises:
            ConnectionLost: the connection has ended already.
            LocalProtocolError: all request IDs are in use.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        exchange = self._connection.begin(_encode(params), role, keep_connection)
        try:
            yield exchange
        finally:
            exchange.leave()
            if not exchange.over:
                with trio.move_on_after(self._abort_timeout, shield=True):
                    await exchange.wait_over()

    async def get_values(self, names: Iterable[str]) -> dict[str, str]:
        """Ask for variables (§4.1): ``FCGI_MAX_CONNS``, ``FCGI_MAX_REQS``, ``FCGI_MPXS_CONNS``.

        Returns:
            the ones that the server knows; nothing from a server without FCGI_GET_VALUES.

        Raises:
            ConnectionLost: the connection ended before the answer.
            ProtocolError: the server sent bytes that are not FastCGI.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        wanted = self._connection.ask_values([_bytes(name) for name in names])
        await wanted.answered.wait()
        if wanted.failure is not None:
            raise copy.copy(wanted.failure) from wanted.failure
        return {_str(name): _str(value) for name, value in wanted.values.items()}

    def _check_open(self) -> None:
        if not self._entered:
            raise RuntimeError("enter the Client first: async with Client(stream) as client")
        if self._closed:
            raise trio.ClosedResourceError("the client was closed")


async def _send_and_receive(
    exchange: Exchange,
    body: bytes | bytearray | memoryview,
    data: bytes | bytearray | memoryview,
) -> bytes:
    """Send both inputs while the output is read; return the output."""

    async def send() -> None:
        # Why it fails is the reader's to tell, and an early answer is no failure.
        with suppress(trio.BrokenResourceError, Error):
            await _send_whole(exchange.stdin, body)
            await _send_whole(exchange.data, data)

    output: bytes | Error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            output = await _receive_all(exchange.stdout)
        except Error as error:
            output = error  # raised below, where no group wraps it
        nursery.cancel_scope.cancel()
    if isinstance(output, Error):
        raise output
    return output


async def _send_whole(stream: InputStream, data: bytes | bytearray | memoryview) -> None:
    if not stream.closed:
        if data:
            await stream.send_all(data)
        stream.close()


async def _receive_all(stream: OutputStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def _encode(params: ParamsLike) -> list[tuple[bytes, bytes]]:
    pairs = params.items() if isinstance(params, Mapping) else params
    return [(_bytes(name), _bytes(value)) for name, value in pairs]


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"params are str or bytes, not {text!r}")


def _str(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
