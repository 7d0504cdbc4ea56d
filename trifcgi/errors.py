"""Every error that trifcgi raises on purpose, on one page.

Bad arguments stay ``TypeError`` and ``ValueError``; a stream that cannot be used
any more raises trio's own ``BrokenResourceError`` and ``ClosedResourceError``.
What is here is what a caller would treat differently from those.
"""

from collections.abc import Sequence

__all__ = [
    "AppLoadError",
    "ConfigurationError",
    "ConnectionLost",
    "Error",
    "LocalProtocolError",
    "ProtocolError",
    "RequestRefused",
    "ResponseError",
    "RoleRefused",
]


class Error(Exception):
    """The root: whatever trifcgi raises on purpose derives from it."""


class ProtocolError(Error):
    """The peer sent bytes that are not FastCGI 1.0.

    Raised by the sans-I/O layer, after which its connection object takes no more
    input. In the server it ends that one connection.

    Attributes:
        request_id: the request that the offending record named, or ``None`` where
            the record could not be read at all. 0 is the null (management) ID.
        events: what the bytes ahead of the offending record meant, where they came in the
            same piece.
    """

    def __init__(self, message: str, request_id: int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.events: Sequence[object] = ()


class LocalProtocolError(Error):
    """Our own side asked for a move that FastCGI does not allow at this point."""


class ResponseError(Error):
    """An application gave a response that cannot be sent: a header with a line
    break in it, a status outside 200 to 999, messages out of order.
    """


class RoleRefused(Error):
    """A handler does not serve the role that the front end asked for.

    A handler may raise it before its response has begun; the server then ends the request
    with FCGI_UNKNOWN_ROLE (§5.5).
    """


class ConfigurationError(Error):
    """A mistake in options, environment, files or addresses: one plain sentence that
    says what to do. The command line prints it and exits with status 2.
    """


class AppLoadError(ConfigurationError):
    """The application cannot be found, or is not one, or its startup failed.

    Where the application's own code raised, that exception is the ``__cause__``.
    """


class ConnectionLost(Error):
    """The other side went away before the exchange was over (client side)."""


class RequestRefused(Error):
    """The application server ended a request with another protocol status than
    FCGI_REQUEST_COMPLETE (client side).

    Attributes:
        protocol_status: the status from FCGI_END_REQUEST (§5.5), an int.
    """

    def __init__(self, message: str, protocol_status: int) -> None:
        super().__init__(message)
        self.protocol_status = protocol_status
