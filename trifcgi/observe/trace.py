"""The next requests, record by record: for finding out what a front end really sends.

The data plane hands a :class:`Tracer` the bytes that come and go. It takes them apart again by
itself, so a trace shows what was on the wire, not what the server made of it.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

import attrs

from trifcgi.cgi import BadParams, Meaning
from trifcgi.errors import ProtocolError
from trifcgi.observe.masking import mask_head, mask_param, mask_url
from trifcgi.protocol import RecordType, Role, decode_pairs
from trifcgi.protocol.records import RecordReader, unpack_begin_request, unpack_end_request

__all__ = ["MOST_REQUESTS", "Trace", "Traced", "Tracer"]

_log: Final = logging.getLogger("trifcgi.server")

MOST_REQUESTS: Final = 1000
"""Requests that can be traced in one go: their traces are kept in memory."""

_MOST_RECORDS: Final = 500  # of one request; a long stream's others are only counted
_MOST_PARAMS: Final = 256 * 1024
_MOST_HEAD: Final = 16 * 1024


class Traced(Protocol):
    """A connection, as far as a tracer looks at it."""

    peer: str

    @property
    def between_records(self) -> bool:
        """Whether the next byte that comes begins a record."""


@attrs.define
class Trace:
    """What one request was, on the wire.

    Attributes:
        peer: who sent it.
        request_id: on its connection.
        began: seconds since 1970.
        records: JSON values: time since the begin, direction, record type, length, details.
        left_out: records beyond the most that are kept.
        ended: whether FCGI_END_REQUEST was sent.
    """

    peer: str
    request_id: int
    role: str
    flags: int
    began: float
    records: list[dict[str, Any]] = attrs.field(factory=list)
    left_out: int = 0
    ended: bool = False
    pairs: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    _params: bytearray = attrs.field(factory=bytearray)
    _head: bytearray | None = attrs.field(factory=bytearray)

    def add(self, direction: str, record_type: int, content: bytes, now: float) -> None:
        """A record, or the part of one that came at once."""
        if len(self.records) >= _MOST_RECORDS:
            self.left_out += 1
        else:
            name = RecordType(record_type).name if record_type in _TYPES else str(record_type)
            self.records.append(
                {
                    "at": round(now - self.began, 6),
                    "direction": direction,
                    "type": name,
                    "length": len(content),
                    "detail": self._detail(record_type, content),
                }
            )

    def _detail(self, record_type: int, content: bytes) -> str:
        match record_type:
            case RecordType.BEGIN_REQUEST:
                return f"role {self.role}, flags {self.flags}"
            case RecordType.END_REQUEST:
                app_status, protocol_status = unpack_end_request(content)
                return f"application status {app_status}, protocol status {protocol_status}"
            case RecordType.PARAMS:
                return self._add_params(content)
            case RecordType.STDOUT if content:
                return self._add_head(content)
            case _:
                return "" if content else "end of the stream"

    def _add_params(self, content: bytes) -> str:
        if content:
            self._params += content[: _MOST_PARAMS - len(self._params)]
            return ""
        try:
            self.pairs = decode_pairs(bytes(self._params))
        except ProtocolError as error:
            return f"not to be read: {error}"
        self._params = bytearray()
        return f"{len(self.pairs)} params"

    def _add_head(self, content: bytes) -> str:
        head = self._head
        if head is None:
            return ""
        head += content[: _MOST_HEAD - len(head)]
        text = bytes(head).replace(b"\r\n", b"\n")
        end = text.find(b"\n\n")
        if end < 0:
            return "part of the response head"
        self._head = None
        return mask_head(text[:end].decode("utf-8", "backslashreplace"))

    def as_json(self) -> dict[str, Any]:
        """As JSON values, without secrets."""
        params = [[_text(name), _text(value)] for name, value in self.pairs]
        return {
            "peer": self.peer,
            "request_id": self.request_id,
            "role": self.role,
            "began": self.began,
            "ended": self.ended,
            "params": [[name, mask_param(name, value)] for name, value in params],
            "meaning": _meaning(self.pairs),
            "records": self.records,
            "left_out": self.left_out,
        }


_TYPES: Final = frozenset(RecordType)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _meaning(pairs: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """What an app without ``--mount`` would be told."""
    try:
        meaning = Meaning(pairs)
    except BadParams as error:
        return {"error": str(error)} if pairs else {}
    return {
        "method": meaning.method,
        "root_path": meaning.root_path,
        "path": meaning.path,
        "query_string": mask_url(_text(meaning.query_string)),
        "scheme": meaning.scheme,
        "client": meaning.client and list(meaning.client),
        "server": meaning.server and list(meaning.server),
    }


class _Wire:
    """One connection's two directions."""

    def __init__(self) -> None:
        self.incoming = RecordReader()
        self.outgoing = RecordReader()
        self.active: dict[int, Trace] = {}


