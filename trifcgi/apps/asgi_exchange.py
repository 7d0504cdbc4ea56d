"""One request as an ASGI application sees it: what becomes of its messages.

Compiled, and so without a coroutine: the ``receive`` and ``send`` that an application is given
stand in :mod:`trifcgi.apps.asgi_messages`. What comes from the application is ``Any`` here, since
compiled code insists on what is declared, and the sentence about what is wrong with it is to
be ours.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from trifcgi.apps.disconnected import ClientDisconnected
from trifcgi.cgi.head import encode_head, is_bodyless
from trifcgi.cgi.meaning import Meaning
from trifcgi.errors import ResponseError

if TYPE_CHECKING:
    from trifcgi.request import Request

__all__ = ["Exchange", "Message", "make_scope"]

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


class Exchange:
    """One request's messages.

    Attributes:
        request: which one.
        body_ended: whether the application has been given all of the body.
        reading: whether a task waits for more of it.
        listening: the scopes of those that wait for the end; ``None``: nobody ever has.
        pending: a piece of the response that :meth:`take` has left to be sent.
        told: whether the application has learnt that its client is gone.
        told_to_end: whether an event stream has been told to end, as the server is stopping.
    """

    __slots__ = (
        "_bodyless",
        "_head",
        "_last",
        "_left",
        "_method",
        "_stage",
        "body_ended",
        "listening",
        "pending",
        "reading",
        "request",
        "told",
        "told_to_end",
    )

    def __init__(self, request: "Request", method: str) -> None:
        self.request = request
        self._method = method
        self.body_ended = False
        self.reading = False
        self.listening: list[trio.CancelScope] | None = None
        self.pending = b""
        self._last = False
        self._head = b""
        self._bodyless = False
        self._left: int | None = None
        self._stage = _NOTHING
        self.told = False
        self.told_to_end = False

    def disconnect(self) -> Message:
        """The message that says that the client is gone."""
        self.told = True
        return {"type": "http.disconnect"}

    def lost(self) -> ClientDisconnected:
        """What to raise where a message cannot be sent any more."""
        self.told = True
        return ClientDisconnected("the client has disconnected")

    @property
    def streams_events(self) -> bool:
        """Whether an event stream has begun: a response that ends when somebody ends it."""
        return _EVENT_STREAM.search(self._head) is not None

    def take(self, message: Any) -> bool:
        """Take ``http.response.start`` or ``http.response.body``.

        Returns:
            Whether all is done; else :attr:`pending` has to be sent, and :meth:`sent` called.

        Raises:
            ClientDisconnected: the front end aborted the request or is gone.
            ResponseError: the message is out of order or not well-formed, or the body does not
                have the length that Content-Length says. What is beyond it is never sent.
        """
        request = self.request
        if request.aborted:
            raise self.lost()
        try:
            kind = message["type"]
        except (TypeError, LookupError):
            raise ResponseError(
                f"send() takes a message, a dict with a 'type', not {_brief(message)}"
            ) from None
        if kind != "http.response.body":
            self._start(message, kind)
            return True
        stage = self._stage
        if stage == _NOTHING:
            raise ResponseError("'http.response.body' came before 'http.response.start'")
        if stage == _COMPLETE:
            raise ResponseError("'http.response.body' came after the response was complete")
        given = message.get("body", b"")
        body: bytes = given if type(given) is bytes else _as_bytes(given)
        more = bool(message.get("more_body", False))
        if self._left is not None:
            self._left = _count(self._left, len(body), more)
        if self._bodyless:
            body = b""
        try:
            if stage == _HEAD_HELD:
                if not more and request.respond(self._head, body, bodyless=self._bodyless):
                    self._stage = _COMPLETE
                    return not (self.listening or self.reading)
                request.stdout.send_head(self._head, bodyless=self._bodyless)
                self._stage = _BODY
        except trio.BrokenResourceError as error:
            raise self.lost() from error
        self.pending = body
        self._last = not more
        return False

    def sent(self) -> None:
        """:attr:`pending` has been sent."""
        self.pending = b""
        if self._last:
            self._last = False
            self._stage = _COMPLETE
            # Background work after the response neither holds it back nor ends with the client.
            self.request.stdout.end()

    def _start(self, message: Any, kind: object) -> None:
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
            lengths: list[Any] = []
            self._head = encode_head(status, headers, lengths=lengths)
            length = _content_length(lengths) if lengths else None
        except (TypeError, ValueError, AttributeError) as error:
            raise _bad_start(status, headers) from error
        if not isinstance(status, int):  # 200.0, say, which is found where 200 is
            raise _bad_start(status, headers)
        self._bodyless = is_bodyless(self._method, status)
        if not self._bodyless:
            self._left = length
        # The head waits for the first body bytes, to leave in one piece with them; until
        # then an error can still be answered properly.
        self._stage = _HEAD_HELD
        if self.listening and self.streams_events:
            for scope in self.listening:
                self.request.stop_signal.add_scope(scope)

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


def _content_length(values: list[Any]) -> int | None:
    length: int | None = None
    for value in values:
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


def _as_bytes(body: Any) -> bytes:
    # Copied, as the application may change a buffer once send() has returned.
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ResponseError(f"the 'body' of 'http.response.body' is bytes, not {_brief(body)}")


def _bad_start(status: object, headers: Any) -> ResponseError:
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


def make_scope(meaning: Meaning, extensions: dict[str, Any]) -> dict[str, Any]:
    """The connection scope of a request (HTTP message format 2.5)."""
    # A copy of the whole and then its values: a dict that grows costs twice as much.
    scope = _SCOPE.copy()
    scope["asgi"] = _ASGI.copy()
    scope["http_version"] = meaning.http_version
    scope["method"] = meaning.method
    scope["scheme"] = meaning.scheme
    scope["path"] = meaning.path
    scope["raw_path"] = meaning.raw_path
    scope["query_string"] = meaning.query_string
    scope["root_path"] = meaning.root_path
    scope["headers"] = meaning.headers
    scope["client"] = meaning.client
    scope["server"] = meaning.server
    scope["extensions"] = extensions
    return scope


_ASGI: Final[dict[str, Any]] = {"version": "3.0", "spec_version": "2.5"}
_SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "asgi": None,
    "http_version": None,
    "method": None,
    "scheme": None,
    "path": None,
    "raw_path": None,
    "query_string": None,
    "root_path": None,
    "headers": None,
    "client": None,
    "server": None,
    "extensions": None,
}
