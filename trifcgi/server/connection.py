"""One connection: what comes in, whose turn it is, what goes out.

Between ``recv`` and ``send`` lies this: the wire gives bytes to :meth:`Connection.bytes_received`;
the protocol tells what they mean; a request whose params are whole joins ``turns``, where a
task of the connection takes it and drives its handler (:mod:`trifcgi.server.tasks`); what the
handler sends collects in the protocol; :meth:`Connection.flush` hands it to the wire when the
handler suspends, or when nothing more is queued; ``ending`` decides how the request leaves.

Compiled: what happens at once. What waits stands in ``tasks`` and ``streams``.
"""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from trifcgi import protocol
from trifcgi.cgi.reading import Reading, read_params
from trifcgi.errors import ProtocolError
from trifcgi.observe.instrument import StopReason
from trifcgi.protocol.active import ByID
from trifcgi.protocol.constants import ProtocolStatus, Role
from trifcgi.protocol.framing import Output
from trifcgi.protocol.pairs import count_pairs
from trifcgi.protocol.receiver import Receiver
from trifcgi.server import ending
from trifcgi.server.admission import admit
from trifcgi.server.body import NO_BODY, Body
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase
from trifcgi.server.state import State
from trifcgi.server.turns import Turns
from trifcgi.server.window import ReadWindow
from trifcgi.server.wire import HIGH_WATER, LOW_WATER, Wire

if TYPE_CHECKING:
    from mypy_extensions import i64

    from trifcgi.server.plane import DataPlane

__all__ = ["Connection"]

_log = logging.getLogger("trifcgi.server")

# Requests that one connection may have begun beyond those that may run: enough to answer each
# of them 503, few enough that a flood of FCGI_BEGIN_REQUEST stays small.
_MAX_BEGUN: Final = 256

# How long a response that was cut waits for its neighbours on the connection (seconds).
_CUT_GRACE: Final = 5.0

# Unsent bytes of a connection that no running request accounts for: small answers that never wait,
# as those to FCGI_GET_VALUES, refusals, heads without a body. Past it they are a flood by a peer
# that does not read.
_MAX_UNSENT = 4 * 1024 * 1024

# What a running request adds at most: send_all's stride, and what was unsent before it.
_UNSENT_PER_REQUEST: Final = 512 * 1024

# While the server stops: a connection used so recently is not idle, as its front end may just be
# sending the next request (seconds). It cannot be told, and what it has sent to a connection that
# closes is lost: nginx tries a GET again, but answers a POST with 502.
_SETTLE: Final = 0.5

_PARAMS: Final = Phase.PARAMS
_QUEUED: Final = Phase.QUEUED
_RUNNING: Final = Phase.RUNNING
_RESPONDED: Final = Phase.RESPONDED
_ABORTED: Final = StopReason.ABORTED
_LOST: Final = StopReason.LOST
_DRAINED: Final = StopReason.DRAINED
_TOO_LARGE: Final = StopReason.TOO_LARGE
_WRITE_TIMED_OUT: Final = StopReason.WRITE_TIMED_OUT
_AUTHORIZER: Final = Role.AUTHORIZER
_COMPLETE: Final = int(ProtocolStatus.REQUEST_COMPLETE)
_OVERLOADED: Final = int(ProtocolStatus.OVERLOADED)
_UNKNOWN_ROLE: Final = int(ProtocolStatus.UNKNOWN_ROLE)