class Tracer:
    """Traces the next ``count`` requests of a data plane.

    It must not disturb what it looks at: a failure of its own ends it, and is on the log.

    Args:
        count: 1 to :data:`MOST_REQUESTS`.

    Attributes:
        traces: of the requests that have begun, in that order.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST_REQUESTS:
            raise ValueError(f"a count is a number from 1 to {MOST_REQUESTS}")
        self.count = count
        self.traces: list[Trace] = []
        self._wires: dict[Traced, _Wire] = {}
        self._failed = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to trace: as many have begun, and have ended."""
        full = len(self.traces) >= self.count and all(trace.ended for trace in self.traces)
        return self._failed or full

    def received(self, connection: Traced, data: bytes) -> None:
        """Bytes have come; to be told before the protocol takes them."""
        wire = self._wires.get(connection)
        if wire is None:
            if len(self.traces) >= self.count or not connection.between_records:
                return
            wire = self._wires[connection] = _Wire()
        try:
            self._read(connection, wire, data)
        except Exception:  # noqa: BLE001 - logged: it ends the trace and nothing else
            self._fail()

    def sent(self, connection: Traced, chunks: Iterable[bytes | memoryview]) -> None:
        """Whole records are about to leave."""
        wire = self._wires.get(connection)
        if wire is None or self._failed:
            return
        try:
            self._written(wire, b"".join(chunks))
        except Exception:  # noqa: BLE001 - as above
            self._fail()

    def closed(self, connection: Traced) -> None:
        """The connection is gone: its requests have ended."""
        wire = self._wires.pop(connection, None)
        if wire is not None:
            for trace in wire.active.values():
                trace.ended = True

    def _fail(self) -> None:
        _log.exception("tracing failed and is switched off")
        self._failed = True
        self._wires.clear()

    def _read(self, connection: Traced, wire: _Wire, data: bytes) -> None:
        now = time.time()
        for record_type, request_id, content in wire.incoming.receive(data):
            if (
                record_type == RecordType.BEGIN_REQUEST
                and request_id not in wire.active
                and len(self.traces) < self.count
            ):
                self._begin(connection, wire, request_id, content, now)
            trace = wire.active.get(request_id)
            if trace is not None:
                trace.add("in", record_type, content, now)

    def _begin(
        self, connection: Traced, wire: _Wire, request_id: int, content: bytes, now: float
    ) -> None:
        role, flags = unpack_begin_request(content)
        name = Role(role).name.lower() if role in frozenset(Role) else str(role)
        trace = Trace(connection.peer, request_id, name, flags, now)
        wire.active[request_id] = trace
        self.traces.append(trace)

    def _written(self, wire: _Wire, data: bytes) -> None:
        now = time.time()
        for record_type, request_id, content in wire.outgoing.receive(data):
            trace = wire.active.get(request_id)
            if trace is None:
                continue
            trace.add("out", record_type, content, now)
            if record_type == RecordType.END_REQUEST:
                trace.ended = True
                del wire.active[request_id]
