"""Which requests are taken on; compiled."""

import logging
import sys
from typing import TYPE_CHECKING, Final

from trifcgi.cgi.known import CONTENT_LENGTH, REQUEST_METHOD, REQUEST_TIMEOUT
from trifcgi.protocol.constants import Role
from trifcgi.protocol.pairs import long_lengths
from trifcgi.server.ending import Refusal, describe
from trifcgi.server.exchange import Exchange
from trifcgi.server.state import State

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["admit"]

_log = logging.getLogger("trifcgi.server")

# Digits of the largest 64-bit number.
_MAX_DIGITS: Final = 19

# The names that are looked for, and two of their bytes: those of few others are the same.
_LENGTH: Final = b"CONTENT_LENGTH"
_METHOD: Final = b"REQUEST_METHOD"
_METHOD_LENGTH: Final = 14
_TIMEOUT: Final = b"REQUEST_TIMEOUT"
_TIMEOUT_LENGTH: Final = 15
_R: Final = 0x52
_M: Final = 0x4D
_H: Final = 0x48

# What params tell.
_HAS_METHOD: Final = 1
_HAS_TIMEOUT: Final = 2
_MAY_BE_HEAD: Final = 4

_RESPONDER: Final = Role.RESPONDER

_TOO_MANY: Final[Refusal] = (503, "The server is busy.", ((b"Retry-After", b"1"),))
_NO_METHOD: Final[Refusal] = (400, "The params have no REQUEST_METHOD.", ())
_TOO_LARGE: Final[Refusal] = (413, "The request's body is too large.", ())


def admit(state: State, exchange: Exchange) -> Refusal | None:
    """Look at a request whose params are whole: ``None``, or why it is refused."""
    reading = exchange.reading
    if reading is None:
        told = _look(exchange.block)
        has_method = told & _HAS_METHOD != 0
        has_timeout = told & _HAS_TIMEOUT != 0
        exchange.may_be_head = told & _MAY_BE_HEAD != 0
    else:
        method: bytes | None = reading.values[REQUEST_METHOD]
        has_method = bool(method)
        has_timeout = reading.values[REQUEST_TIMEOUT] is not None
        exchange.may_be_head = method == b"HEAD"
    if not has_method and exchange.role is _RESPONDER:
        return _NO_METHOD
    if state.max_body >= 0 and _number(_find(exchange, CONTENT_LENGTH)) > state.max_body:
        return _TOO_LARGE
    if state.running >= state.max_requests:
        return _TOO_MANY
    if has_timeout:
        _shorten(exchange, _find(exchange, REQUEST_TIMEOUT))
    state.running += 1
    exchange.admitted = True
    return None


def _look(block: bytes) -> "i64":
    """What a block tells of its request, in one pass that makes nothing but the few names that
    begin and are as long as those looked for.
    """
    told: i64 = 0
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        name_length: i64 = block[at]
        value_length: i64 = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        if name_length == _METHOD_LENGTH and block[at] == _R and block[at + 8] == _M:
            if block[at : at + name_length] == _METHOD:
                told &= _HAS_TIMEOUT  # the last one counts
                if value_length > 0:
                    told |= _HAS_METHOD
                if value_length == 4 and block[at + name_length] == _H:
                    told |= _MAY_BE_HEAD
        elif (
            name_length == _TIMEOUT_LENGTH
            and block[at] == _R
            and block[at : at + name_length] == _TIMEOUT
        ):
            told |= _HAS_TIMEOUT
        at += name_length + value_length
    return told


def _find(exchange: Exchange, kind: "i64") -> bytes:
    reading = exchange.reading
    found: bytes | None
    if reading is None:
        found = exchange.find_param(_LENGTH if kind == CONTENT_LENGTH else _TIMEOUT)
    else:
        found = reading.values[kind]
    return found or b""


def _shorten(exchange: Exchange, wanted: bytes) -> None:
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        _log.warning("%s: REQUEST_TIMEOUT is no number of seconds: %a", describe(exchange), wanted)
        return
    exchange.deadline = min(exchange.deadline, exchange.begun_at + seconds)
    exchange.connection.arm(exchange.deadline)


def _number(text: bytes) -> int:
    if not text.isdigit():
        return -1
    # Python refuses to convert thousands of digits, and no body is that long.
    return int(text) if len(text) <= _MAX_DIGITS else sys.maxsize