class Connection(Receiver):
    """A front end's connection and the requests on it.

    Attributes:
        nursery: the connection's own, while there is one: on a socket it is made for the first
            request that has to run beside another.
        settled: whether it is watched: what has come and gone before a task first had to wait
            needs neither the poller nor the reaper.
        trailing: the requests that have ended while their handlers go on: their IDs are free, and
            their places among those that may run are not.
        finishing: whether one of its tasks is about to close it.
        handing_over: whether it goes to another process once nothing runs on it.
    """

    __slots__ = (
        "_cut_at",
        "_input_left",
        "_output",
        "_reading",
        "_writers",
        "appointment",
        "cause",
        "closing",
        "exchanges",
        "finishing",
        "from_nginx",
        "handing_over",
        "idle_since",
        "in_body",
        "lost",
        "must_cut",
        "nursery",
        "peer",
        "plane",
        "protocol",
        "received_at",
        "settled",
        "state",
        "timeouts",
        "trailing",
        "turns",
        "window",
        "wire",
    )

    def __init__(self, plane: "DataPlane", wire: Wire, peer: str) -> None:
        self.plane = plane
        self.state: State = plane.state
        self.timeouts = plane.timeouts
        self.wire = wire
        self.peer = peer
        self.protocol = protocol.Connection(
            protocol.Side.APPLICATION,
            max_params=plane.limits.max_params,
            values=plane.values,
            receiver=self,
        )
        self._output: Output = self.protocol._output
        self.exchanges: ByID[Exchange] = ByID()
        self.window = ReadWindow(self)
        self.turns = Turns(self)
        self.appointment = math.inf
        self.trailing: list[Exchange] = []
        self.idle_since = self.received_at = plane.now()
        self.settled = False
        self.in_body = False
        self.closing = False
        self.lost = False
        self.must_cut = False
        self.from_nginx = False
        self.cause = "closed"
        self.finishing = False
        self.handing_over = False
        self._input_left = False
        self._reading: Reading | None = None
        self._writers: trio.lowlevel.ParkingLot | None = None
        self.nursery: trio.Nursery | None = None
        self._cut_at = math.inf

    def __repr__(self) -> str:
        return f"<Connection from {self.peer}, {len(self.exchanges)} requests>"

    def now(self) -> float:
        """The trio clock, in seconds."""
        clock = self.state.clock
        return trio.current_time() if clock is None else clock.now()

    # The connection's life

    def arm(self, when: float) -> None:
        """Ask the reaper to call :meth:`check` at ``when`` (trio clock) at the latest."""
        if when < self.appointment:
            if self.settled:
                self.plane.reaper.arm(self, when)
            else:
                self.appointment = when

    def settle(self) -> None:
        """A task of it has to wait: from now on its deadlines and its peer are watched."""
        when = self.appointment
        self.appointment = math.inf
        self.settled = True
        self.plane.reaper.arm(self, when)
        self.wire.watch()

    def check(self, now: float) -> float:
        """Act on the deadlines that have passed; return the next one."""
        if self.lost and not self.exchanges and not self.trailing:
            return math.inf
        if self._cut_at <= now:
            self._cut_at = math.inf
            self._abandon("its neighbours took too long to end after a response was cut")
        soonest = self._cut_at
        for exchange in [*self.exchanges.values(), *self.trailing]:
            soonest = min(soonest, exchange.check(now))
        if self.exchanges:
            # Nobody asks for a look when the last one ends: the keep-alive needs one by then.
            soonest = min(soonest, now + max(self._keep_alive, _SETTLE))
        elif not self.closing or self.handing_over:
            inside_record = self.protocol.inside_record
            patience = self.timeouts.read_timeout if inside_record else self._keep_alive
            if self.idle_since + patience <= now and self.wire.input_waiting():
                soonest = min(soonest, now + _SETTLE)  # it is idle no more
            elif self.idle_since + patience <= now:
                if inside_record:
                    _log.warning(
                        "%s: half a record and then nothing for %g s; closed", self.peer, patience
                    )
                self.close("server stopping" if self.state.draining else "idle")
            else:
                soonest = min(soonest, self.idle_since + patience)
        blocked = self.wire.blocked_since
        if blocked is not None:
            if blocked + self.timeouts.write_timeout <= now:
                self._write_timed_out()
            else:
                soonest = min(soonest, blocked + self.timeouts.write_timeout)
        return min(soonest, self.window.check(now))

    def ends_in_nginx(self) -> bool:
        """Whether nginx would take the end of the connection for the end of a response."""
        if self.lost:
            return False
        for exchange in self.exchanges.values():
            if exchange.head is not None and not exchange.complete and _is_from_nginx(exchange):
                return True
        return False

    def close(self, cause: str) -> None:
        """Take no new request, and close once those that run have ended."""
        self.closing = True
        # Whatever was to become of it: a front end that does not keep the connection waits for its
        # end.
        self.handing_over = False
        if not self.exchanges:
            self.cause = cause
            self.turns.wake()

    @property
    def _keep_alive(self) -> float:
        keep_alive = self.timeouts.keep_alive
        return min(keep_alive, _SETTLE) if self.state.draining else keep_alive

    def drain(self) -> None:
        """The server stops: hand the connection over to a process that serves on. Where there is
        none, close with the next response, or when idle for a moment.
        """
        if not self.exchanges and not self._hand_over():
            self.arm(self.idle_since + self._keep_alive)

    def _hand_over(self) -> bool:
        """Begin to pass the connection on between two requests, if anybody takes it."""
        handover = self.plane.handover
        if handover is None or self.closing or self.lost or not handover.wanted():
            return self.handing_over
        self.close("handed over to another process")
        self.handing_over = True
        return True

    def inside(self, nurseries: Sequence[trio.Nursery]) -> list[trio.Nursery]:
        """Those of a task's nurseries that were opened within the connection's own."""
        found = list(nurseries)
        if self.nursery in found:
            del found[: found.index(self.nursery) + 1]
        return found

    @property
    def over(self) -> bool:
        """Whether nothing is left to do on the wire but to close it."""
        if self.exchanges.count != 0:
            return self.turns.ended
        if self.handing_over and self.protocol.inside_record:
            # Half a record is no place to hand over at: its request is still ours.
            return self.lost
        return self.closing or self.lost

    def input_pending(self) -> bool:
        """Whether the peer may still be sending: an early answer leaves a body behind."""
        return self._input_left or self.protocol.inside_record

    @property
    def between_records(self) -> bool:
        """Whether the next byte that comes begins a record."""
        return not self.protocol.inside_record

    # What comes in

    def bytes_received(self, data: bytes) -> None:
        """Bytes have come from the wire."""
        state = self.state
        self.received_at = state.reading_since if state.reading else self.now()
        if state.tracer is not None:
            state.tracer.received(self, data)
        at_once = self.protocol.at_once
        try:
            if at_once is None or not at_once.take_request(data):
                self.protocol.deliver_records(data)
        except ProtocolError as error:
            self._abandon(str(error))
            return
        turns = self.turns
        queue = turns.queue
        if queue and state.taskless is not None:
            turns.offer()
        if queue:
            if state.reading:
                state.waiting.append(turns)
            else:
                turns.wake()
        elif self._output.size and not turns.driving:
            self.flush()
        if self.exchanges.count == 0 and self.protocol.inside_record:
            self.idle_since = self.received_at
            self.arm(self.idle_since + state.read_timeout)

    # What the records mean; see Receiver

    def request_begun(
        self, request_id: "i64", role: "i64", keep_connection: bool, flags: "i64"
    ) -> None:
        self._begin(request_id, role, keep_connection, None)

    def _begin(
        self, request_id: "i64", role: "i64", keep: bool, body: Body | None
    ) -> Exchange | None:
        """Make an exchange for a request whose ``body`` is known, if it is; ``None`` where it
        cannot be taken on, and has ended.
        """
        state = self.state
        exchanges = self.exchanges
        served = state.roles.get(role)
        if served is None:
            self._refuse_at_begin(request_id, keep, _UNKNOWN_ROLE)
            return None
        if exchanges.count >= state.max_requests + _MAX_BEGUN:
            self._refuse_at_begin(request_id, keep, _OVERLOADED)
            return None
        now = self.received_at
        state.begun = number = state.begun + 1
        if body is None:
            body = Body()
        deadline = now + state.request_timeout
        exchange = Exchange()
        exchange.begin(self, number, request_id, served, keep, now, deadline, body)
        if exchanges.count == 0:  # as put() does it, without the call
            exchanges.count = 1
            exchanges._id = request_id
            exchanges._one = exchange
        else:
            exchanges.put(request_id, exchange)
        if request_id != 1 or exchanges.count > 1:
            # Only front ends that multiplex use another ID than 1.
            self.window.expect_others()
        when = now + state.params_timeout
        if when < self.appointment:
            self.arm(when)
        return exchange

    def _refuse_at_begin(self, request_id: "i64", keep: bool, protocol_status: int) -> None:
        self.protocol.end_request(request_id, 0, protocol_status)
        if not keep and not self.exchanges:
            self.close("refused")

    def take_params(self, block: bytes, most: "i64") -> "i64":
        if not self.state.reads:
            return count_pairs(block, most)
        self._reading = reading = read_params(block, most)
        return reading.count

    def request_received(
        self,
        request_id: "i64",
        role: "i64",
        keep_connection: bool,
        flags: "i64",
        block: bytes,
    ) -> None:
        reading, self._reading = self._reading, None
        exchange = self._begin(request_id, role, keep_connection, NO_BODY)
        if exchange is None:
            return
        exchange.block = block
        exchange.reading = reading
        refusal = admit(self.state, exchange)
        if refusal is None:
            exchange.phase = _QUEUED
            turns = self.turns
            if not turns.ended:
                turns.queue.append(exchange)
        else:
            # It ends ahead of the end of its body.
            exchange.body = Body()
            ending.refuse(exchange, refusal)

    def params_received(self, request_id: "i64", block: bytes) -> None:
        reading, self._reading = self._reading, None
        exchange = self.exchanges.get(request_id)
        if exchange is None:
            return
        exchange.take_params(block, reading)
        if exchange.role is _AUTHORIZER:
            # lighttpd and mod_fcgid send no FCGI_STDIN to an authorizer (§6.3).
            exchange.body.ended = True
        refusal = admit(self.state, exchange)
        if refusal is None:
            self.turns.add(exchange)
        else:
            ending.refuse(exchange, refusal)

    def params_too_large(self, request_id: "i64") -> None:
        self._reading = None
        exchange = self.exchanges.get(request_id)
        if exchange is None:
            return
        _log.warning(
            "%s: request %d refused: its params are larger than %d bytes",
            self.peer, exchange.id, self.plane.limits.max_params,
        )  # fmt: skip
        ending.refuse(exchange, (431, "The request's header fields are too large.", ()))

    def stdin_received(self, request_id: "i64", data: bytes) -> None:
        exchange = self.exchanges.get(request_id)
        if exchange is not None:
            self._body_received(exchange, exchange.body, data)

    def data_received(self, request_id: "i64", data: bytes) -> None:
        exchange = self.exchanges.get(request_id)
        if exchange is not None:
            self._body_received(exchange, exchange.data_body, data)

    def _body_received(self, exchange: Exchange, body: Body, data: bytes) -> None:
        self.in_body = True
        if exchange.reason is not None:
            # Its handler may go on for a while, behind a shield: what it has read is not all.
            body.broken = True
            exchange.input_arrived()
            return
        limit = self.state.max_body
        if limit >= 0 and exchange.received + len(data) > limit:
            self.refuse_body(exchange, f"its body is larger than {limit} bytes")
            return
        self.window.feed(exchange, body, data)
        exchange.input_arrived()

    def stdin_ended(self, request_id: "i64") -> None:
        self.in_body = False
        exchange = self.exchanges.get(request_id)
        if exchange is not None:
            exchange.body.ended = True
            exchange.input_arrived()

    def data_ended(self, request_id: "i64") -> None:
        self.in_body = False
        exchange = self.exchanges.get(request_id)
        if exchange is not None:
            exchange.data_body.ended = True
            exchange.input_arrived()

    def request_aborted(self, request_id: "i64") -> None:
        exchange = self.exchanges.get(request_id)
        if exchange is None:
            return
        exchange.stop(_ABORTED)
        if exchange.phase is _PARAMS:
            self.end(exchange, 1)

    def values_requested(self, names: list[bytes]) -> None:
        """Who asks for FCGI_MPXS_CONNS may multiplex; the protocol has queued the answer."""
        self.window.expect_others()

    # What ends it

    def peer_gone(self, error: BaseException | None) -> None:
        """The peer has closed or reset the connection: for every request an abort."""
        if self.lost:
            return
        self.lost = True
        self.cause = "closed by the peer" if error is None else f"lost: {error}"
        _log.debug("%s: %s", self.peer, self.cause)
        self._stop_all(_LOST)

    def _abandon(self, why: str) -> None:
        """The peer has broken the rules, or stalls: end this connection and its requests."""
        if self.lost:
            return
        _log.warning("%s: %s; connection closed", self.peer, why)
        self.lost = True
        self.cause = why
        self._stop_all(_LOST)
        self.wire.cut()

    def close_stalled(self, why: str) -> None:
        """A request's params stall: it never becomes one."""
        self._abandon(why)

    def end_tasks(self) -> None:
        """Let every task of it return: it is closed, or about to be. A request that has come since
        that was decided is not served.
        """
        self.turns.end()
        for exchange in self.exchanges.values():
            exchange.stop(_DRAINED)

    def drop_requests(self) -> None:
        """Its wire is closed while handlers go on after their responses: requests that have come
        since that was decided get no answer, and those that have not begun never do.
        """
        for exchange in self.exchanges.values():
            exchange.stop(_LOST)
            if exchange.phase is _PARAMS or exchange.phase is _QUEUED:
                self.turns.remove(exchange)
                self.forget(exchange, 1)

    def fail(self) -> None:
        """The server's own code has failed here: end this connection and its requests."""
        self._abandon("failed in the server itself")

    def _write_timed_out(self) -> None:
        if self.lost:
            return
        why = f"took no output for {self.timeouts.write_timeout:g} s"
        _log.warning("%s: %s; connection closed", self.peer, why)
        self.lost = True
        self.cause = why
        self._stop_all(_WRITE_TIMED_OUT)
        self.wire.cut()

    def _stop_all(self, reason: StopReason) -> None:
        for exchange in self.exchanges.values():
            exchange.stop(reason)
            if exchange.phase is _PARAMS:
                self.forget(exchange, 1)
        self.wake_blocked()
        self.turns.wake()

    def refuse_body(self, exchange: Exchange, why: str) -> None:
        """End a request whose body is too large for a limit."""
        _log.warning("%s: request %d refused: %s", self.peer, exchange.id, why)
        if exchange.phase is _RUNNING:
            # A reader that is awake already runs ahead of its cancel.
            exchange.break_off_bodies()
            exchange.stop(_TOO_LARGE)
        else:
            self.turns.remove(exchange)
            ending.refuse(exchange, (413, "The request's body is too large.", ()))

    # How a request leaves the connection

    def end(
        self,
        exchange: Exchange,
        app_status: int,
        protocol_status: int = _COMPLETE,
    ) -> None:
        """End a request with FCGI_END_REQUEST; this and :meth:`end_whole` are all that do."""
        if not self.lost:
            if exchange._held_stderr:
                exchange.flush_stderr()
            self.protocol.end_request(exchange.id, app_status & 0xFFFFFFFF, protocol_status)
        self.forget(exchange, app_status)
        if not exchange.keep_connection or self.state.draining:
            self._end_with_request(exchange)

    def end_whole(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """End a request with all of its response, which is short: what queuing that does, and
        then :meth:`end`, in one step.
        """
        if exchange._held_stderr or self.lost:
            self.protocol.send_stdout(exchange.id, head + body)
            self.end(exchange, 0)
            return
        self.protocol.send_last(exchange.id, head, body)
        self.forget(exchange, 0)
        if not exchange.keep_connection or self.state.draining:
            self._end_with_request(exchange)

    def _end_with_request(self, exchange: Exchange) -> None:
        """End the connection, too, if that is to be."""
        if not exchange.keep_connection:
            self.close("the last request has ended")
        elif not self._hand_over():
            self._close_with_response()

    def _close_with_response(self) -> None:
        """Close, unless the front end is seen to have sent another request already, as one that
        multiplexes may.
        """
        if self.window.multiplexed and not self.exchanges and self.wire.input_waiting():
            self.arm(self.idle_since + _SETTLE)
        else:
            self.close("server stopping")

    def forget(self, exchange: Exchange, app_status: int) -> None:
        """The request is over for the front end, with or without END_REQUEST."""
        exchanges = self.exchanges
        if exchanges._id == exchange.id:  # as remove() does it, without the call
            exchanges.count -= 1
            exchanges._id = 0
            exchanges._one = None
        else:
            exchanges.remove(exchange.id)
        if not (exchange.body.ended and exchange._data is None) and not exchange.aborted_:
            self._input_left = self._input_left or exchange.awaits_input
        state = self.state
        clock = state.clock
        self.idle_since = now = self.now() if clock is None else clock.now()
        observers = state.observers
        if observers._recorders or observers._ended:
            observers.request_ended(exchange, app_status, now)
        if exchange.phase is not _RESPONDED:
            self.release(exchange)
        if self.window.paused_since is not None:
            self.window.taken()
        if exchanges.count == 0:
            self.in_body = False
            if self.must_cut or self.lost:
                self.turns.wake()

    def release(self, exchange: Exchange) -> None:
        """The handler has returned, too, or was never called: drop what it holds."""
        if exchange.phase is _RESPONDED:
            self.trailing.remove(exchange)
        if exchange.admitted:
            self.state.running -= 1
        exchange.ended()
        if (self.closing or self.lost) and not self.exchanges and not self.trailing:
            self.turns.wake()

    def cut(self, exchange: Exchange) -> None:
        """End a request whose response has begun and will never be whole, so that the front
        end cannot take it for whole.

        END_REQUEST would say the opposite, so the connection closes without one; with other
        requests on it, once they have ended.
        """
        self.must_cut = self.closing = True
        self.handing_over = False
        self.from_nginx = _is_from_nginx(exchange)
        self.cause = "a response was cut"
        self.forget(exchange, 1)
        if self.exchanges:
            self._cut_at = min(self._cut_at, self.now() + _CUT_GRACE)
            self.arm(self._cut_at)

    # What goes out

    def send_stderr(self, request_id: "i64", data: bytes) -> None:
        """Queue log text for the next flush."""
        self.protocol.send_stderr(request_id, data)

    def end_stdout(self, request_id: "i64") -> None:
        """Queue the end of a response."""
        self.protocol.end_stdout(request_id)
        if not self.turns.driving:
            self.flush()

    def flush_soon(self) -> None:
        """See to it that what is queued leaves even if its sender sends nothing more.

        What a handler's own task has sent is flushed when that task suspends; a task that the
        handler started suspends unseen.
        """
        trio.lowlevel.current_trio_token().run_sync_soon(self.flush, idempotent=True)

    def take_output(self) -> list[bytes | memoryview]:
        """Remove and return what is queued, for the wire to send: whole records."""
        output = self._output
        chunks = output.chunks  # as drain() does it, without the call
        output.chunks = []
        output.size = output.answers = 0
        if self.state.tracer is not None:
            self.state.tracer.sent(self, chunks)
        return chunks

    def flush(self) -> None:
        """Hand what is queued to the wire."""
        if self._output.size and not self.lost:
            if self.closing and self.state.draining and self._sends_no_more:
                self.wire.flush_last()
            else:
                self.wire.flush()
            if self.wire.unsent > _MAX_UNSENT:
                # Later, for it may wake the very task that is about to suspend.
                token = trio.lowlevel.current_trio_token()
                token.run_sync_soon(self._look_at_unsent, idempotent=True)

    def _look_at_unsent(self) -> None:
        unsent = self.wire.unsent
        if unsent > _MAX_UNSENT + _UNSENT_PER_REQUEST * len(self.exchanges):
            self._abandon(f"sends on and reads no answers, of which {unsent} bytes wait")

    @property
    def _sends_no_more(self) -> bool:
        return not (self.exchanges or self.must_cut or self.handing_over)

    def congested(self) -> bool:
        """Whether a handler that sends has to wait."""
        if self._output.size > HIGH_WATER or not self.turns.driving:
            self.flush()
        # Lost just now: the wait raises at once.
        return self.wire.unsent > HIGH_WATER or self.lost

    @property
    def writers(self) -> trio.lowlevel.ParkingLot:
        """Where the tasks wait that have sent too much; most connections never need it."""
        if self._writers is None:
            self._writers = trio.lowlevel.ParkingLot()
        return self._writers

    @property
    def has_room(self) -> bool:
        """Whether a handler that has waited to send may go on."""
        return self.wire.unsent <= LOW_WATER

    def output_drained(self) -> None:
        """The wire has sent most of what it held."""
        if self._writers is not None:
            self._writers.unpark_all()

    def output_blocked(self) -> float:
        """The wire has more than the peer takes: watch for progress. Returns the time."""
        now = self.now()
        self.arm(now + self.timeouts.write_timeout)
        if not self.settled:
            self.settle()
        return now

    def wake_blocked(self) -> None:
        """Let every handler that waits to send look whether it still may."""
        if self._writers is not None:
            self._writers.unpark_all()


def _is_from_nginx(exchange: Exchange) -> bool:
    return exchange.named.get(b"SERVER_SOFTWARE", b"").startswith(b"nginx")
