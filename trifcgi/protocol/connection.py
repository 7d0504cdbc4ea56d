"""One FastCGI connection: bytes in, events out; moves in, bytes out."""

import enum
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from trifcgi.errors import LocalProtocolError, ProtocolError
from trifcgi.protocol.active import ActiveRequest, ByID, ParamsBudget
from trifcgi.protocol.constants import (
    KEEP_CONN,
    MAX_REQUEST_ID,
    MAX_ROLE,
    NULL_REQUEST_ID,
    ProtocolStatus,
    RecordType,
    Role,
)
from trifcgi.protocol.events import ConnectionEnded, Event
from trifcgi.protocol.framing import JOINED_UP_TO, Output, end_tail, plain_tail
from trifcgi.protocol.intake import ApplicationIntake, FrontEndIntake
from trifcgi.protocol.pairs import COMPILED, encode_pairs
from trifcgi.protocol.receiver import EventCollector, Receiver
from trifcgi.protocol.records import (
    MAX_MANAGEMENT_LENGTH,
    PieceTaker,
    RecordReader,
    pack_begin_request,
    pack_header,
    pack_record,
)
from trifcgi.protocol.states import (
    DROP,
    ILLEGAL,
    STARTS,
    ApplicationState,
    FrontEndState,
    Move,
)

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Connection", "Side"]

_ABORT_REQUEST: Final = int(RecordType.ABORT_REQUEST)
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_STDOUT: Final = int(RecordType.STDOUT)
_STDERR: Final = int(RecordType.STDERR)
_DATA: Final = int(RecordType.DATA)
_GET_VALUES: Final = int(RecordType.GET_VALUES)

_ANSWERING: Final = int(ApplicationState.ANSWERING)
_STDOUT_MOVE: Final = int(Move.STDOUT)
_NO_MOVE: Final = 0  # neither a Move nor a state has this number

_STDOUT_OPEN: Final = frozenset(
    {
        ApplicationState.ANSWERING,
        ApplicationState.ANSWERING_STDERR_OPEN,
        ApplicationState.ANSWERING_STDERR_ENDED,
    }
)
_STDERR_OPEN: Final = frozenset(
    {ApplicationState.ANSWERING_STDERR_OPEN, ApplicationState.ANSWERED_STDERR_OPEN}
)


def _check_values(values: Mapping[bytes, bytes]) -> None:
    # Each length takes four bytes at most: mostly that is enough to know, and a server does not
    # encode the same values for each connection.
    most = 0
    for name, value in values.items():
        most += 8 + len(name) + len(value)
    if most > MAX_MANAGEMENT_LENGTH and len(encode_pairs(values.items())) > MAX_MANAGEMENT_LENGTH:
        raise ValueError(f"the values take more than {MAX_MANAGEMENT_LENGTH} bytes")


class Side(enum.Enum):
    """Which end of the wire a :class:`Connection` is."""

    APPLICATION = "application"
    FRONT_END = "front end"

    def __str__(self) -> str:
        return self.value


