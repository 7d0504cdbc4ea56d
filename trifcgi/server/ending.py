"""How a request ends: which answer, if any, and whether its connection can go on.

Every outcome comes through here once, and leaves through one of the connection's three doors:
``end`` (END_REQUEST), ``forget`` (no more can be sent) and ``cut`` (the response must not look
whole).
"""

import logging
import traceback
from typing import Any, Final

import trio

from trifcgi.cgi import error_response
from trifcgi.errors import RoleRefused
from trifcgi.observe.instrument import StopReason
from trifcgi.protocol import ProtocolStatus, Role
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase

__all__ = ["Refusal", "describe", "failed", "refuse", "returned", "stopped"]

_log = logging.getLogger("trifcgi.server")

_RESPONDED: Final = Phase.RESPONDED

Refusal = tuple[int, str, tuple[tuple[bytes, bytes], ...]]
"""HTTP status, one sentence for the client, more headers."""

_STOPPED: dict[StopReason, Refusal] = {
    StopReason.TIMED_OUT: (504, "The application took too long.", ()),
    StopReason.READ_TIMED_OUT: (408, "The request's body did not arrive in time.", ()),
    StopReason.TOO_LARGE: (413, "The request's body is too large.", ()),
    StopReason.DRAINED: (503, "The server is stopping.", ((b"Retry-After", b"1"),)),
    StopReason.CANCELLED: (503, "The request was cancelled.", ()),
}


def returned(exchange: Exchange, app_status: Any) -> None:
    """The handler has returned before its request ended; anything but ``None`` or an int is its
    mistake.
    """
    if app_status is None:
        app_status = 0
    elif not isinstance(app_status, int):
        _log.error(
            "%s: the handler must return None or an int, not %r", describe(exchange), app_status
        )
        app_status = 1
    if exchange.head is not None:
        exchange.connection.end(exchange, app_status)
    elif exchange.reason is not None:
        stopped(exchange)
    else:
        what = "half a response head" if exchange.held else "no response"
        text = f"{describe(exchange)}: the application returned {what}"
        _log.error("%s", text)
        _fail(exchange, text + "\n")


def failed(exchange: Exchange, error: BaseException) -> None:
    """The handler has raised."""
    if exchange.phase is _RESPONDED:
        _log.error(
            "%s: the application raised after its response", describe(exchange), exc_info=error
        )
        exchange.connection.release(exchange)
        return
    if exchange.aborted and isinstance(error, (OSError, trio.BrokenResourceError)):
        # The usual end of a handler that writes to a front end which has gone.
        stopped(exchange)
        return
    if isinstance(error, RoleRefused) and exchange.head is None and not exchange.aborted:
        _log.warning("%s: %s", describe(exchange), error)
        exchange.refused = True
        exchange.connection.end(exchange, 0, ProtocolStatus.UNKNOWN_ROLE)
        return
    _log.error("%s: the application raised", describe(exchange), exc_info=error)
    _fail(exchange, "".join(traceback.format_exception(error)))


def _fail(exchange: Exchange, text: str) -> None:
    exchange.failed = True
    if exchange.complete and not exchange.aborted:
        exchange.write_stderr(text.encode("utf-8", "backslashreplace"))
    if exchange.head is not None or exchange.reason is not None:
        # Stopped, and then failed in its clean-up: the reason is the answer. A response that
        # will be cut gets no more FCGI_STDERR: HAProxy 2.6.12 may die of one ahead of a close.
        stopped(exchange)
    else:
        exchange.write_stderr(text.encode("utf-8", "backslashreplace"))
        _answer(exchange, 500, "", ())
        exchange.connection.end(exchange, 1)


def stopped(exchange: Exchange) -> None:
    """The handler was cancelled, never called, or has failed after it had begun."""
    connection = exchange.connection
    if exchange.phase is _RESPONDED:
        _log.warning("%s: cancelled after its response (%s)", describe(exchange), exchange.reason)
        connection.release(exchange)
        return
    reason = exchange.reason
    if reason is None and not exchange.failed:
        # The handler's own doing, through the scope.
        expired = exchange.scope is not None and exchange.scope.deadline <= connection.plane.now()
        reason = exchange.reason = StopReason.TIMED_OUT if expired else StopReason.CANCELLED
    if connection.lost:
        connection.forget(exchange, 1)
    elif reason is StopReason.ABORTED or exchange.complete:
        connection.end(exchange, 1)
    elif exchange.head is not None:
        _log.warning(
            "%s: the response was cut%s", describe(exchange), f" ({reason})" if reason else ""
        )
        connection.cut(exchange)
    else:
        _answer(exchange, *_STOPPED[reason or StopReason.CANCELLED])
        if reason is StopReason.READ_TIMED_OUT:
            exchange.keep_connection = False
        connection.end(exchange, 1)


def refuse(exchange: Exchange, refusal: Refusal) -> None:
    """Answer a request in the server's own name, before its handler was called."""
    exchange.refused = True
    if refusal[0] == 503 and exchange.role is not Role.RESPONDER:
        # Front ends ignore FCGI_OVERLOADED or choke on it, so a responder's is a 503.
        exchange.connection.end(exchange, 0, ProtocolStatus.OVERLOADED)
        return
    _answer(exchange, *refusal)
    exchange.connection.end(exchange, 0)


def _answer(
    exchange: Exchange, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    head_only = exchange.method == b"HEAD"
    response = error_response(status, detail, headers=headers, head_only=head_only)
    exchange.begin_response(response, False, status)


def describe(exchange: Exchange) -> str:
    """Name a request in a log line: method, URI, peer; hostile bytes escaped."""
    params = exchange.params
    method = params.get("REQUEST_METHOD", "-")
    uri = params.get("REQUEST_URI") or params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
    return f"{_plain(method)} {_plain(uri)} from {exchange.connection.peer}"


def _plain(text: str) -> str:
    return ascii(text[:500])[1:-1]
