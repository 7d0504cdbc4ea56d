"""One request and everything that the server knows about it.

Compiled, and so without a coroutine: what waits stands in :mod:`trifcgi.server.streams`.
"""

import logging
import math
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from trifcgi.cgi import complete_head, end_of_head, is_bodyless
from trifcgi.cgi.known import REQUEST_METHOD
from trifcgi.cgi.reading import Reading
from trifcgi.errors import ResponseError
from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.protocol.constants import Role
from trifcgi.protocol.pairs import decode_pairs, find_value
from trifcgi.request import Params, Request
from trifcgi.served import Served
from trifcgi.server import streams
from trifcgi.server.body import NO_BODY, Body
from trifcgi.server.phase import Phase
from trifcgi.server.stdout import Stdout
from trifcgi.server.streams import FULL, NOT_TAKEN, SENT, STRIDE

if TYPE_CHECKING:
    from trifcgi.server.connection import Connection

__all__ = ["Exchange", "Phase"]

_log = logging.getLogger("trifcgi.server")

# Response bytes that are copied behind their head, to leave in one record with it.
_WHOLE: Final = 16 * 1024

# Text for FCGI_STDERR that waits for the response head. Past it the rest is dropped: the log
# has the whole of what the server itself says.
_MAX_HELD_STDERR: Final = 64 * 1024

# Sends that a handler may do without having suspended once, before it has to let others run.
_SLICE: Final = 64

_ABORTED: Final = StopReason.ABORTED
_LOST: Final = StopReason.LOST
_WRITE_TIMED_OUT: Final = StopReason.WRITE_TIMED_OUT
_TIMED_OUT: Final = StopReason.TIMED_OUT
_READ_TIMED_OUT: Final = StopReason.READ_TIMED_OUT

_PARAMS: Final = Phase.PARAMS
_RUNNING: Final = Phase.RUNNING
_RESPONDED: Final = Phase.RESPONDED
_ENDED: Final = Phase.ENDED

_FILTER: Final = Role.FILTER

# A head that has not ended by then is not one: the largest that any front end takes is below
# 66,000 bytes (Caddy 2.6).
_MAX_HEAD: Final = 128 * 1024

