"""One FastCGI connection: bytes in, events out; moves in, bytes out."""

import enum
from collections.abc import Iterable, Mapping
from typing import Final

from trifcgi.errors import LocalProtocolError, ProtocolError
from trifcgi.protocol.constants import (
    KEEP_CONN,
    MAX_REQUEST_ID,
    MAX_ROLE,
    NULL_REQUEST_ID,
    ProtocolStatus,
    RecordType,
    Role,
)
from trifcgi.protocol.events import (
    ConnectionEnded,
    DataEnded,
    DataReceived,
    Event,
    ParamsReceived,
    ParamsTooLarge,
    RequestAborted,
    RequestBegun,
    RequestEnded,
    StderrEnded,
    StderrReceived,
    StdinEnded,
    StdinReceived,
    StdoutEnded,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
    ValuesRequested,
)
from trifcgi.protocol.framing import Output, end_tail
from trifcgi.protocol.pairs import count_pairs, decode_pairs, encode_pairs
from trifcgi.protocol.records import (
    MAX_MANAGEMENT_LENGTH,
    RecordReader,
    pack_begin_request,
    pack_header,
    pack_record,
    pack_unknown_type,
    unpack_begin_request,
    unpack_end_request,
    unpack_unknown_type,
)
from trifcgi.protocol.states import (
    APPLICATION_ROWS,
    FRONT_END_ROWS,
    ILLEGAL,
    STARTS,
    ApplicationState,
    FrontEndState,
    Move,
)

__all__ = ["Connection", "Side"]

_BEGIN_REQUEST: Final = int(RecordType.BEGIN_REQUEST)
_ABORT_REQUEST: Final = int(RecordType.ABORT_REQUEST)
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_STDOUT: Final = int(RecordType.STDOUT)
_STDERR: Final = int(RecordType.STDERR)
_DATA: Final = int(RecordType.DATA)
_GET_VALUES: Final = int(RecordType.GET_VALUES)
_GET_VALUES_RESULT: Final = int(RecordType.GET_VALUES_RESULT)
_UNKNOWN_TYPE: Final = int(RecordType.UNKNOWN_TYPE)

_ANSWERING: Final = int(ApplicationState.ANSWERING)
_OTHER_PARAMS: Final = int(FrontEndState.OTHER_PARAMS)
_OTHER_STREAMS: Final = int(FrontEndState.OTHER_STREAMS)
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

_MAX_UNSENT_ANSWERS: Final = 1000
"""Answers to management records that may wait in the output. A peer that asks on without reading
would make it grow for ever; HTTP/2 servers cut at the same number since CVE-2019-9512."""


class Side(enum.Enum):
    """Which end of the wire a :class:`Connection` is."""

    APPLICATION = "application"
    FRONT_END = "front end"

    def __str__(self) -> str:
        return self.value


class _Request:
    """What is known of one active request ID."""

    __slots__ = ("application", "block", "front_end", "pairs", "size", "too_large")

    def __init__(self, front_end: int) -> None:
        self.front_end = front_end  # a FrontEndState
        self.application = _ANSWERING  # an ApplicationState
        self.block: bytes | bytearray = b""  # params so far, until they are complete
        self.size = 0  # bytes of params, counted until the request ends
        self.pairs = 0  # the same in pairs
        self.too_large = False


def _known_begin(role: Role, flags: int) -> tuple[Role | int, bool, int, int]:
    return role, bool(flags & KEEP_CONN), flags, int(STARTS[role])


# Content of nearly every FCGI_BEGIN_REQUEST: one look-up in place of unpacking and enum calls.
_USUAL_BEGINS: Final = {
    pack_begin_request(1, role, flags)[8:]: _known_begin(role, flags)
    for role in Role
    for flags in (0, KEEP_CONN)
}


def _read_begin(content: bytes) -> tuple[Role | int, bool, int, int]:
    role, flags = unpack_begin_request(content)
    if role in STARTS:
        return _known_begin(Role(role), flags)
    return role, bool(flags & KEEP_CONN), flags, _OTHER_PARAMS


