"""One request as an ASGI application sees it: its ``receive`` and its ``send``."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from trifcgi.cgi import encode_head, is_bodyless
from trifcgi.errors import ResponseError

if TYPE_CHECKING:
    from trifcgi.request import Request

__all__ = ["ClientDisconnected", "Exchange", "Message"]

# The values of a message are whatever their key says: no closer type holds for them.
Message: TypeAlias = dict[str, Any]

# How far a response has come.
_NOTHING: Final = 0
_HEAD_HELD: Final = 1
_BODY: Final = 2
_COMPLETE: Final = 3


# A head as it is sent: whatever the application wrote, there is one line to a header.
_EVENT_STREAM: Final = re.compile(
    rb"^content-type:[ \t]*text/event-stream[ \t]*[;\r]", re.IGNORECASE | re.MULTILINE
)


class ClientDisconnected(OSError):
    """``send()`` was called after the front end aborted the request or went away.

    The subclass of ``OSError`` that ASGI's HTTP format asks for since 2.4. An application
    may catch it to clean up; when it lets it pass, that is no error of its own.
    """


class Exchange:
    """One request's ``receive`` and ``send``.

    Attributes:
        told: whether the application has learnt that its client is gone.
        told_to_end: whether an event stream has been told to end, as the server is stopping.
    """

    __slots__ = (
        "_body_ended",
        "_bodyless",
        "_head",
        "_left",
        "_listening",
        "_method",
        "_reading",
        "_request",
        "_stage",
        "told",
        "told_to_end",
    )

    def __init__(self, request: "Request", method: str) -> None:
        self._request = request
        self._method = method
        self._body_ended = False
        self._reading = False
        self._listening: list[trio.CancelScope] | None = None
        self._head = b""
        self._bodyless = False
        self._left: int | None = None
        self._stage = _NOTHING
        self.told = False
        self.told_to_end = False

    async def receive(self) -> Message:
        """The next body chunk; after the last, or a disconnect, ``http.disconnect``.

        To an application that sends an event stream the server's stop is a disconnect too,
        while ``send`` goes on taking what it has to say: it knows no other reason to end, and
        its client will connect again.

        What is there already is given without a checkpoint, even inside a cancelled scope:
        Starlette's ``is_disconnected()`` asks inside one.
        """
        if self._stage == _COMPLETE:
            return {"type": "http.disconnect"}
        request = self._request
        if request.aborted:
            return self._disconnect()
        if self._body_ended:
            return await self._wait_for_end()
        stdin = request.stdin
        self._reading = True
        try:
            chunk = await stdin.receive_some()
        except trio.BrokenResourceError:
            return self._disconnect()
        except trio.ClosedResourceError:
            # Closed by send(), as the response has become complete meanwhile.
            return {"type": "http.disconnect"}
        finally:
            self._reading = False
        # A stream that knows that this was the last chunk saves the application a round,
        # and serves the many that look at one message only.
        ended = not chunk or stdin.ended
        self._body_ended = ended
        return {"type": "http.request", "body": chunk, "more_body": not ended}

    def _disconnect(self) -> Message:
        self.told = True
        return {"type": "http.disconnect"}

    async def _wait_for_end(self) -> Message:
        """Return once the request is aborted or the response complete, or an event stream has
        to end.

        A nursery would lose the message: when an abort cancels the handler in the same
        moment, its exit raises Cancelled, where ``wait_aborted`` returns.
        """
        signal = self._request.stop_signal
        streams_events = self._streams_events
        if streams_events and signal.is_set():
            self.told_to_end = True
            return {"type": "http.disconnect"}
        if self._listening is None:
            self._listening = []
        with trio.CancelScope() as scope:
            self._listening.append(scope)
            if streams_events:
                signal.add_scope(scope)
            try:
                await self._request.wait_aborted()
            finally:
                self._listening.remove(scope)
                signal.discard_scope(scope)
        if self._request.aborted:
            return self._disconnect()
        if self._stage != _COMPLETE:
            self.told_to_end = True
        return {"type": "http.disconnect"}

    @property
    def _streams_events(self) -> bool:
        """Whether an event stream has begun: a response that ends when somebody ends it."""
        return _EVENT_STREAM.search(self._head) is not None

    async def send(self, message: Message) -> None:
        """Take ``http.response.start`` or ``http.response.body``.

        Raises:
            ClientDisconnected: the front end aborted the request or is gone.
            ResponseError: the message is out of order or not well-formed, or the body does not
                have the length that Content-Length says. What is beyond it is never sent.
        """
        if self._request.aborted:
            self.told = True
            raise ClientDisconnected("the client has disconnected")
        try:
            kind = message["type"]
        except (TypeError, LookupError):
            raise ResponseError(
                f"send() takes a message, a dict with a 'type', not {_brief(message)}"
            ) from None
        if kind != "http.response.body":
            self._start(message, kind)
            return
        stage = self._stage
        if stage == _NOTHING:
            raise ResponseError("'http.response.body' came before 'http.response.start'")
        if stage == _COMPLETE:
            raise ResponseError("'http.response.body' came after the response was complete")
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        more = message.get("more_body", False)
        if self._left is not None:
            self._left = _count(self._left, len(body), more)
        stdout = self._request.stdout
        try:
            if stage == _HEAD_HELD:
                stdout.send_head(self._head, bodyless=self._bodyless)
                self._stage = _BODY
            if body and not self._bodyless:
                await stdout.send_all(body)
        except trio.BrokenResourceError as error:
            self.told = True
            raise ClientDisconnected("the client has disconnected") from error
        if not more:
            self._stage = _COMPLETE
            # Background work after the response neither holds it back nor ends with the client.
            stdout.end()
            if self._listening or self._reading:
                await self._release()

    def _start(self, message: Message, kind: object) -> None:
        if kind != "http.response.start":
            raise ResponseError(
                f"send() got a message of type {kind!r}; over HTTP an app sends"
                " 'http.response.start' and 'http.response.body'"
            )
        if self._stage != _NOTHING:
            raise ResponseError("'http.response.start' came a second time in one response")
        if message.get("trailers"):
            raise ResponseError(
                "the app wants to send trailers, which FastCGI cannot carry"
                " (scope['extensions'] has no 'http.response.trailers')"
            )
        try:
            status = message["status"]
        except KeyError:
            raise ResponseError("'http.response.start' has no 'status'") from None
        headers = message.get("headers", ())
        if not isinstance(headers, (list, tuple)):
            headers = _as_list(headers)
        try:
            self._head = encode_head(status, headers)
            length = _content_length(headers)
        except (TypeError, ValueError, AttributeError) as error:
            raise _bad_start(status, headers) from error
        self._bodyless = is_bodyless(self._method, status)
        if not self._bodyless:
            self._left = length
        # The head waits for the first body bytes, to leave in one piece with them; until
        # then an error can still be answered properly.
        self._stage = _HEAD_HELD
        if self._listening and self._streams_events:
            for scope in self._listening:
                self._request.stop_signal.add_scope(scope)

    async def _release(self) -> None:
        """Let tasks that wait in ``receive`` go: the response is complete."""
        for scope in self._listening or ():
            scope.cancel(reason="the response is complete")
        if self._reading:
            # Nobody will want the rest of the body, and closing is what wakes its reader.
            await trio.aclose_forcefully(self._request.stdin)

    @property
    def complete(self) -> bool:
        """Whether the whole response has been sent."""
        return self._stage == _COMPLETE

    @property
    def ends_as_it_is(self) -> bool:
        """Whether the response, though not complete, is whole where it stands: an event stream
        that was told to end.
        """
        return self.told_to_end and self._stage != _COMPLETE and self._left is None

    async def end(self) -> None:
        """Send what the application has left out: the last, empty piece of the body.

        Raises:
            ClientDisconnected: the front end aborted the request or is gone.
        """
        await self.send({"type": "http.response.body"})

    def unfinished(self) -> ResponseError:
        """What to raise when the application has returned and the response is not complete."""
        if self._stage == _NOTHING:
            return ResponseError("the app returned without sending a response")
        if self._stage == _HEAD_HELD:
            return ResponseError("the app returned before it sent a response body")
        return ResponseError("the app returned before its response was complete")


def _count(left: int, size: int, more: bool) -> int:
    """Take ``size`` bytes off what Content-Length has left."""
    left -= size
    if left < 0:
        raise ResponseError(f"the body is longer than its Content-Length, by {-left} bytes so far")
    if left and not more:
        raise ResponseError(f"the body ended {left} bytes short of its Content-Length")
    return left


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    length = None
    for name, value in headers:
        if len(name) == 14 and name.lower() == b"content-length":
            if not value.isdigit():
                raise ResponseError(f"Content-Length is not a number of bytes: {value!r}")
            if length is not None and length != int(value):
                raise ResponseError("two Content-Length headers that differ")
            length = int(value)
    return length


def _as_list(headers: Any) -> list[Any]:
    try:
        return list(headers)
    except TypeError:
        raise ResponseError(
            f"the headers of a response are pairs of bytes, not {_brief(headers)}"
        ) from None


def _as_bytes(body: object) -> bytes:
    # Copied, as the application may change a buffer once send() has returned.
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ResponseError(f"the 'body' of 'http.response.body' is bytes, not {_brief(body)}")


def _bad_start(status: object, headers: Iterable[Any]) -> ResponseError:
    """Say what it is that made an ``http.response.start`` unusable."""
    if not isinstance(status, int):
        return ResponseError(f"the 'status' of a response is an int, not {_brief(status)}")
    for pair in headers:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            return ResponseError(f"a response header is a pair of bytes, not {_brief(pair)}")
        for part in pair:
            if not isinstance(part, bytes):
                return ResponseError(
                    f"name and value of a response header are bytes, not {_brief(part)}"
                )
    return ResponseError("the 'http.response.start' message cannot be understood")


def _brief(value: object) -> str:
    """Type and start of a value, for a message."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {sorted(map(str, value))}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
