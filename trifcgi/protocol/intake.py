"""What comes in on each side: records checked against the tables, and told."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from trifcgi.errors import ProtocolError
from trifcgi.protocol.active import ActiveRequest, ByID, ParamsBudget
from trifcgi.protocol.constants import (
    HEADER_LEN,
    KEEP_CONN,
    NULL_REQUEST_ID,
    ProtocolStatus,
    RecordType,
    Role,
)
from trifcgi.protocol.events import (
    Event,
    RequestEnded,
    StderrEnded,
    StderrReceived,
    StdoutEnded,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
)
from trifcgi.protocol.framing import Output
from trifcgi.protocol.pairs import decode_pairs, encode_pairs
from trifcgi.protocol.receiver import Receiver
from trifcgi.protocol.records import (
    PieceTaker,
    pack_begin_request,
    pack_header,
    pack_record,
    pack_unknown_type,
    unpack_begin_request,
    unpack_end_request,
    unpack_unknown_type,
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

__all__ = ["MAX_UNSENT_ANSWERS", "ApplicationIntake", "FrontEndIntake"]

MAX_UNSENT_ANSWERS: Final = 1000
"""Answers to management records that may wait in the output. A peer that asks on without reading
would make it grow for ever; HTTP/2 servers cut at the same number since CVE-2019-9512."""

_BEGIN_REQUEST: Final = int(RecordType.BEGIN_REQUEST)
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_STDOUT: Final = int(RecordType.STDOUT)
_STDERR: Final = int(RecordType.STDERR)
_DATA: Final = int(RecordType.DATA)
_GET_VALUES: Final = int(RecordType.GET_VALUES)
_GET_VALUES_RESULT: Final = int(RecordType.GET_VALUES_RESULT)
_UNKNOWN_TYPE: Final = int(RecordType.UNKNOWN_TYPE)

_NAMES: Final = {int(record_type): record_type.name for record_type in RecordType}

_RESPONDER: Final = int(Role.RESPONDER)
_SENT: Final = int(FrontEndState.SENT)
_OTHER_PARAMS: Final = int(FrontEndState.OTHER_PARAMS)
_OTHER_STREAMS: Final = int(FrontEndState.OTHER_STREAMS)


def _known_begin(role: int, flags: int) -> tuple[int, bool, int, int]:
    return int(role), bool(flags & KEEP_CONN), flags, int(STARTS[role])


# Content of nearly every FCGI_BEGIN_REQUEST: one look-up in place of unpacking and enum calls.
_USUAL_BEGINS: Final = {
    pack_begin_request(1, role, flags)[HEADER_LEN:]: _known_begin(role, flags)
    for role in Role
    for flags in (0, KEEP_CONN)
}


def _read_begin(content: bytes) -> tuple[int, bool, int, int]:
    """Role, whether to keep the connection, flags, and the state to begin in."""
    role, flags = unpack_begin_request(content)
    if role in STARTS:
        return _known_begin(role, flags)
    return role, bool(flags & KEEP_CONN), flags, _OTHER_PARAMS


# A whole request without a body: what it begins with up to the length of its params, and what
# it ends with behind them.
_KEPT: Final = pack_begin_request(1, _RESPONDER, KEEP_CONN) + pack_header(_PARAMS, 1, 1)[:4]
_NOT_KEPT: Final = pack_begin_request(1, _RESPONDER, 0) + pack_header(_PARAMS, 1, 1)[:4]
_NO_MORE: Final = pack_header(_PARAMS, 1, 0) + pack_header(_STDIN, 1, 0)
_PARAMS_AT: Final = 24
_AROUND_PARAMS: Final = _PARAMS_AT + 16


class ApplicationIntake(PieceTaker):
    """What the application receives from the front end: tells the receiver what records mean."""

    __slots__ = ("_budget", "_output", "_receiver", "_requests", "_values", "_whole")

    def __init__(
        self,
        requests: ByID[ActiveRequest],
        budget: ParamsBudget,
        output: Output,
        values: Mapping[bytes, bytes],
        receiver: Receiver,
    ) -> None:
        self._requests = requests
        self._budget = budget
        self._output = output
        self._values = values
        self._receiver = receiver
        # For one request after the other that come whole, as then no other is active.
        self._whole: ActiveRequest | None = None

    def take_request(self, data: bytes) -> bool:
        """Take a responder's request that has come in one read and has no body, as nearly every
        one, if that is all that ``data`` is and nothing is wrong with it.

        Returns:
            Whether it was. If not, nothing has happened: its records tell what it is.
        """
        if self._requests.count != 0:
            return False
        begin = data[:20]
        kept = begin == _KEPT
        if (not kept and begin != _NOT_KEPT) or data[-16:] != _NO_MORE:
            return False
        length: i64 = data[20] << 8 | data[21]
        if length == 0 or length + data[22] + _AROUND_PARAMS != len(data):
            return False
        block = data[_PARAMS_AT : _PARAMS_AT + length]
        request = self._whole
        if request is None:
            request = self._whole = ActiveRequest()
        request.begin(_SENT)
        try:
            within = self._budget.take_all(request, block, self._receiver)
        except ProtocolError:
            within = False
        if within:
            requests = self._requests
            requests.count = requests._id = 1  # as put() does it, without the call
            requests._one = request
            self._receiver.request_received(1, _RESPONDER, kept, KEEP_CONN if kept else 0, block)
        return within

    def take_piece(self, record_type: "i64", request_id: "i64", content: bytes) -> None:
        """Tell what it means.

        Raises:
            ProtocolError: it is malformed, or not a legal move.
        """
        request = self._requests.get(request_id)
        if request is not None:
            self._take_record(record_type, request_id, request, content)
        elif request_id == NULL_REQUEST_ID:
            self._answer_management_record(record_type, content)
        elif record_type == _BEGIN_REQUEST:
            usual = _USUAL_BEGINS.get(content)
            role, keep_connection, flags, start = usual or _read_begin(content)
            begun = ActiveRequest()
            begun.begin(start)
            self._requests.put(request_id, begun)
            self._receiver.request_begun(request_id, role, keep_connection, flags)

    def _take_record(
        self,
        record_type: "i64",
        request_id: "i64",
        request: ActiveRequest,
        content: bytes,
    ) -> None:
        move: i64 = record_type << 1 if content else record_type << 1 | 1
        after: i64 = request.after_front_end(move)
        if after == DROP:
            return
        if after == ILLEGAL:
            raise _illegal(move, request_id, FrontEndState(request.front_end))
        request.front_end = after
        if record_type == _PARAMS:
            if request.too_large:
                return
            if not content:
                self._finish_params(request_id, request)
            elif not self._budget.add(request, content):
                self._receiver.params_too_large(request_id)
        elif after == _OTHER_STREAMS:
            return
        elif record_type == _STDIN:
            if content:
                self._receiver.stdin_received(request_id, content)
            else:
                self._receiver.stdin_ended(request_id)
        elif record_type == _DATA:
            if content:
                self._receiver.data_received(request_id, content)
            else:
                self._receiver.data_ended(request_id)
        else:
            if request.block:
                self._budget.release(request)
            self._receiver.request_aborted(request_id)

    def _finish_params(self, request_id: "i64", request: ActiveRequest) -> None:
        block = request.block
        if not isinstance(block, bytes):
            block = bytes(block)
        request.block = b""
        try:
            within = self._budget.take(request, block, self._receiver)
        except ProtocolError as error:
            raise ProtocolError(f"params of request {request_id}: {error}", request_id) from error
        if within:
            self._receiver.params_received(request_id, block)
        else:
            self._receiver.params_too_large(request_id)

    def _answer_management_record(self, record_type: "i64", content: bytes) -> None:
        if record_type == _UNKNOWN_TYPE:
            return  # an answer to an answer could go on for ever
        self._output.answers += 1
        if self._output.answers > MAX_UNSENT_ANSWERS:
            raise ProtocolError(
                f"more than {MAX_UNSENT_ANSWERS} management records whose answers nobody fetched",
                NULL_REQUEST_ID,
            )
        if record_type != _GET_VALUES:
            self._output.add(pack_unknown_type(record_type))
            return
        names = [name for name, _ in _decode_values(content)]
        # A name asked for twice is answered once: no answer is longer than all the values.
        known = {name: self._values[name] for name in names if name in self._values}
        result = encode_pairs(known.items())
        self._output.add(pack_record(_GET_VALUES_RESULT, NULL_REQUEST_ID, result))
        self._receiver.values_requested(names)


class FrontEndIntake(PieceTaker):
    """What the front end receives from the application.

    Attributes:
        events: those so far; whoever takes them puts a new list there.
    """

    __slots__ = ("_requests", "events")

    def __init__(self, requests: ByID[ActiveRequest]) -> None:
        self._requests = requests
        self.events: list[Event] = []

    def take_piece(self, record_type: "i64", request_id: "i64", content: bytes) -> None:
        """Make an event of it, if it means anything.

        Raises:
            ProtocolError: it is malformed, or not a legal move.
        """
        request = self._requests.get(request_id)
        if request is not None:
            self._take_record(record_type, request_id, request, content)
        elif request_id != NULL_REQUEST_ID:
            return
        elif record_type == _GET_VALUES_RESULT:
            self.events.append(ValuesReceived(dict(_decode_values(content))))
        elif record_type == _UNKNOWN_TYPE:
            self.events.append(UnknownTypeReceived(unpack_unknown_type(content)))

    def _take_record(
        self,
        record_type: "i64",
        request_id: "i64",
        request: ActiveRequest,
        content: bytes,
    ) -> None:
        move: i64 = record_type << 1 if content else record_type << 1 | 1
        after: i64 = request.after_application(move)
        if after == DROP:
            return
        if after == ILLEGAL:
            raise _illegal(move, request_id, ApplicationState(request.application))
        request.application = after
        if record_type == _STDOUT:
            self.events.append(
                StdoutReceived(request_id, content) if content else StdoutEnded(request_id)
            )
        elif record_type == _STDERR:
            self.events.append(
                StderrReceived(request_id, content) if content else StderrEnded(request_id)
            )
        else:
            self._requests.remove(request_id)
            self.events.append(_read_end(request_id, content))


def _decode_values(content: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return decode_pairs(content)
    except ProtocolError as error:
        raise ProtocolError(f"management record: {error}", NULL_REQUEST_ID) from error


def _read_end(request_id: int, content: bytes) -> RequestEnded:
    app_status, number = unpack_end_request(content)
    try:
        return RequestEnded(request_id, app_status, ProtocolStatus(number))
    except ValueError:  # a status that FastCGI 1.0 does not know
        return RequestEnded(request_id, app_status, number)


def _illegal(move: int, request_id: int, state: FrontEndState | ApplicationState) -> ProtocolError:
    number = move >> 1
    if number not in _NAMES:
        record = f"a record of type {number}"
    elif number == RecordType.ABORT_REQUEST and move != Move.ABORT:
        record = "FCGI_ABORT_REQUEST with content"
    else:
        record = f"FCGI_{_NAMES[number]}" + (" (empty)" if move & 1 else "")
    return ProtocolError(f"{record} for request {request_id} in state {state}", request_id)
