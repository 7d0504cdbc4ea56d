"""What a WSGI application is told once its request is over."""

from trifcgi.errors import Error

__all__ = ["RequestGone"]


class RequestGone(Error, ConnectionAbortedError):
    """The request is over while its WSGI app still runs: the front end has aborted it or is
    gone, or the server gave it up. Reading ``wsgi.input``, ``write()`` and
    ``start_response()`` raise it. An ``OSError`` (ECONNABORTED), as apps expect of a
    broken connection.
    """