_CONTENT_LENGTH: Final = re.compile(
    rb"^content-length[ \t]*:[ \t]*([0-9]+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)


class Exchange(Served):
    """A :class:`Request` with the server's side of it.

    The connection makes it at FCGI_BEGIN_REQUEST and feeds it; a task of the connection
    drives its handler inside ``scope``; :meth:`stop` is the one door for every reason to
    end it early.

    Attributes:
        number: counts the requests of the data plane from 1; never used again, as ``id`` is.
        coroutine: the handler's, once it has been called: its await stack says where it is.
        task: the trio task that drives it.
        may_be_head: whether it is worth a look whether the method is HEAD.
        blocked: seconds that the handler has waited for the front end to take output.
        reader: the task that waits for input.
        aside: what the handler serves it by without a task; ``leave()`` gives it up.
        abort_event: set when the front end has gone; made by the first who waits for it.
        sending: whether a task is in the middle of a long piece of the response.
    """

    __slots__ = (
        "_data",
        "_data_stream",
        "_held_head",
        "_held_stderr",
        "_method",
        "_named",
        "_pairs",
        "_params",
        "_reading_since",
        "_sends",
        "_stdin_stream",
        "_stdout",
        "abort_event",
        "admitted",
        "aside",
        "begun_at",
        "blocked",
        "body",
        "body_bytes",
        "bodyless",
        "cancel_at",
        "connection",
        "coroutine",
        "deadline",
        "failed",
        "head",
        "id",
        "keep_connection",
        "may_be_head",
        "number",
        "phase",
        "reader",
        "reason",
        "refused",
        "role",
        "scope",
        "scope_spent",
        "sending",
        "status",
        "stdout_closed",
        "task",
    )

    def begin(
        self,
        connection: "Connection",
        number: int,
        request_id: int,
        role: Role,
        keep: bool,
        now: float,
        deadline: float,
        body: Body,
    ) -> None:
        """Set all of it: an ``__init__()``, called by way of the class, would cost more."""
        self.aborted_ = False
        self.block = b""
        self.reading = None
        self.stop_signal = connection.state.stopping
        self.connection = connection
        self.number = number
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.task: trio.lowlevel.Task | None = None
        self.blocked = 0.0
        self.id = request_id
        self.role = role
        self.keep_connection = keep
        self._named: dict[bytes, bytes] | None = None
        self._pairs: list[tuple[bytes, bytes]] | None = None
        self._method: bytes | None = None
        self._params: Params | None = None
        self.admitted = False
        self.aside: Any = None
        self.begun_at = now
        self.deadline = deadline
        self.cancel_at = math.inf
        self.phase = _PARAMS
        self.reason: StopReason | None = None
        self.failed = False
        self.refused = False
        self.scope: trio.CancelScope | None = None
        self.scope_spent = False
        self.body = body
        self._data: Body | None = None
        self._stdin_stream: streams.Input | None = None
        self._data_stream: streams.Input | None = None
        self._stdout: Stdout | None = None
        self.abort_event: trio.Event | None = None
        self.reader: trio.lowlevel.Task | None = None
        self._reading_since = 0.0
        self._sends = 0
        self.sending = False
        self._held_head: bytearray | None = None
        self._held_stderr: bytearray | None = None
        self.head: bytes | None = None
        self.status: int | None = None
        self.may_be_head = False
        self.bodyless = False
        self.body_bytes = 0
        self.stdout_closed = False

    def __repr__(self) -> str:
        peer = self.connection.peer
        return f"<trifcgi.Request {self.id} {self.role} {self.phase.value} from {peer}>"

    # What the handler sees: see Request

    @property
    def pairs(self) -> Sequence[tuple[bytes, bytes]]:
        pairs = self._pairs
        if pairs is None:
            reading = self.reading
            pairs = decode_pairs(self.block) if reading is None else reading.pairs()
            self._pairs = pairs
        return pairs

    @property
    def named(self) -> Mapping[bytes, bytes]:
        named = self._named
        if named is None:
            named = self._named = dict(self.pairs)
        return named

    def take_params(self, block: bytes, reading: Reading | None) -> None:
        """The params are whole. Whoever has looked for some before has found none."""
        self.block = block
        self.reading = reading
        self._pairs = self._named = self._params = self._method = None

    def find_param(self, name: bytes) -> bytes | None:
        """One param's value."""
        if self._pairs is None:
            return find_value(self.block, name)
        return self.named.get(name)

    @property
    def params(self) -> Params:
        params = self._params
        if params is None:
            params = self._params = Params(self.pairs)
        return params

    @property
    def stdin(self) -> streams.Input:
        stream = self._stdin_stream
        if stream is None:
            if self.body is NO_BODY:
                # Whoever looks at it may close it, and then it is closed.
                self.body = Body()
                self.body.ended = True
                self.body.closed = self.phase is _RESPONDED or self.phase is _ENDED
            stream = self._stdin_stream = streams.Input(self, self.body)
        return stream

    @property
    def data(self) -> streams.Input:
        stream = self._data_stream
        if stream is None:
            stream = self._data_stream = streams.Input(self, self.data_body)
        return stream

    @property
    def stdout(self) -> Stdout:
        stream = self._stdout
        if stream is None:
            stream = self._stdout = Stdout(self)
        return stream

    @property
    def stderr(self) -> streams.ErrorStream:
        return streams.ErrorStream(self)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        if self.scope is None:
            raise RuntimeError("a request has its cancel scope while its handler runs")
        # Whoever holds it may give it a deadline, a shield or a late cancel: it must not
        # serve the connection's next request too.
        self.scope_spent = True
        return self.scope

    @property
    def aborted(self) -> bool:
        return self.aborted_

    def wait_aborted(self) -> Coroutine[Any, Any, None]:
        return streams.wait_aborted(self)

    @property
    def stopping(self) -> bool:
        return self.stop_signal.is_set()

    def wait_stopping(self) -> Coroutine[Any, Any, None]:
        return self.stop_signal.wait()

    # What the connection tells it

    @property
    def data_body(self) -> Body:
        """The filter role's second body; whole from the start for the other roles."""
        if self._data is None:
            self._data = Body()
            self._data.ended = self.role is not _FILTER
            self._data.closed = self.phase is _RESPONDED or self.phase is _ENDED
        return self._data

    @property
    def nurseries(self) -> "list[trio.Nursery]":
        """Those that the handler has opened in its own task and not left, outermost first."""
        return [] if self.task is None else self.connection.inside(self.task.child_nurseries)

    @property
    def awaits_input(self) -> bool:
        """Whether the front end has still to send something of this request."""
        return not self.body.ended or (self._data is not None and not self._data.ended)

    @property
    def unread(self) -> int:
        """Body bytes in memory that the handler has not taken."""
        return self.body.buffered + (0 if self._data is None else self._data.buffered)

    @property
    def spooled(self) -> int:
        """Body bytes in temporary files that the handler has not taken."""
        return self.body.spooled + (0 if self._data is None else self._data.spooled)

    @property
    def received(self) -> int:
        """Body bytes that have arrived."""
        return self.body.received + (0 if self._data is None else self._data.received)

    def input_arrived(self) -> None:
        """Wake the task that waits for input, if there is one."""
        reader = self.reader
        if reader is not None:
            self.reader = None
            trio.lowlevel.reschedule(reader)

    def break_off_bodies(self) -> None:
        """Forget what of its input is unread, and have readers learn that it is not whole."""
        self.body.break_off()
        if self._data is not None:
            self._data.break_off()
        self.input_arrived()

    def stop(self, reason: StopReason) -> None:
        """End this request early; the first reason stays.

        An abort and a lost connection are told to the handler first, so that whatever waits
        for input or for the abort returns normally, and then cancel it after the grace.
        Every other reason cancels at once.
        """
        gone = reason is _ABORTED or reason is _LOST
        if self.phase is _ENDED or (self.phase is _RESPONDED and gone):
            return
        if self.reason is None:
            self.reason = reason
        if gone or reason is _WRITE_TIMED_OUT:
            self.aborted_ = True
            if self.abort_event is not None:
                self.abort_event.set()
            self.input_arrived()
            self.connection.wake_blocked()
        if gone:
            grace = self.connection.state.abort_grace
            if grace > 0:
                self.cancel_at = min(self.cancel_at, self.connection.now() + grace)
                self.connection.arm(self.cancel_at)
                return
        self._cancel()

    def _cancel(self) -> None:
        if self.scope is not None:
            self.scope_spent = True
            self.scope.cancel(reason=str(self.reason))
        elif self.aside is not None:
            self.connection.turns.recall(self)

    def check(self, now: float) -> float:
        """Act on this request's deadlines; return the next one (trio clock)."""
        if self.deadline <= now:
            self.deadline = math.inf
            if self.phase is _PARAMS:
                self.connection.close_stalled(
                    "the request timeout passed before its params were whole"
                )
                return math.inf
            self.stop(_TIMED_OUT)
        if self.cancel_at <= now:
            self.cancel_at = math.inf
            self._cancel()
        soonest = min(self.deadline, self.cancel_at)
        read_timeout = self.connection.timeouts.read_timeout
        if self.phase is _PARAMS:
            # Params make no event before they are whole: what counts is that bytes come.
            silent = self.connection.received_at + read_timeout
            if silent <= now:
                self.connection.close_stalled(f"no params for {read_timeout:g} s")
                return math.inf
            soonest = min(soonest, silent)
        elif self.reader is not None:
            silent = self._reading_since + read_timeout
            if silent <= now:
                self.stop(_READ_TIMED_OUT)
            else:
                soonest = min(soonest, silent)
        return soonest

    # What its streams ask for

    def begin_reading(self, reader: trio.lowlevel.Task) -> None:
        """A task begins to wait for input."""
        if self.reader is not None:
            raise trio.BusyResourceError(
                "another task is already waiting for this request's input"
            )
        self.reader = reader
        self._reading_since = now = self.connection.now()
        self.connection.arm(now + self.connection.state.read_timeout)

    def body_taken(self) -> None:
        """The handler has read: the connection may go on reading."""
        self.connection.window.taken()

    def respond(self, head: bytes, body: bytes, *, bodyless: bool = False) -> bool:
        if not self._take_whole(head, body, bodyless):
            return False
        connection = self.connection
        self.phase = _RESPONDED
        connection.trailing.append(self)
        connection.end_whole(self, head, b"" if bodyless else body)
        if not connection.turns.driving:
            connection.flush()
        if not self.body.closed or self._data is not None or self.reader is not None:
            self._close_input()
        return True

    def answer(self, head: bytes, body: bytes, bodyless: bool) -> bool:
        """Respond, where the request is served without a task, and be done with it."""
        if not self._take_whole(head, body, bodyless):
            return False
        connection = self.connection
        self.aside = None
        try:
            connection.end_whole(self, head, b"" if bodyless else body)
            connection.flush()
        except Exception:  # noqa: BLE001 - logged, at one of the three borders
            _log.exception("a connection failed in the server itself; it is closed")
            connection.fail()
        return True

    def want_task(self) -> None:
        """It has been served without a task so far, and needs one to go on."""
        turns = self.connection.turns
        turns.queue.append(self)
        turns.wake()

    def _take_whole(self, head: bytes, body: bytes, bodyless: bool) -> bool:
        """Take note of a whole response that is about to be queued, if that can be done."""
        if (
            self.phase is not _RUNNING
            or self.head is not None
            or self._held_head
            or self._sends >= _SLICE - 1
            or len(body) > _WHOLE
        ):
            return False
        if self.aborted_ or self.stdout_closed:
            self.check_writable()
        self.head = head
        if bodyless:
            self.bodyless = True
        else:
            self.body_bytes = len(body)
        return True

    def must_pause(self) -> bool:
        """Whether the handler has sent so often without suspending that others must run."""
        self._sends += 1
        if self._sends < _SLICE:
            return False
        self._sends = 0
        return True

    def put(self, data: bytes) -> int:
        """Take a piece of the response, head or body, if that can be done at once.

        Returns:
            :data:`~trifcgi.server.streams.SENT`, :data:`~trifcgi.server.streams.FULL` or
            :data:`~trifcgi.server.streams.NOT_TAKEN`.

        Raises:
            ResponseError: what came before the first blank line is no response head.
            trio.BrokenResourceError, trio.ClosedResourceError: see :meth:`check_writable`.
        """
        if len(data) > STRIDE or self._sends >= _SLICE - 1 or self.sending:
            return NOT_TAKEN
        self._sends += 1
        if self.phase is not _RUNNING or self.aborted_ or self.stdout_closed:
            self.check_writable()
        if self.head is None:
            data = self.take_head(data)
        if self.bodyless or not data:
            return SENT
        self.write(data)
        return FULL if self.connection.congested() else SENT

    @property
    def held(self) -> int:
        """Bytes of a head that has not ended."""
        return 0 if self._held_head is None else len(self._held_head)

    def take_head(self, data: bytes) -> bytes:
        """Hold ``data`` back until the head is whole; return the body bytes behind it."""
        held = self._held_head
        if held is None:
            end = end_of_head(data)
            whole = data
        else:
            start = len(held)
            held += data
            end = end_of_head(held, start)
            if end < 0 and len(held) <= _MAX_HEAD:
                return b""
            whole = bytes(held)
        if end < 0:
            if len(whole) > _MAX_HEAD:
                raise ResponseError(
                    f"no blank line ends the response head within {_MAX_HEAD} bytes"
                )
            self._held_head = bytearray(whole)
            return b""
        self._held_head = None
        head, status = complete_head(whole[:end])
        if self.may_be_head:
            bodyless = is_bodyless(self.method, status)
        else:
            bodyless = status != 200 and is_bodyless(b"", status)
        rest = whole[end:]
        if not rest or bodyless or self._held_stderr or len(rest) > _WHOLE:
            self.begin_response(head, bodyless, status)
            return rest
        # In one record with the head.
        self.body_bytes = len(rest)
        self.begin_response(head, bodyless, status, rest)
        return b""

    def send_head(self, head: bytes, bodyless: bool) -> None:
        """Queue a finished head; see :meth:`trifcgi.request.ResponseStream.send_head`."""
        if self.head is not None or self._held_head:
            raise ResponseError("the response head has been sent already")
        self.check_writable()
        self.begin_response(head, bodyless)

    def check_writable(self) -> None:
        """Raise what a stream has to raise once nobody takes this request's output."""
        if self.aborted_:
            raise trio.BrokenResourceError("the front end has aborted this request or is gone")
        if self.phase is _ENDED or self.phase is _RESPONDED:
            raise trio.ClosedResourceError("this request has ended")
        if self.stdout_closed:
            raise trio.ClosedResourceError("this request's stdout is closed")

    def begin_response(
        self, head: bytes, bodyless: bool, status: int | None = None, body: bytes = b""
    ) -> None:
        """Queue the head, and ``body`` in the same record: the point of no return for the
        server's own answers.
        """
        self.head = head
        self.status = status
        self.bodyless = bodyless
        self.connection.protocol.send_stdout(self.id, head + body if body else head)
        if self._held_stderr:
            self._release_stderr()
        if not self.connection.turns.driving:
            self.connection.flush_soon()

    def write(self, data: bytes | memoryview) -> None:
        """Queue response body bytes."""
        self.body_bytes += len(data)
        self.connection.protocol.send_stdout(self.id, data)

    def write_stderr(self, data: bytes) -> None:
        """Queue log text: whole lines, and never ahead of the head."""
        if self._held_stderr is None:
            self._held_stderr = bytearray()
        if self.head is None:
            self._held_stderr += data[: _MAX_HELD_STDERR - len(self._held_stderr)]
        else:
            self._held_stderr += data
            self._release_stderr()

    def _release_stderr(self, everything: bool = False) -> None:
        held = self._held_stderr
        if not held:
            return
        end = len(held) if everything else held.rfind(b"\n") + 1
        if not end and len(held) >= _MAX_HELD_STDERR:
            end = len(held)
        if end:
            self.connection.send_stderr(self.id, bytes(held[:end]))
            del held[:end]

    def must_wait(self) -> bool:
        """Whether too much is unsent on the connection to queue more."""
        return self.connection.congested()

    def end_early(self) -> None:
        """End the request on the wire while its handler goes on."""
        if self.head is None or self.phase is not _RUNNING or self.aborted_:
            return
        connection = self.connection
        self.phase = _RESPONDED
        connection.trailing.append(self)
        connection.end(self, 0)
        if not connection.turns.driving:
            connection.flush()
        if not self.body.closed or self._data is not None or self.reader is not None:
            self._close_input()

    def _close_input(self) -> None:
        """Nobody is to read any more."""
        self.body.closed = True
        if self.body.received or self._data is not None or self.reader is not None:
            self.body.close()
            if self._data is not None:
                self._data.close()
            self.input_arrived()

    def close_stdout(self) -> None:
        """The handler has no more response to give."""
        if self.phase is not _RUNNING:
            return  # its ID may be another request's by now
        if self.head is not None and not self.stdout_closed and not self.aborted_:
            self.stdout_closed = True
            self._release_stderr(everything=True)
            self.connection.end_stdout(self.id)

    # The end

    @property
    def method(self) -> bytes:
        """REQUEST_METHOD as it came; ``b""`` when absent."""
        method = self._method
        if method is None:
            reading = self.reading
            if reading is None:
                method = self.find_param(b"REQUEST_METHOD")
            else:
                method = reading.values[REQUEST_METHOD]
            self._method = method = method or b""
        return method

    @property
    def complete(self) -> bool:
        """Whether the response is known to be whole although its handler failed: the body
        has the length that the head declared, or has been closed.
        """
        if self.head is None:
            return False
        if self.stdout_closed or self.bodyless:
            return True
        declared = _CONTENT_LENGTH.search(self.head)
        # As text: a number may have more digits than Python converts.
        return declared is not None and (declared[1].lstrip(b"0") or b"0") == (
            b"%d" % self.body_bytes
        )

    def flush_stderr(self) -> None:
        """Queue what is left of stderr, an unended line included."""
        if self._held_stderr:
            self._release_stderr(everything=True)

    def ended(self) -> None:
        """Drop everything that a handler may still hold through its request."""
        self.phase = _ENDED
        self.scope = None
        self.aside = None
        self.coroutine = None
        self.task = None
        self.reading = None
        # They refer to this: a cycle would leave each request to the garbage collector.
        self._stdin_stream = self._data_stream = self._stdout = None
        if not self.body.closed or self._data is not None or self.reader is not None:
            self._close_input()
        if self.abort_event is not None and not self.abort_event.is_set():
            self.aborted_ = True
            self.abort_event.set()

    def outcome(self, app_status: int, now: float) -> Outcome:
        """How it went, for the instruments."""
        self.status_sent()
        # By position, in the order of its attributes: names cost a third more.
        return Outcome(
            self.status, self.body_bytes, self.received, max(0.0, now - self.begun_at),
            app_status, self.reason, self.failed, self.refused,
        )  # fmt: skip

    def status_sent(self) -> int:
        """The status of the response; 0 where none was begun or it has none."""
        if self.status is None and self.head is not None:
            self.status = _status_of(self.head)
        return self.status or 0


_STATUS = re.compile(rb"^status:[ \t]*([0-9]{3})", re.IGNORECASE | re.MULTILINE)


def _status_of(head: bytes) -> int | None:
    if head.endswith(b"\nStatus: 200 OK\r\n\r\n"):
        return 200
    at = head.rfind(b"\nStatus: ") + 9  # the last line of our own heads
    if at > 8 and head[at : at + 3].isdigit():
        return int(head[at : at + 3])
    found = _STATUS.search(head)
    return int(found[1]) if found else None


Request.register(Exchange)
