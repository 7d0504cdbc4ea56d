"""One request and everything that the server knows about it."""

import enum
import math
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import trio

from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.protocol import Role
from trifcgi.request import Params, Request, StopSignal
from trifcgi.server.body import Body
from trifcgi.server.streams import ErrorStream, Input, Stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trifcgi.server.connection import Connection

__all__ = ["Exchange", "Phase"]

# Text for FCGI_STDERR that waits for the response head. Past it the rest is dropped: the log
# has the whole of what the server itself says.
_MAX_HELD_STDERR = 64 * 1024

# Sends that a handler may do without having suspended once, before it has to let others run.
_SLICE = 64

_GONE = (StopReason.ABORTED, StopReason.LOST)

# Those after which nobody takes the request's output.
_DEAF = (*_GONE, StopReason.WRITE_TIMED_OUT)

_CONTENT_LENGTH = re.compile(
    rb"^content-length[ \t]*:[ \t]*([0-9]+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)


class Phase(enum.Enum):
    """Where a request is between its first and its last record."""

    PARAMS = "params"  # its params are not whole
    QUEUED = "queued"  # waits for a task of its connection
    RUNNING = "running"  # its handler has been called
    RESPONDED = "responded"  # the front end has all it gets; the handler goes on
    ENDED = "ended"


class Exchange(Request):
    """A :class:`Request` with the server's side of it.

    The connection makes it at FCGI_BEGIN_REQUEST and feeds it; a task of the connection
    drives its handler inside ``scope``; :meth:`stop` is the one door for every reason to
    end it early.

    Attributes:
        number: counts the requests of the data plane from 1; never used again, as ``id`` is.
        coroutine: the handler's, once it has been called: its await stack says where it is.
        task: the trio task that drives it.
        blocked: seconds that the handler has waited for the front end to take output.
    """

    __slots__ = (
        "_abort_event",
        "_data",
        "_data_stream",
        "_held_stderr",
        "_reader",
        "_reading_since",
        "_sends",
        "_stdin_stream",
        "_stdout",
        "aborted_",
        "admitted",
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
        "last_input",
        "number",
        "phase",
        "reason",
        "refused",
        "scope",
        "scope_spent",
        "status",
        "stdout_closed",
        "task",
    )

    def __init__(
        self, connection: "Connection", request_id: int, role: Role, keep: bool, now: float
    ) -> None:
        self.connection = connection
        self.number = connection.plane.next_number()
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.task: trio.lowlevel.Task | None = None
        self.blocked = 0.0
        self.id = request_id
        self.role = role
        self.keep_connection = keep
        self.pairs: Sequence[tuple[bytes, bytes]] = ()
        self._named: dict[bytes, bytes] | None = None
        self.admitted = False
        self._params: Params | None = None
        self.begun_at = now
        self.last_input = now
        self.deadline = now + connection.timeouts.request_timeout
        self.cancel_at = math.inf
        self.phase = Phase.PARAMS
        self.reason: StopReason | None = None
        self.aborted_ = False
        self.failed = False
        self.refused = False
        self.scope: trio.CancelScope | None = None
        self.scope_spent = False
        self.body = Body()
        self._data: Body | None = None
        self._stdin_stream: Input | None = None
        self._data_stream: Input | None = None
        self._stdout: Stdout | None = None
        self._abort_event: trio.Event | None = None
        self._reader: trio.lowlevel.Task | None = None
        self._reading_since = 0.0
        self._sends = 0
        self._held_stderr = bytearray()
        self.head: bytes | None = None
        self.status: int | None = None
        self.bodyless = False
        self.body_bytes = 0
        self.stdout_closed = False

    def __repr__(self) -> str:
        peer = self.connection.peer
        return f"<trifcgi.Request {self.id} {self.role} {self.phase.value} from {peer}>"

    # What the handler sees

    @property
    def stdin(self) -> Input:
        stream = self._stdin_stream
        if stream is None:
            stream = self._stdin_stream = Input(self, self.body)
        return stream

    @property
    def data(self) -> Input:
        stream = self._data_stream
        if stream is None:
            stream = self._data_stream = Input(self, self.data_body)
        return stream

    @property
    def stdout(self) -> Stdout:
        stream = self._stdout
        if stream is None:
            stream = self._stdout = Stdout(self)
        return stream

    @property
    def stderr(self) -> ErrorStream:
        return ErrorStream(self)

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

    async def wait_aborted(self) -> None:
        if self.aborted_:
            return
        if self._abort_event is None:
            self._abort_event = trio.Event()
        await self._abort_event.wait()

    @property
    def stop_signal(self) -> StopSignal:
        return self.connection.plane.stopping

    # What the connection tells it

    @property
    def data_body(self) -> Body:
        """The filter role's second body; whole from the start for the other roles."""
        if self._data is None:
            self._data = Body()
            self._data.ended = self.role != Role.FILTER
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
        reader = self._reader
        if reader is not None:
            self._reader = None
            trio.lowlevel.reschedule(reader)

    def stop(self, reason: StopReason) -> None:
        """End this request early; the first reason stays.

        An abort and a lost connection are told to the handler first, so that whatever waits
        for input or for the abort returns normally, and then cancel it after the grace.
        Every other reason cancels at once.
        """
        if self.phase is Phase.ENDED or (self.phase is Phase.RESPONDED and reason in _GONE):
            return
        if self.reason is None:
            self.reason = reason
        if reason in _DEAF:
            self.aborted_ = True
            if self._abort_event is not None:
                self._abort_event.set()
            self.input_arrived()
            self.connection.wake_blocked()
        if reason in _GONE:
            grace = self.connection.timeouts.abort_grace
            if grace > 0:
                self.cancel_at = min(self.cancel_at, self.connection.plane.now() + grace)
                self.connection.arm(self.cancel_at)
                return
        self._cancel()

    def _cancel(self) -> None:
        if self.scope is not None:
            self.scope_spent = True
            self.scope.cancel(reason=str(self.reason))

    def check(self, now: float) -> float:
        """Act on this request's deadlines; return the next one (trio clock)."""
        if self.deadline <= now:
            self.deadline = math.inf
            if self.phase is Phase.PARAMS:
                self.connection.close_stalled(
                    "the request timeout passed before its params were whole"
                )
                return math.inf
            self.stop(StopReason.TIMED_OUT)
        if self.cancel_at <= now:
            self.cancel_at = math.inf
            self._cancel()
        soonest = min(self.deadline, self.cancel_at)
        read_timeout = self.connection.timeouts.read_timeout
        if self.phase is Phase.PARAMS:
            # Params make no event before they are whole: what counts is that bytes come.
            silent = self.connection.received_at + read_timeout
            if silent <= now:
                self.connection.close_stalled(f"no params for {read_timeout:g} s")
                return math.inf
            soonest = min(soonest, silent)
        elif self._reader is not None:
            silent = max(self.last_input, self._reading_since) + read_timeout
            if silent <= now:
                self.stop(StopReason.READ_TIMED_OUT)
            else:
                soonest = min(soonest, silent)
        return soonest

    # What its streams ask for

    async def wait_for_input(self) -> None:
        """Wait until input, its end or an abort has arrived."""
        if self._reader is not None:
            raise trio.BusyResourceError(
                "another task is already waiting for this request's input"
            )
        self._reader = trio.lowlevel.current_task()
        self._reading_since = now = self.connection.plane.now()
        self.connection.arm(now + self.connection.timeouts.read_timeout)

        def forget(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(forget)

    def body_taken(self) -> None:
        """The handler has read: the connection may go on reading."""
        self.connection.window.taken()

    def must_pause(self) -> bool:
        """Whether the handler has sent so often without suspending that others must run."""
        self._sends += 1
        return self._sends % _SLICE == 0

    async def pause(self) -> None:
        """Let what is framed leave, and others run."""
        self.connection.flush()
        await trio.lowlevel.checkpoint()

    def check_writable(self) -> None:
        """Raise what a stream has to raise once nobody takes this request's output."""
        if self.aborted_:
            raise trio.BrokenResourceError("the front end has aborted this request or is gone")
        if self.phase is Phase.ENDED or self.phase is Phase.RESPONDED:
            raise trio.ClosedResourceError("this request has ended")
        if self.stdout_closed:
            raise trio.ClosedResourceError("this request's stdout is closed")

    def begin_response(self, head: bytes, bodyless: bool, status: int | None = None) -> None:
        """Queue the head: the point of no return for the server's own answers."""
        self.head = head
        self.status = status
        self.bodyless = bodyless
        self.connection.send_stdout(self.id, head)
        if self._held_stderr:
            self._release_stderr()
        self.connection.flush_soon()

    def write(self, data: bytes | memoryview) -> None:
        """Queue response body bytes."""
        self.body_bytes += len(data)
        self.connection.send_stdout(self.id, data)

    def write_stderr(self, data: bytes) -> None:
        """Queue log text: whole lines, and never ahead of the head."""
        if self.head is None:
            self._held_stderr += data[: _MAX_HELD_STDERR - len(self._held_stderr)]
        else:
            self._held_stderr += data
            self._release_stderr()

    def _release_stderr(self, everything: bool = False) -> None:
        held = self._held_stderr
        end = len(held) if everything else held.rfind(b"\n") + 1
        if not end and len(held) >= _MAX_HELD_STDERR:
            end = len(held)
        if end:
            self.connection.send_stderr(self.id, bytes(held[:end]))
            del held[:end]

    def must_wait(self) -> bool:
        """Whether too much is unsent on the connection to queue more."""
        return self.connection.congested()

    async def wait_writable(self) -> None:
        """Wait until output has drained below the low-water mark."""
        began = self.connection.plane.now()
        try:
            await self.connection.wait_writable(self)
        finally:
            self.blocked += self.connection.plane.now() - began

    def end_early(self) -> None:
        """End the request on the wire while its handler goes on."""
        if self.head is None or self.phase is not Phase.RUNNING or self.aborted_:
            return
        self.phase = Phase.RESPONDED
        self.connection.end_early(self)
        self.body.close()
        self.data_body.close()
        self.input_arrived()

    def close_stdout(self) -> None:
        """The handler has no more response to give."""
        if self.phase is not Phase.RUNNING:
            return  # its ID may be another request's by now
        if self.head is not None and not self.stdout_closed and not self.aborted_:
            self.stdout_closed = True
            self._release_stderr(everything=True)
            self.connection.end_stdout(self.id)

    # The end

    @property
    def method(self) -> bytes:
        """REQUEST_METHOD as it came; ``b""`` when absent."""
        return self.named.get(b"REQUEST_METHOD", b"")

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
        self.phase = Phase.ENDED
        self.scope = None
        self.coroutine = None
        self.task = None
        # They refer to this: a cycle would leave each request to the garbage collector.
        self._stdin_stream = self._data_stream = self._stdout = None
        self.body.close()
        if self._data is not None:
            self._data.close()
        self.input_arrived()
        if self._abort_event is not None and not self._abort_event.is_set():
            self.aborted_ = True
            self._abort_event.set()

    def outcome(self, app_status: int, now: float) -> Outcome:
        """How it went, for the instruments."""
        if self.status is None and self.head is not None:
            self.status = _status_of(self.head)
        return Outcome(
            status=self.status,
            body_bytes=self.body_bytes,
            bytes_in=self.received,
            duration=max(0.0, now - self.begun_at),
            app_status=app_status,
            reason=self.reason,
            failed=self.failed,
            refused=self.refused,
        )


_STATUS = re.compile(rb"^status:[ \t]*([0-9]{3})", re.IGNORECASE | re.MULTILINE)


def _status_of(head: bytes) -> int | None:
    found = _STATUS.search(head)
    return int(found[1]) if found else None
