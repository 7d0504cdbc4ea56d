"""A whole :class:`trifcgi.request.Request` in memory, for tests of the adapters.

It keeps every promise that adapters rest on (what is buffered is given without a
checkpoint; a broken stdin is never a short one; a task in ``wait_aborted`` returns although
its scope is cancelled in the same moment), and nothing else: no records, no connection.
"""

from collections.abc import Iterable, Mapping

import attrs
import trio

from trifcgi.errors import ResponseError
from trifcgi.protocol.constants import Role
from trifcgi.request import Handler, Request, RequestStream, ResponseStream, StopSignal

__all__ = ["MemoryInput", "MemoryOutput", "MemoryRequest", "MemoryResponse", "params"]

PLAIN_PARAMS = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/",
    "SCRIPT_NAME": "/",
    "QUERY_STRING": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "example.org",
    "SERVER_PORT": "80",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_PORT": "40000",
    "HTTP_HOST": "example.org",
}


def params(
    method: str = "GET", target: str = "/", extra: Mapping[str, str] | None = None
) -> list[tuple[bytes, bytes]]:
    """What nginx's stock ``fastcgi_params`` make of one request: the whole decoded path is
    SCRIPT_NAME and there is no PATH_INFO. ``extra`` replaces and adds."""
    path, _, query = target.partition("?")
    values = PLAIN_PARAMS | {
        "REQUEST_METHOD": method,
        "REQUEST_URI": target,
        "SCRIPT_NAME": path,
        "QUERY_STRING": query,
        **(extra or {}),
    }
    return [
        (name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in values.items()
    ]


@attrs.define
class MemoryResponse:
    """What a client would read out of the bytes that an adapter wrote."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The last header of that name, whatever its case."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[-1] if found else None


class MemoryInput(RequestStream):
    """``stdin`` or ``data``: fed by the test, chunk by chunk, and ended or broken by it."""

    def __init__(self, chunks: Iterable[bytes] = (), *, ended: bool = True) -> None:
        self._chunks = [bytes(chunk) for chunk in chunks if chunk]
        self._ended = ended
        self._broken = False
        self._closed = False
        self._lot = trio.lowlevel.ParkingLot()
        self._busy = False

    @property
    def ended(self) -> bool:
        """Whether the end has come and all that came before it was received."""
        return self._ended and not self._chunks

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._lot.unpark_all()

    def end(self) -> None:
        self._ended = True
        self._lot.unpark_all()

    def break_off(self) -> None:
        """The front end is gone: what has not ended will never end."""
        if not self._ended:
            self._broken = True
            self._chunks.clear()
        self._lot.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._busy:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._busy = True
        try:
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("the stream was closed")
                if self._broken:
                    raise trio.BrokenResourceError("the front end went away")
                if self._chunks:
                    return self._take(max_bytes)
                if self._ended:
                    return b""
                await self._lot.park()
        finally:
            self._busy = False

    def _take(self, max_bytes: int | None) -> bytes:
        chunk = self._chunks.pop(0)
        if max_bytes is not None and len(chunk) > max_bytes:
            self._chunks.insert(0, chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        return chunk

    async def aclose(self) -> None:
        self._closed = True
        self._lot.unpark_all()
        await trio.lowlevel.checkpoint()


class MemoryOutput(ResponseStream):
    """``stdout`` or ``stderr``: collects what is written, and can be held back.

    Attributes:
        writes: every piece handed over, in order; a head from ``send_head`` is one.
        closed: whether ``aclose`` was called.
        finished: whether ``end`` was called.
    """

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False
        self.finished = False
        self._broken = False
        self._head: bytes | None = None
        self._bodyless = False
        self._open = trio.Event()
        self._open.set()

    @property
    def begun(self) -> bool:
        return bool(self.writes)

    @property
    def sent(self) -> bytes:
        """All of it, head and body."""
        return b"".join(self.writes)

    def block(self) -> None:
        """From now on ``send_all`` waits, as it does when too much is unsent."""
        self._open = trio.Event()

    def unblock(self) -> None:
        self._open.set()

    def break_off(self) -> None:
        self._broken = True
        self._open.set()

    def send_head(self, head: bytes, *, bodyless: bool = False) -> None:
        if self.begun:
            raise ResponseError("a response head has been sent before")
        self._bodyless = bodyless
        self.writes.append(head)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the stream was closed")
        if not self._open.is_set():
            await self._open.wait()
        if self._broken:
            raise trio.BrokenResourceError("the front end went away")
        if data and not self._bodyless:
            self.writes.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        if not self._open.is_set():
            await self._open.wait()

    async def aclose(self) -> None:
        # No checkpoint, as in the server: ending the response must not cost a pass of the
        # scheduler, nor be lost in a cancelled scope.
        self.closed = True

    def end(self) -> None:
        self.finished = True

    def parse(self) -> MemoryResponse:
        """The response as a front end would take it."""
        head, blank, body = self.sent.partition(b"\r\n\r\n")
        assert blank, f"no response head in {self.sent!r}"
        headers = [
            (name, value.strip())
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")
            )
        ]
        status = next((value for name, value in headers if name.lower() == "status"), "200 OK")
        return MemoryResponse(
            status=int(status.split()[0]),
            headers=[(name, value) for name, value in headers if name.lower() != "status"],
            body=body,
        )


class MemoryRequest(Request):
    """A request that a test makes, watches and aborts.

    Args:
        pairs: the params; :func:`params` makes usual ones.
        body: the chunks in which the body arrives.
        ended: whether the body's end has come with them.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[bytes, bytes]] | None = None,
        *,
        body: bytes | Iterable[bytes] = (),
        ended: bool = True,
        role: Role = Role.RESPONDER,
    ) -> None:
        self.id = 1
        self.role = role
        self.keep_connection = True
        self.pairs = list(params() if pairs is None else pairs)
        self._stdin = MemoryInput([body] if isinstance(body, bytes) else body, ended=ended)
        self._data = MemoryInput()
        self._stdout = MemoryOutput()
        self._stderr = MemoryOutput()
        self._cancel_scope = trio.CancelScope()
        self._aborted = trio.Event()
        self._stop_signal = StopSignal()

    @property
    def stdin(self) -> MemoryInput:
        return self._stdin

    @property
    def data(self) -> MemoryInput:
        return self._data

    @property
    def stdout(self) -> MemoryOutput:
        return self._stdout

    @property
    def stderr(self) -> MemoryOutput:
        return self._stderr

    @property
    def cancel_scope(self) -> trio.CancelScope:
        return self._cancel_scope

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    async def wait_aborted(self) -> None:
        if not self._aborted.is_set():
            await self._aborted.wait()

    @property
    def stop_signal(self) -> StopSignal:
        return self._stop_signal

    def abort(self, *, cancel: bool = True) -> None:
        """The front end aborts: tell whoever waits, break the streams, then cancel.

        ``cancel=False`` is the ``--abort-grace`` case: told, but not yet cancelled.
        """
        self._aborted.set()
        self._stdin.break_off()
        self._data.break_off()
        self._stdout.break_off()
        self._stderr.break_off()
        if cancel:
            self._cancel_scope.cancel()

    async def run(self, handler: Handler) -> int | None:
        """Call the handler inside the request's scope, as the server does. What it raises
        comes out; a cancel of the scope ends here."""
        with self._cancel_scope:
            return await handler(self)
        return None

    @property
    def response(self) -> MemoryResponse:
        """What was answered."""
        return self._stdout.parse()
