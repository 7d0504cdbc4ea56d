r"""FastCGI 1.0 without I/O: bytes in, events out; both sides of the wire.

Give a :class:`Connection` the bytes that arrive, act on the events that it returns, and write
what it has to send. It knows no socket, thread or clock, so the same class serves any
concurrency library, and two of them back to back need none:

    >>> from trifcgi.protocol import *
    >>> front_end, application = Connection(Side.FRONT_END), Connection(Side.APPLICATION)
    >>> front_end.begin_request(1, Role.RESPONDER)
    >>> front_end.send_params(1, [(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/hello")])
    >>> front_end.end_stdin(1)
    >>> for event in application.receive_data(b"".join(front_end.data_to_send())):
    ...     if isinstance(event, ParamsReceived):
    ...         path = dict(event.pairs)[b"SCRIPT_NAME"]
    ...         application.send_stdout(1, b"Status: 200 OK\r\n\r\n" + path)
    ...         application.end_request(1)
    >>> front_end.receive_data(b"".join(application.data_to_send()))[0].data
    b'Status: 200 OK\r\n\r\n/hello'

A peer that breaks the protocol raises :exc:`ProtocolError`; a move of one's own that it does
not allow raises :exc:`LocalProtocolError`. Section numbers (§) are those of the FastCGI
Specification 1.0.

What is tolerated beyond the specification, because front ends do it or because it harms nobody:
a stream ended twice; an empty STDIN for an authorizer; stream records of a request that was
aborted; any order of streams in a role that the specification does not have, whose content is
dropped.
"""

from trifcgi.errors import LocalProtocolError, ProtocolError
from trifcgi.protocol.connection import Connection, Side
from trifcgi.protocol.constants import (
    HEADER_LEN,
    KEEP_CONN,
    LISTENSOCK_FILENO,
    MAX_CONNS,
    MAX_CONTENT_LENGTH,
    MAX_REQS,
    MPXS_CONNS,
    NULL_REQUEST_ID,
    VERSION_1,
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
from trifcgi.protocol.pairs import decode_pairs, encode_pairs

__all__ = [
    "HEADER_LEN",
    "KEEP_CONN",
    "LISTENSOCK_FILENO",
    "MAX_CONNS",
    "MAX_CONTENT_LENGTH",
    "MAX_REQS",
    "MPXS_CONNS",
    "NULL_REQUEST_ID",
    "VERSION_1",
    "Connection",
    "ConnectionEnded",
    "DataEnded",
    "DataReceived",
    "Event",
    "LocalProtocolError",
    "ParamsReceived",
    "ParamsTooLarge",
    "ProtocolError",
    "ProtocolStatus",
    "RecordType",
    "RequestAborted",
    "RequestBegun",
    "RequestEnded",
    "Role",
    "Side",
    "StderrEnded",
    "StderrReceived",
    "StdinEnded",
    "StdinReceived",
    "StdoutEnded",
    "StdoutReceived",
    "UnknownTypeReceived",
    "ValuesReceived",
    "ValuesRequested",
    "decode_pairs",
    "encode_pairs",
]
