"""One request as an ASGI application sees it: what becomes of its messages.

Compiled, and so without a coroutine: what waits in the ``receive`` and ``send`` that an
application is given stands in :mod:`trifcgi.apps.asgi_messages`. What comes from the application
is ``Any`` here, since compiled code insists on what is declared, and the sentence about what is
wrong with it is to be ours.
"""

import re
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from trifcgi.apps import asgi_messages
from trifcgi.apps.disconnected import ClientDisconnected
from trifcgi.attempt import DONE, Attempt
from trifcgi.cgi import target
from trifcgi.cgi.head import Head, encode_head, usual_head
from trifcgi.cgi.known import PATH_INFO, QUERY_STRING, REQUEST_URI, SCRIPT_NAME
from trifcgi.cgi.meaning import Meaning, client_of, cut_of, headers_of, server_of, text_of
from trifcgi.cgi.reading import Reading, read_pairs, read_params
from trifcgi.errors import ResponseError
from trifcgi.served import Served

if TYPE_CHECKING:
    from trifcgi.request import Request, StopSignal

__all__ = ["Exchange", "Exchanges", "Message", "Scope", "Sending"]

# The values are whatever their key says, and middleware adds keys of its own: no closer type
# holds for them.
Message: TypeAlias = dict[str, Any]
Scope: TypeAlias = dict[str, Any]

