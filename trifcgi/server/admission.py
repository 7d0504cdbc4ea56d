"""Which requests are taken on; compiled."""

import logging
import sys
from typing import Final

from trifcgi.protocol.constants import Role
from trifcgi.server.ending import Refusal, describe
from trifcgi.server.exchange import Exchange
from trifcgi.server.state import State

__all__ = ["admit"]

_log = logging.getLogger("trifcgi.server")

# Digits of the largest 64-bit number.
_MAX_DIGITS: Final = 19

_METHOD_LENGTH: Final = len(b"REQUEST_METHOD")
_RESPONDER: Final = Role.RESPONDER

_TOO_MANY: Final[Refusal] = (503, "The server is busy.", ((b"Retry-After", b"1"),))
_NO_METHOD: Final[Refusal] = (400, "The params have no REQUEST_METHOD.", ())
_TOO_LARGE: Final[Refusal] = (413, "The request's body is too large.", ())


def admit(state: State, exchange: Exchange) -> Refusal | None:
    """Look at a request whose params are whole: ``None``, or why it is refused."""
    if exchange.role is _RESPONDER and not _has_method(exchange):
        return _NO_METHOD
    if state.max_body >= 0 and (
        _number(exchange.find_param(b"CONTENT_LENGTH") or b"") > state.max_body
    ):
        return _TOO_LARGE
    if state.running >= state.max_requests:
        return _TOO_MANY
    # Nearly always it is nowhere, which a search for the bytes tells much faster; and `in` would
    # try them as a number first.
    if not exchange.block or exchange.block.find(b"REQUEST_TIMEOUT") >= 0:
        wanted = exchange.find_param(b"REQUEST_TIMEOUT")
        if wanted is not None:
            _shorten(exchange, wanted)
    state.running += 1
    exchange.admitted = True
    return None


def _has_method(exchange: Exchange) -> bool:
    """Whether the params make a request.

    A search for the bytes of such a pair takes a fraction of going through all of them. Some
    value may hold them, too: where REQUEST_METHOD itself is missing then, the handler finds out.
    """
    block = exchange.block
    at = block.find(b"REQUEST_METHOD")
    if at >= 2 and block[at - 2] == _METHOD_LENGTH and 0 < block[at - 1] < 128:
        return True
    return bool(exchange.method)


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
