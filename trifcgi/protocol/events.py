"""What a :class:`~trifcgi.protocol.Connection` tells: one vocabulary for both sides of the wire.

None of the classes is frozen, though nobody should write to an event: freezing doubles the
cost of making one (1.0 against 0.45 µs), and these are made for every record.
"""

from typing import TypeAlias

import attrs

from trifcgi.protocol.constants import ProtocolStatus, Role

__all__ = [
    "ConnectionEnded",
    "DataEnded",
    "DataReceived",
    "Event",
    "ParamsReceived",
    "ParamsTooLarge",
    "RequestAborted",
    "RequestBegun",
    "RequestEnded",
    "StderrEnded",
    "StderrReceived",
    "StdinEnded",
    "StdinReceived",
    "StdoutEnded",
    "StdoutReceived",
    "UnknownTypeReceived",
    "ValuesReceived",
    "ValuesRequested",
]


@attrs.define
class RequestBegun:
    """A front end begins a request (§5.1). To the application.

    Attributes:
        request_id: 1 to 65,535; active from now until ``end_request``.
        role: a :class:`Role`, or the int of a role that FastCGI 1.0 does not know: such a
            request is to be ended with ``ProtocolStatus.UNKNOWN_ROLE``.
        keep_connection: whether the connection stays open after the answer.
        flags: the whole byte, of which ``keep_connection`` is bit 0.
    """

    request_id: int
    role: Role | int
    keep_connection: bool
    flags: int


@attrs.define
class ParamsReceived:
    """All params of a request are there (§5.2). To the application.

    For an authorizer this is the last thing to wait for: its request has no stdin (§6.3).

    Attributes:
        request_id: whose.
        pairs: in the order in which they came, with duplicates.
    """

    request_id: int
    pairs: list[tuple[bytes, bytes]]


@attrs.define
class ParamsTooLarge:
    """A request's params passed a limit, and are dropped. To the application, once a request, in
    place of :class:`ParamsReceived`; events about stdin still follow until ``end_request``.
    """

    request_id: int


@attrs.define
class StdinReceived:
    """Bytes of a request's body (§5.3), never empty. To the application."""

    request_id: int
    data: bytes


@attrs.define
class StdinEnded:
    """The body is complete. To the application; never for an authorizer."""

    request_id: int


@attrs.define
class DataReceived:
    """Bytes of a filter's file (§5.3, §6.4), never empty. To the application."""

    request_id: int
    data: bytes


@attrs.define
class DataEnded:
    """A filter's file is complete. To the application."""

    request_id: int


@attrs.define
class RequestAborted:
    """The front end wants no answer any more (§5.4). To the application.

    It may come before any params (HAProxy 2.6 on a path it cannot decode). No event follows for
    this request, which stays active until ``end_request``.
    """

    request_id: int


@attrs.define
class ValuesRequested:
    """The front end asked about the application (§4.1); the answer is queued already. To the
    application.
    """

    names: list[bytes]


@attrs.define
class StdoutReceived:
    """Bytes of the response (§5.3), never empty. To the front end."""

    request_id: int
    data: bytes


@attrs.define
class StdoutEnded:
    """The response is complete. To the front end. An application may leave this out and go
    straight to :class:`RequestEnded`.
    """

    request_id: int


@attrs.define
class StderrReceived:
    """Bytes for the error log (§5.3), never empty. To the front end."""

    request_id: int
    data: bytes


@attrs.define
class StderrEnded:
    """Nothing more for the error log. To the front end. Few applications send it."""

    request_id: int


@attrs.define
class RequestEnded:
    """The request is over and its ID free (§5.5). To the front end.

    Attributes:
        request_id: which one.
        app_status: 0 to 2**32 - 1.
        protocol_status: a :class:`ProtocolStatus`, or the int of one that FastCGI 1.0 does
            not know.
    """

    request_id: int
    app_status: int
    protocol_status: ProtocolStatus | int


@attrs.define
class ValuesReceived:
    """The answer to ``get_values`` (§4.1): names that the application does not know are not
    in it. To the front end.
    """

    values: dict[bytes, bytes]


@attrs.define
class UnknownTypeReceived:
    """The application does not know a management record's type (§4.2). To the front end."""

    record_type: int


@attrs.define
class ConnectionEnded:
    """The peer sends nothing more. To both sides, from ``receive_eof``.

    Attributes:
        truncated: its last record was cut short.
    """

    truncated: bool


Event: TypeAlias = (
    RequestBegun
    | ParamsReceived
    | ParamsTooLarge
    | StdinReceived
    | StdinEnded
    | DataReceived
    | DataEnded
    | RequestAborted
    | ValuesRequested
    | StdoutReceived
    | StdoutEnded
    | StderrReceived
    | StderrEnded
    | RequestEnded
    | ValuesReceived
    | UnknownTypeReceived
    | ConnectionEnded
)
"""Any event."""