class Connection:
    """The protocol state of one connection, on either side; it does no I/O.

    Bytes that arrive go into :meth:`receive_data`, which returns events. Methods that send only
    queue bytes, to be fetched with :meth:`data_to_send` and written in that order, whole.
    A move that FastCGI does not allow raises :exc:`LocalProtocolError` and changes nothing.

    Memory is bounded whatever the peer sends: the params of a request are held up to the limits
    below, a body is never held, and a connection that asks too many management questions without
    reading the answers is in error. The ID of a request stays active, and its params counted,
    until the application ends it.

    Args:
        side: which end of the wire this is.
        max_params: bytes of params of one request; past it :class:`ParamsTooLarge` takes the
            place of :class:`ParamsReceived`. 1 MiB holds ten times what the most
            generous front end seen here forwards (Apache, Caddy: some 70 KB of headers).
        max_params_total: the same over all active requests of the connection.
        max_pairs: number of params of one request; 16 times as many over all active requests. The
            shortest pairs take thirty times their size once they are decoded. Front ends
            stop at some 100 header fields (Apache, HAProxy).
        values: what FCGI_GET_VALUES is answered with (§4.1), by name.
        receiver: on the application's side, told by :meth:`deliver` what the bytes mean.

    Attributes:
        side: as given.
        at_once: takes what is one whole request, as nearly all that comes is: while nothing is
            wrong and the next byte begins a record; else ``None``.

    Raises:
        ValueError: the values do not fit into one management record.
    """

    __slots__ = (
        "_budget",
        "_collector",
        "_ended",
        "_failure",
        "_intake",
        "_is_application",
        "_output",
        "_reader",
        "_requests",
        "at_once",
        "side",
    )

    def __init__(
        self,
        side: Side,
        *,
        max_params: int = 1 << 20,
        max_params_total: int = 4 << 20,
        max_pairs: int = 4096,
        values: Mapping[bytes, bytes] = {},
        receiver: Receiver | None = None,
    ) -> None:
        if values:
            _check_values(values)
        self.side = side
        self._is_application = side is Side.APPLICATION
        self._reader = RecordReader()
        self._output = Output()
        self._requests: ByID[ActiveRequest] = ByID()
        self._budget = ParamsBudget(max_params, max_params_total, max_pairs)
        self._collector: EventCollector | FrontEndIntake | None = None
        self._intake: PieceTaker
        self.at_once: ApplicationIntake | None = None
        if self._is_application:
            if receiver is None:
                self._collector = receiver = EventCollector()
            self._intake = self.at_once = ApplicationIntake(
                self._requests, self._budget, self._output, values, receiver
            )
        else:
            self._collector = self._intake = FrontEndIntake(self._requests)
        self._failure: ProtocolError | None = None
        self._ended = False

    # What both sides do

    @property
    def open_requests(self) -> int:
        """Number of active request IDs."""
        return len(self._requests)

    def is_active(self, request_id: int) -> bool:
        """Whether that ID belongs to a request that has begun and not ended (§3.3)."""
        return self._find(request_id) is not None

    def _find(self, request_id: int) -> ActiveRequest | None:
        # Any int may be asked for, and not every one fits into what the IDs are kept in.
        if not 0 < request_id <= MAX_REQUEST_ID:
            return None
        requests = self._requests
        # The only one, nearly always: no further call for that.
        return requests._one if requests._id == request_id else requests.get(request_id)

    @property
    def out_size(self) -> int:
        """Bytes that wait for :meth:`data_to_send`."""
        return self._output.size

    @property
    def inside_record(self) -> bool:
        """Whether the bytes that have come end in the middle of a record."""
        return self._reader.inside_record

    def data_to_send(self) -> list[bytes | memoryview]:
        """Take all outgoing bytes, in order, as chunks that go out as they are.

        Long content comes as a view of the ``bytes`` that were given, not as a copy.
        """
        return self._output.drain()

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes that arrived, of any length and cut anywhere; return what they mean.

        ``bytes`` are read in place; anything else is copied first. A ``receiver`` gets what would
        be events, so that there are none.

        Raises:
            ProtocolError: they are not FastCGI 1.0. The events ahead of the offending record are
                its ``events``; the connection is of no more use, and every further call
                raises the same without them.
            LocalProtocolError: :meth:`receive_eof` was called before.
        """
        collector = self._collector
        events: list[Event] = []
        if collector is None:
            self.deliver(data)
            return events
        collector.events = events
        try:
            self.deliver(data)
        except ProtocolError as failure:
            if events:
                failure.events = events
            raise
        finally:
            collector.events = []
        return events

    def deliver(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes as :meth:`receive_data` does, and tell the receiver what they mean.

        Raises:
            ProtocolError: they are not FastCGI 1.0; the receiver was told what came ahead of it.
            LocalProtocolError: :meth:`receive_eof` was called before.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        at_once = self.at_once
        if at_once is None or not at_once.take_request(data):
            self.deliver_records(data)

    def deliver_records(self, data: bytes) -> None:
        """The same with what :attr:`at_once` has not taken."""
        if self._failure is not None:
            raise ProtocolError(str(self._failure), self._failure.request_id)
        if self._ended:
            raise LocalProtocolError("bytes were received after the end of the connection")
        reader = self._reader
        intake = self._intake
        self.at_once = None
        try:
            reader.read(data, intake)
            if reader.failure is not None:
                raise reader.failure
        except ProtocolError as failure:
            self._failure = failure
            raise
        if isinstance(intake, ApplicationIntake) and not reader.inside_record:
            self.at_once = intake

    def receive_eof(self) -> list[Event]:
        """Take note that the peer sends nothing more; a second call gives no events.

        Requests stay active: a front end that has half-closed still reads answers.
        """
        if self._ended:
            return []
        self._ended = True
        self.at_once = None
        return [ConnectionEnded(self._reader.inside_record)]

    # Application side: what is sent

    def send_stdout(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes of the response; empty ``data`` queues nothing.

        Long ``bytes`` are not copied; what can change under a queue (a ``bytearray``) is.

        Raises:
            LocalProtocolError: the request is not active, or its stdout has ended.
        """
        request = self._find(request_id)
        if request is None or request.application != _ANSWERING or not self._is_application:
            self._step_of_application(request_id, _STDOUT_MOVE if data else _NO_MOVE)
        self._output.add_stream(_STDOUT, request_id, data)

    def send_stderr(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes for the front end's error log; else as :meth:`send_stdout`."""
        self._step_of_application(request_id, Move.STDERR if data else _NO_MOVE)
        self._output.add_padded_stream(_STDERR, request_id, data)

    def end_stdout(self, request_id: int) -> None:
        """Queue the end of the response. :meth:`end_request` does it too where it is missing.

        Raises:
            LocalProtocolError: the request is not active, or its stdout has ended.
        """
        self._step_of_application(request_id, Move.STDOUT_END)
        self._output.add(pack_header(_STDOUT, request_id, 0))

    def end_request(
        self,
        request_id: int,
        app_status: int = 0,
        protocol_status: int = ProtocolStatus.REQUEST_COMPLETE,
    ) -> None:
        """Queue the end of a request, after the ends of stdout and, if it was used, stderr.

        The ID is inactive from now on: records that still come for it are ignored (§3.3),
        and the front end may use it again.

        Args:
            request_id: whose.
            app_status: the application status (§5.5), as for a program's ``exit``.
            protocol_status: why the protocol ends it, 0 to 255.

        Raises:
            LocalProtocolError: the request is not active.
            ValueError: ``protocol_status`` does not fit.
        """
        request = self._find(request_id)
        if request is None or not self._is_application:
            raise self._not_possible("end", request_id)
        state: i64 = request.application
        if state == _ANSWERING and app_status == 0 and protocol_status == 0:
            tail = plain_tail(request_id)
        else:
            tail = end_tail(
                request_id,
                app_status,
                protocol_status,
                stdout_open=state in _STDOUT_OPEN,
                stderr_open=state in _STDERR_OPEN,
            )
        self._requests.remove(request_id)
        self._budget.release(request)
        self._output.add_behind(tail)

    def send_last(
        self, request_id: int, data: bytes | bytearray | memoryview, rest: bytes = b""
    ) -> None:
        """Queue the last bytes of the response, ``data`` and ``rest`` as if they were one, and
        the end of the request: what :meth:`send_stdout` and :meth:`end_request` do, in one step.
        The application status is 0.

        Raises:
            LocalProtocolError: the request is not active, or its stdout has ended.
        """
        requests = self._requests
        # As _find() does it, without the call: in Python itself that counts, and numbers of any
        # size may be compared.
        one = not COMPILED and requests._id == request_id
        request = requests._one if one else self._find(request_id)
        length: i64 = len(data) + len(rest)
        if (
            request is None
            or request.application != _ANSWERING
            or length > JOINED_UP_TO
            or length == 0
            or type(data) is not bytes
            or not self._is_application
        ):
            self.send_stdout(request_id, b"".join((data, rest)) if rest else data)
            self.end_request(request_id)
            return
        self._output.add_last(request_id, data, rest, length)
        if one:
            requests.count -= 1  # as remove() does it
            requests._id = 0
            requests._one = None
        else:
            requests.remove(request_id)
        self._budget.release(request)

    def _step_of_application(self, request_id: int, move: "i64") -> None:
        """Make a move, or none for 0, of an active request."""
        request = self._find(request_id)
        if request is None or not self._is_application:
            raise self._not_possible("answer", request_id)
        if move != _NO_MOVE:
            after: i64 = request.after_application(move)
            if after in (ILLEGAL, DROP):  # what a receiver tolerates is not for us to send
                raise _not_legal(move, request_id, ApplicationState(request.application))
            request.application = after

    def _not_possible(self, what: str, request_id: int) -> LocalProtocolError:
        if self._find(request_id) is None:
            return LocalProtocolError(f"cannot {what} request {request_id}: it is not active")
        return LocalProtocolError(f"the {self.side} side cannot {what} request {request_id}")

    # Front-end side: what is sent

    def begin_request(
        self, request_id: int, role: int = Role.RESPONDER, keep_connection: bool = False
    ) -> None:
        """Queue the beginning of a request (§5.1).

        Args:
            request_id: 1 to 65,535, not active.
            role: a :class:`Role`, or any number from 0 to 65,535.
            keep_connection: ask the application not to close the connection after it.

        Raises:
            LocalProtocolError: the ID is active, or this is the application's side.
            ValueError: the ID or role is out of range.
        """
        if self._is_application:
            raise LocalProtocolError(f"the {self.side} side cannot begin request {request_id}")
        if self._find(request_id) is not None:
            raise LocalProtocolError(f"cannot begin request {request_id}: it is active already")
        if not 0 < request_id <= MAX_REQUEST_ID or not 0 <= role <= MAX_ROLE:
            raise ValueError(f"request ID {request_id} or role {role} is not within 16 bits")
        self._output.add(pack_begin_request(request_id, role, KEEP_CONN if keep_connection else 0))
        start = STARTS.get(role, FrontEndState.OTHER_PARAMS)
        request = ActiveRequest()
        request.begin(int(start))
        self._requests.put(request_id, request)

    def send_params(self, request_id: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Queue all params of a request, and their end (§5.2).

        Raises:
            LocalProtocolError: the request is not active, or has had its params.
            ValueError: a name or value has 2**31 bytes or more.
        """
        block = encode_pairs(pairs)
        self._step_of_front_end(request_id, Move.PARAMS_END)
        self._output.add_stream(_PARAMS, request_id, block)
        self._output.add(pack_header(_PARAMS, request_id, 0))

    def send_stdin(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes of the body; empty ``data`` queues nothing.

        Raises:
            LocalProtocolError: the request is not active any more (an answer may end it
                early: see :meth:`is_active`), has not had its params, was aborted, has ended its
                stdin, or its role has none.
        """
        self._step_of_front_end(request_id, Move.STDIN if data else _NO_MOVE)
        self._output.add_stream(_STDIN, request_id, data)

    def end_stdin(self, request_id: int) -> None:
        """Queue the end of the body; raises as :meth:`send_stdin`."""
        self._step_of_front_end(request_id, Move.STDIN_END)
        self._output.add(pack_header(_STDIN, request_id, 0))

    def send_data(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes of a filter's file, after its stdin (§6.4); else as :meth:`send_stdin`."""
        self._step_of_front_end(request_id, Move.DATA if data else _NO_MOVE)
        self._output.add_stream(_DATA, request_id, data)

    def end_data(self, request_id: int) -> None:
        """Queue the end of the file; raises as :meth:`send_data`."""
        self._step_of_front_end(request_id, Move.DATA_END)
        self._output.add(pack_header(_DATA, request_id, 0))

    def abort_request(self, request_id: int) -> None:
        """Queue an abort (§5.4). The request stays active until the application ends it.

        Raises:
            LocalProtocolError: the request is not active, or was aborted before.
        """
        self._step_of_front_end(request_id, Move.ABORT)
        self._output.add(pack_header(_ABORT_REQUEST, request_id, 0))

    def get_values(self, names: Iterable[bytes]) -> None:
        """Queue a question about the application (§4.1), answered by :class:`ValuesReceived`.

        Raises:
            LocalProtocolError: this is the application's side.
            ValueError: the names take more than 4,096 bytes.
        """
        if self._is_application:
            raise LocalProtocolError(f"the {self.side} side cannot ask for values")
        content = encode_pairs([(name, b"") for name in names])
        if len(content) > MAX_MANAGEMENT_LENGTH:
            raise ValueError(f"the names take {len(content)} bytes, over {MAX_MANAGEMENT_LENGTH}")
        self._output.add(pack_record(_GET_VALUES, NULL_REQUEST_ID, content))

    def _step_of_front_end(self, request_id: int, move: "i64") -> None:
        """Make a move, or none for 0, of an active request."""
        request = self._find(request_id)
        if request is None or self._is_application:
            raise self._not_possible("send for", request_id)
        if move != _NO_MOVE:
            after: i64 = request.after_front_end(move)
            if after in (ILLEGAL, DROP):
                raise _not_legal(move, request_id, FrontEndState(request.front_end))
            request.front_end = after


def _not_legal(
    move: int, request_id: int, state: FrontEndState | ApplicationState
) -> LocalProtocolError:
    return LocalProtocolError(
        f"{Move(move)!s} cannot be sent for request {request_id} in state {state}"
    )
