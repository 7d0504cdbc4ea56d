"""Hooks that the server calls, synchronously, at the turning points of its work."""

import enum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trifcgi.request import Request

__all__ = ["Instrument", "Outcome", "StopReason"]


class StopReason(enum.Enum):
    """Why a request was stopped before its handler was done."""

    ABORTED = "aborted"  # the front end sent FCGI_ABORT_REQUEST
    LOST = "connection lost"
    TIMED_OUT = "request timeout"
    READ_TIMED_OUT = "read timeout"
    WRITE_TIMED_OUT = "write timeout"
    TOO_LARGE = "body too large"
    DRAINED = "server stopping"
    CANCELLED = "cancelled"  # the handler's own scope, or an operator

    def __str__(self) -> str:
        return self.value


@attrs.define
class Outcome:
    """How a request ended, for logs and metrics.

    Attributes:
        status: the HTTP status of the response; ``None`` where none was begun.
        body_bytes: bytes of response body handed to the connection.
        bytes_in: bytes of request body received.
        duration: seconds from FCGI_BEGIN_REQUEST to FCGI_END_REQUEST.
        app_status: the FastCGI application status.
        reason: why it was stopped, or ``None`` when the handler finished by itself.
        failed: whether the handler raised.
        refused: the server answered itself, without calling the handler.
    """

    status: int | None
    body_bytes: int
    bytes_in: int
    duration: float
    app_status: int
    reason: StopReason | None
    failed: bool
    refused: bool


class Instrument:
    """An observer with no-op hooks: override what you need.

    Hooks run inside the server's own steps: they must not block, and what they raise is
    logged and disables the instrument.
    """

    def connection_opened(self, peer: str) -> None:
        """A front end has connected. ``peer`` is ``HOST:PORT`` or ``unix``."""

    def connection_closed(self, peer: str, cause: str) -> None:
        """That connection is gone; ``cause`` is one plain phrase."""

    def request_started(self, request: "Request") -> None:
        """The handler is about to be called, or a WSGI app's thread has been given the request:
        that has no cancel scope before a task has to wait for something.
        """

    def request_ended(self, request: "Request", outcome: Outcome) -> None:
        """The request is over, whoever answered it."""
