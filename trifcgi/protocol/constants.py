"""The numbers of the FastCGI 1.0 specification (§8), without their FCGI_ prefix."""

import enum
from typing import Final

__all__ = [
    "HEADER_LEN",
    "KEEP_CONN",
    "LISTENSOCK_FILENO",
    "MAX_CONNS",
    "MAX_CONTENT_LENGTH",
    "MAX_REQS",
    "MAX_REQUEST_ID",
    "MAX_ROLE",
    "MPXS_CONNS",
    "NULL_REQUEST_ID",
    "VERSION_1",
    "ProtocolStatus",
    "RecordType",
    "Role",
]

LISTENSOCK_FILENO: Final = 0
HEADER_LEN: Final = 8
VERSION_1: Final = 1
NULL_REQUEST_ID: Final = 0
MAX_CONTENT_LENGTH: Final = 0xFFFF
MAX_REQUEST_ID: Final = 0xFFFF
MAX_ROLE: Final = 0xFFFF
KEEP_CONN: Final = 1

MAX_CONNS: Final = b"FCGI_MAX_CONNS"
MAX_REQS: Final = b"FCGI_MAX_REQS"
MPXS_CONNS: Final = b"FCGI_MPXS_CONNS"


class _Named(enum.IntEnum):
    """Prints as its name; a number outside the enum stays a plain int elsewhere."""

    def __str__(self) -> str:
        return self.name


class RecordType(_Named):
    """Record types (§8)."""

    BEGIN_REQUEST = 1
    ABORT_REQUEST = 2
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7
    DATA = 8
    GET_VALUES = 9
    GET_VALUES_RESULT = 10
    UNKNOWN_TYPE = 11


class Role(_Named):
    """What the front end asks an application to be (§6)."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


class ProtocolStatus(_Named):
    """How the protocol ended a request (§5.5)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3