_DONE: Final = DONE

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
    """One request's messages. Compiled, to call it is the application's ``send``; in pure Python
    that is :func:`trifcgi.apps.asgi_messages.send`.

    Attributes:
        request: which one.
        scope: the application's, until it is called.
        body_ended: whether the application has been given all of the body.
        complete: whether the whole response has been sent.
        reading: whether a task waits for more of it.
        listening: the scopes of those that wait for the end; ``None``: nobody ever has.
        pending: a piece of the response that :meth:`take` has left to be sent.
        sending: whether a task sends it: others have to wait for their turn.
        turn: where they do; ``None``: nobody ever had to.
        told: whether the application has learnt that its client is gone.
        told_to_end: whether an event stream has been told to end, as the server is stopping.
    """

    # There is no __init__(), as each request would pay for its call: Exchanges.begin() sets all.
    # Defaults of the class would be read at three times the cost of a slot.
    __slots__ = (
        "_bodyless",
        "_head",
        "_last",
        "_left",
        "_method",
        "_served",
        "_stage",
        "body_ended",
        "complete",
        "listening",
        "pending",
        "reading",
        "request",
        "scope",
        "sending",
        "told",
        "told_to_end",
        "turn",
    )

    request: "Request"
    scope: Scope | None
    body_ended: bool
    complete: bool
    reading: bool
    listening: list[trio.CancelScope] | None
    pending: bytes
    sending: bool
    turn: trio.lowlevel.ParkingLot | None
    told: bool
    told_to_end: bool
    _served: Served | None
    _method: str
    _stage: int
    _head: bytes
    _bodyless: bool
    _left: int  # of Content-Length; -1: there is none
    _last: bool

    def receive(self) -> Coroutine[Any, Any, Message]:
        """The application's ``receive``."""
        return asgi_messages.receive(self)

    def __call__(self, message: Any) -> "Sending":
        """The application's ``send``, compiled."""
        sending = Sending()
        sending.begun = False
        sending.waiting = None
        sending.exchange = self
        sending.message = message
        return sending

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
            Whether all is done; else :attr:`pending` has to be sent, and :meth:`sent` called,
            before the next is taken.

        Raises:
            ClientDisconnected: the front end aborted the request or is gone.
            ResponseError: the message is out of order or not well-formed, or the body does not
                have the length that Content-Length says. What is beyond it is never sent.
        """
        served = self._served
        if self.request.aborted if served is None else served.aborted_:
            raise self.lost()
        if type(message) is dict:
            fields: Message = message
            kind = fields.get("type")
        else:
            fields, kind = _as_dict(message)
        if kind != "http.response.body":
            if kind != "http.response.start":
                raise _no_such_message(kind) if "type" in fields else _no_message(message)
            self._start(fields)
            return True
        stage = self._stage
        if stage != _HEAD_HELD:
            _check_order(stage)
        given = fields.get("body", b"")
        body: bytes = given if type(given) is bytes else _as_bytes(given)
        last = not fields.get("more_body", False)
        left = self._left
        if left >= 0:
            size = len(body)
            self._left = 0 if size == left and last else _count(left, size, last)
        if self._bodyless:
            body = b""
        try:
            if stage == _HEAD_HELD:
                if last and (
                    self._respond(body)
                    if served is None
                    else served.respond(self._head, body, bodyless=self._bodyless)
                ):
                    self._stage = _COMPLETE
                    self.complete = True
                    return not (self.listening or self.reading)
                self.request.stdout.send_head(self._head, bodyless=self._bodyless)
                self._stage = _BODY
        except trio.BrokenResourceError as error:
            raise self.lost() from error
        self.pending = body
        self._last = last
        return False

    def _respond(self, body: bytes) -> bool:
        if self._bodyless:
            return self.request.respond(self._head, body, bodyless=True)
        return self.request.respond(self._head, body)

    def sent(self) -> None:
        """:attr:`pending` has been sent."""
        self.pending = b""
        if self._last:
            self._last = False
            self._stage = _COMPLETE
            self.complete = True
            # Background work after the response neither holds it back nor ends with the client.
            self.request.stdout.end()

    def _start(self, message: Message) -> None:
        if self._stage != _NOTHING:
            raise ResponseError("'http.response.start' came a second time in one response")
        if message.get("trailers"):
            raise ResponseError(
                "the app wants to send trailers, which FastCGI cannot carry"
                " (scope['extensions'] has no 'http.response.trailers')"
            )
        status: Any = message.get("status")
        if status is None and "status" not in message:
            raise ResponseError("'http.response.start' has no 'status'")
        headers = message.get("headers", ())
        head = usual_head(status, headers)
        if head is None:
            head = _odd_head(status, headers)
        self._head = head.data
        if head.bodyless or self._method == "HEAD":
            self._bodyless = True
        else:
            self._left = head.content_length
        # The head waits for the first body bytes, to leave in one piece with them; until
        # then an error can still be answered properly.
        self._stage = _HEAD_HELD
        if self.listening and self.streams_events:
            for scope in self.listening:
                self.request.stop_signal.add_scope(scope)

    @property
    def ends_as_it_is(self) -> bool:
        """Whether the response, though not complete, is whole where it stands: an event stream
        that was told to end.
        """
        return self.told_to_end and not self.complete and self._left < 0

    def unfinished(self) -> ResponseError:
        """What to raise when the application has returned and the response is not complete."""
        if self._stage == _NOTHING:
            return ResponseError("the app returned without sending a response")
        if self._stage == _HEAD_HELD:
            return ResponseError("the app returned before it sent a response body")
        return ResponseError("the app returned before its response was complete")


def _check_order(stage: int) -> None:
    """Raise what a piece of the body has to raise that may not come now."""
    if stage == _NOTHING:
        raise ResponseError("'http.response.body' came before 'http.response.start'")
    if stage == _COMPLETE:
        raise ResponseError("'http.response.body' came after the response was complete")


def _count(left: int, size: int, last: bool) -> int:
    """Take ``size`` bytes off what Content-Length has left."""
    left -= size
    if left < 0:
        raise ResponseError(f"the body is longer than its Content-Length, by {-left} bytes so far")
    if left and last:
        raise ResponseError(f"the body ended {left} bytes short of its Content-Length")
    return left


def _odd_head(status: Any, headers: Any) -> Head:
    if not isinstance(headers, (list, tuple)):
        headers = _as_list(headers)
    lengths: list[Any] = []
    try:
        data = encode_head(status, headers, lengths=lengths)
        head = Head(data, _content_length(lengths), status)
    except (TypeError, ValueError, AttributeError) as error:
        raise _bad_start(status, headers) from error
    if not isinstance(status, int):  # 200.0, say, which is found where 200 is
        raise _bad_start(status, headers)
    return head


def _content_length(values: list[Any]) -> int:
    length = -1
    for value in values:
        if not value.isdigit():
            raise ResponseError(f"Content-Length is not a number of bytes: {value!r}")
        if 0 <= length != int(value):
            raise ResponseError("two Content-Length headers that differ")
        length = int(value)
    return length


def _as_dict(message: Any) -> tuple[Message, Any]:
    """A message that is something else than a dict, and its type."""
    try:
        return dict(message), message["type"]
    except (TypeError, ValueError, LookupError):
        raise _no_message(message) from None


def _no_message(message: Any) -> ResponseError:
    return ResponseError(f"send() takes a message, a dict with a 'type', not {_brief(message)}")


def _no_such_message(kind: Any) -> ResponseError:
    return ResponseError(
        f"send() got a message of type {kind!r}; over HTTP an app sends"
        " 'http.response.start' and 'http.response.body'"
    )


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


class Sending(Attempt):
    """What ``send`` returns, compiled."""

    __slots__ = ("exchange", "message")

    exchange: Exchange
    message: Any

    def name(self) -> str:
        return "send()"

    def __await__(self) -> Any:
        if self.begun:
            raise self.reused()
        self.begun = True
        exchange = self.exchange
        if exchange.sending:
            return self.wait(asgi_messages.send(exchange, self.message))
        if exchange.take(self.message):
            return _DONE
        return self.wait(asgi_messages.finish(exchange))


class Exchanges:
    """Begins the exchanges of one application.

    Attributes:
        state: the lifespan's; ``None`` without one.
    """

    __slots__ = ("_extensions", "_mount", "_signal", "state")

    def __init__(self, mount: str | None) -> None:
        self._mount = mount
        self._signal: Any = None
        self._extensions: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None

    def begin(self, request: Any) -> Exchange:
        """Begin a request's.

        Raises:
            BadParams: the params make no request.
        """
        signal: Any
        served: Served | None = None
        reading: Reading | None
        if isinstance(request, Served):
            served = request
            signal = served.stop_signal
            reading = served.reading
            if reading is None:
                reading = read_params(served.block, len(served.block))
        else:
            block, signal = request.block, request.stop_signal
            reading = read_params(block, len(block)) if block else read_pairs(request.pairs)
        if signal is not self._signal:
            self._extend(signal)
        scope = self._make_scope(reading)
        exchange = Exchange()
        exchange.request = request
        exchange.body_ended = False
        exchange.complete = False
        exchange.reading = False
        exchange.listening = None
        exchange.pending = b""
        exchange.sending = False
        exchange.turn = None
        exchange.told = False
        exchange.told_to_end = False
        exchange._served = served
        exchange.scope = scope
        exchange._method = scope["method"]
        exchange._stage = _NOTHING
        exchange._head = b""
        exchange._bodyless = False
        exchange._left = -1
        exchange._last = False
        return exchange

    def _extend(self, signal: "StopSignal") -> None:
        """Make the extensions that all requests of one server get."""
        self._signal = signal
        self._extensions = {"trifcgi.stopping": {"is_set": signal.is_set, "wait": signal.wait}}

    def _make_scope(self, reading: Reading) -> Scope:
        """The connection scope of a request (HTTP message format 2.5)."""
        leaf = reading.leaf
        usual = None if leaf is None else leaf.scope
        scope = _usual_scope(reading) if usual is None else usual.copy()
        if leaf is not None and leaf.named_apart:
            scope["server"] = server_of(reading, scope["scheme"])
        scope["asgi"] = _ASGI.copy()
        values = reading.values
        uri: bytes | None = values[REQUEST_URI]
        path: bytes | None = values[SCRIPT_NAME]
        if self._mount is not None or values[PATH_INFO] is not None or not path:
            above, below = cut_of(reading, self._mount)
            path = above + below
            if above:
                scope["root_path"] = root = text_of(above)
                scope["path"] = root + text_of(below)
            else:
                scope["path"] = text_of(path)
        else:
            try:  # as text_of() does it, without the call
                scope["path"] = path.decode()
            except UnicodeDecodeError:
                scope["path"] = path.decode("utf-8", "replace")
        # What target.raw_path() says of it at once is said without the call.
        as_it_is = uri == path and path[0] == 0x2F and 0x3F not in path and 0x23 not in path
        scope["raw_path"] = path if as_it_is else target.raw_path(uri, path)
        query_string: bytes | None = values[QUERY_STRING]
        if query_string is None:
            query_string = target.query_string(None, uri)
        if query_string:
            scope["query_string"] = query_string
        if leaf is None or not leaf.plain:
            scope["headers"] = headers_of(reading)
        else:  # as Known.fill_headers, without the call
            scope["headers"] = headers = leaf.headers.copy()
            found = reading.found
            for slot in leaf.fields:
                headers[slot.place] = (slot.header, found[slot.number])
        scope["client"] = client_of(reading)
        scope["extensions"] = self._extensions.copy()
        state = self.state
        if state is not None:
            scope["state"] = state.copy()
        return scope


def _usual_scope(reading: Reading) -> Scope:
    """What a scope has in common with others whose params only vary in path, query, client,
    server name and headers; kept for them, where they are known again.
    """
    meaning = Meaning(reading)
    usual = _SCOPE.copy()
    usual["http_version"] = meaning.http_version
    usual["method"] = meaning.method
    usual["scheme"] = meaning.scheme
    usual["server"] = meaning.server
    leaf = reading.leaf
    if leaf is not None and leaf.steady:
        leaf.scope = usual.copy()
        if leaf.named_apart:
            leaf.scope["server"] = None  # of one client's
    return usual


_ASGI: Final[dict[str, Any]] = {"version": "3.0", "spec_version": "2.5"}
_SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "asgi": None,
    "http_version": None,
    "method": None,
    "scheme": None,
    "path": None,
    "raw_path": None,
    "query_string": b"",
    "root_path": "",
    "headers": None,
    "client": None,
    "server": None,
    "extensions": None,
}