def _protocol_status(number: int) -> ProtocolStatus | int:
    try:
        return ProtocolStatus(number)
    except ValueError:
        return number


def _record_name(move: int) -> str:
    try:
        return str(Move(move))
    except ValueError:
        return f"a record of type {move >> 1}"


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

    Raises:
        ValueError: the values do not fit into one management record.
    """

    __slots__ = (
        "_answers",
        "_ended",
        "_failure",
        "_is_application",
        "_max_pairs",
        "_max_pairs_total",
        "_max_params",
        "_max_params_total",
        "_output",
        "_pairs_total",
        "_params_total",
        "_reader",
        "_requests",
        "_values",
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
    ) -> None:
        if values and len(encode_pairs(values.items())) > MAX_MANAGEMENT_LENGTH:
            raise ValueError(f"the values take more than {MAX_MANAGEMENT_LENGTH} bytes")
        self.side = side
        self._is_application = side is Side.APPLICATION
        self._max_params = max_params
        self._max_params_total = max_params_total
        self._max_pairs = max_pairs
        self._max_pairs_total = 16 * max_pairs
        self._values = values
        self._reader = RecordReader()
        self._output = Output()
        self._requests: dict[int, _Request] = {}
        self._params_total = 0
        self._pairs_total = 0
        self._answers = 0
        self._failure: ProtocolError | None = None
        self._ended = False

    # What both sides do

    @property
    def open_requests(self) -> int:
        """Number of active request IDs."""
        return len(self._requests)

    def is_active(self, request_id: int) -> bool:
        """Whether that ID belongs to a request that has begun and not ended (§3.3)."""
        return request_id in self._requests

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
        self._answers = 0
        return self._output.drain()

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes that arrived, of any length and cut anywhere; return what they mean.

        Raises:
            ProtocolError: they are not FastCGI 1.0. Events of the same call are lost: the
                connection is of no more use, and every further call raises the same.
            LocalProtocolError: :meth:`receive_eof` was called before.
        """
        if self._failure is not None:
            raise ProtocolError(str(self._failure), self._failure.request_id)
        if self._ended:
            raise LocalProtocolError("bytes were received after the end of the connection")
        events: list[Event] = []
        try:
            pieces = self._reader.receive(data)
            if self._is_application:
                for record_type, request_id, content in pieces:
                    self._take_from_front_end(record_type, request_id, content, events)
            else:
                for record_type, request_id, content in pieces:
                    self._take_from_application(record_type, request_id, content, events)
        except ProtocolError as failure:
            self._failure = failure
            raise
        return events

    def receive_eof(self) -> list[Event]:
        """Take note that the peer sends nothing more; a second call gives no events.

        Requests stay active: a front end that has half-closed still reads answers.
        """
        if self._ended:
            return []
        self._ended = True
        return [ConnectionEnded(self._reader.inside_record)]

    # Application side: what comes

    def _take_from_front_end(
        self, record_type: int, request_id: int, content: bytes, events: list[Event]
    ) -> None:
        request = self._requests.get(request_id)
        if request is None:
            if request_id == NULL_REQUEST_ID:
                self._answer_management_record(record_type, content, events)
            elif record_type == _BEGIN_REQUEST:
                role, keep_connection, flags, start = _USUAL_BEGINS.get(content) or _read_begin(
                    content
                )
                self._requests[request_id] = _Request(start)
                events.append(RequestBegun(request_id, role, keep_connection, flags))
            return
        move = record_type << 1 if content else record_type << 1 | 1
        before = request.front_end
        after = FRONT_END_ROWS[before].get(move, ILLEGAL)
        if after <= 0:
            if after == ILLEGAL:
                raise _illegal_from_front_end(move, request_id, before)
            return
        request.front_end = after
        if record_type == _PARAMS:
            if content:
                self._keep_params(request_id, request, content, events)
            else:
                self._finish_params(request_id, request, events)
        elif after == _OTHER_STREAMS:
            return
        elif record_type == _STDIN:
            events.append(
                StdinReceived(request_id, content) if content else StdinEnded(request_id)
            )
        elif record_type == _DATA:
            events.append(DataReceived(request_id, content) if content else DataEnded(request_id))
        else:
            if request.block:
                self._drop_params(request)
            events.append(RequestAborted(request_id))

    def _keep_params(
        self, request_id: int, request: _Request, content: bytes, events: list[Event]
    ) -> None:
        if request.too_large:
            return
        size = request.size + len(content)
        total = self._params_total + len(content)
        if size > self._max_params or total > self._max_params_total:
            self._refuse_params(request_id, request, events)
            return
        request.size = size
        self._params_total = total
        if not request.block:
            request.block = content
        elif isinstance(request.block, bytearray):
            request.block += content
        else:
            # Grows in place, so that a flood of tiny records costs its size and no more.
            request.block = bytearray(request.block)
            request.block += content

    def _finish_params(self, request_id: int, request: _Request, events: list[Event]) -> None:
        if request.too_large:
            return
        block = bytes(request.block)
        request.block = b""
        most = self._max_pairs
        if len(block) > 2 * most and count_pairs(block, most) > most:
            self._refuse_params(request_id, request, events)
            return
        try:
            pairs = decode_pairs(block)
        except ProtocolError as error:
            raise ProtocolError(f"params of request {request_id}: {error}", request_id) from error
        if self._pairs_total + len(pairs) > self._max_pairs_total:
            self._refuse_params(request_id, request, events)
            return
        request.pairs = len(pairs)
        self._pairs_total += len(pairs)
        events.append(ParamsReceived(request_id, pairs))

    def _refuse_params(self, request_id: int, request: _Request, events: list[Event]) -> None:
        self._drop_params(request)
        request.too_large = True
        events.append(ParamsTooLarge(request_id))

    def _drop_params(self, request: _Request) -> None:
        request.block = b""
        self._params_total -= request.size
        self._pairs_total -= request.pairs
        request.size = request.pairs = 0

    def _answer_management_record(
        self, record_type: int, content: bytes, events: list[Event]
    ) -> None:
        if record_type == _UNKNOWN_TYPE:
            return  # an answer to an answer could go on for ever
        self._answers += 1
        if self._answers > _MAX_UNSENT_ANSWERS:
            raise ProtocolError(
                f"more than {_MAX_UNSENT_ANSWERS} management records at once", NULL_REQUEST_ID
            )
        if record_type != _GET_VALUES:
            self._output.add(pack_unknown_type(record_type))
            return
        names = [name for name, _ in _decode_values(content)]
        # A name asked for twice is answered once: an answer is never longer than the values.
        known = {name: self._values[name] for name in names if name in self._values}
        result = encode_pairs(known.items())
        self._output.add(pack_record(_GET_VALUES_RESULT, NULL_REQUEST_ID, result))
        events.append(ValuesRequested(names))

    # Application side: what is sent

    def send_stdout(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes of the response; empty ``data`` queues nothing.

        Long ``bytes`` are not copied; what can change under a queue (a ``bytearray``) is.

        Raises:
            LocalProtocolError: the request is not active, or its stdout has ended.
        """
        self._step_of_application(request_id, Move.STDOUT if data else 0)
        self._output.add_stream(_STDOUT, request_id, data)

    def send_stderr(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes for the front end's error log; else as :meth:`send_stdout`."""
        self._step_of_application(request_id, Move.STDERR if data else 0)
        self._output.add_stream(_STDERR, request_id, data)

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
        request = self._requests.get(request_id)
        if request is None or not self._is_application:
            raise self._not_possible("end", request_id)
        state = request.application
        tail = end_tail(
            request_id,
            app_status,
            protocol_status,
            stdout_open=state in _STDOUT_OPEN,
            stderr_open=state in _STDERR_OPEN,
        )
        del self._requests[request_id]
        self._params_total -= request.size
        self._pairs_total -= request.pairs
        self._output.add(tail)

    def _step_of_application(self, request_id: int, move: int) -> None:
        """Make a move, or none for 0, of an active request."""
        request = self._requests.get(request_id)
        if request is None or not self._is_application:
            raise self._not_possible("answer", request_id)
        if move:
            after = APPLICATION_ROWS[request.application].get(move, ILLEGAL)
            if after <= 0:
                state = ApplicationState(request.application)
                raise LocalProtocolError(
                    f"{Move(move)!s} cannot be sent for request {request_id} in state {state}"
                )
            request.application = after

    def _not_possible(self, what: str, request_id: int) -> LocalProtocolError:
        if request_id not in self._requests:
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
        if request_id in self._requests:
            raise LocalProtocolError(f"cannot begin request {request_id}: it is active already")
        if not 0 < request_id <= MAX_REQUEST_ID or not 0 <= role <= MAX_ROLE:
            raise ValueError(f"request ID {request_id} or role {role} is not within 16 bits")
        self._output.add(pack_begin_request(request_id, role, KEEP_CONN if keep_connection else 0))
        self._requests[request_id] = _Request(STARTS.get(role, _OTHER_PARAMS))

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
        self._step_of_front_end(request_id, Move.STDIN if data else 0)
        self._output.add_stream(_STDIN, request_id, data)

    def end_stdin(self, request_id: int) -> None:
        """Queue the end of the body; raises as :meth:`send_stdin`."""
        self._step_of_front_end(request_id, Move.STDIN_END)
        self._output.add(pack_header(_STDIN, request_id, 0))

    def send_data(self, request_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes of a filter's file, after its stdin (§6.4); else as :meth:`send_stdin`."""
        self._step_of_front_end(request_id, Move.DATA if data else 0)
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
        content = encode_pairs((name, b"") for name in names)
        if len(content) > MAX_MANAGEMENT_LENGTH:
            raise ValueError(f"the names take {len(content)} bytes, over {MAX_MANAGEMENT_LENGTH}")
        self._output.add(pack_record(_GET_VALUES, NULL_REQUEST_ID, content))

    def _step_of_front_end(self, request_id: int, move: int) -> None:
        """Make a move, or none for 0, of an active request."""
        request = self._requests.get(request_id)
        if request is None or self._is_application:
            raise self._not_possible("send for", request_id)
        if move:
            after = FRONT_END_ROWS[request.front_end].get(move, ILLEGAL)
            if after <= 0:
                state = FrontEndState(request.front_end)
                raise LocalProtocolError(
                    f"{Move(move)!s} cannot be sent for request {request_id} in state {state}"
                )
            request.front_end = after

    # Front-end side: what comes

    def _take_from_application(
        self, record_type: int, request_id: int, content: bytes, events: list[Event]
    ) -> None:
        request = self._requests.get(request_id)
        if request is None:
            if request_id != NULL_REQUEST_ID:
                return
            if record_type == _GET_VALUES_RESULT:
                events.append(ValuesReceived(dict(_decode_values(content))))
            elif record_type == _UNKNOWN_TYPE:
                events.append(UnknownTypeReceived(unpack_unknown_type(content)))
            return
        move = record_type << 1 if content else record_type << 1 | 1
        before = request.application
        after = APPLICATION_ROWS[before].get(move, ILLEGAL)
        if after <= 0:
            if after == ILLEGAL:
                raise _illegal_from_application(move, request_id, before)
            return
        request.application = after
        if record_type == _STDOUT:
            events.append(
                StdoutReceived(request_id, content) if content else StdoutEnded(request_id)
            )
        elif record_type == _STDERR:
            events.append(
                StderrReceived(request_id, content) if content else StderrEnded(request_id)
            )
        else:
            app_status, number = unpack_end_request(content)
            del self._requests[request_id]
            events.append(RequestEnded(request_id, app_status, _protocol_status(number)))


def _decode_values(content: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return decode_pairs(content)
    except ProtocolError as error:
        raise ProtocolError(f"management record: {error}", NULL_REQUEST_ID) from error


def _illegal_from_front_end(move: int, request_id: int, state: int) -> ProtocolError:
    return ProtocolError(
        f"{_record_name(move)} for request {request_id} in state {FrontEndState(state)}",
        request_id,
    )


def _illegal_from_application(move: int, request_id: int, state: int) -> ProtocolError:
    return ProtocolError(
        f"{_record_name(move)} for request {request_id} in state {ApplicationState(state)}",
        request_id,
    )
