"""What an ASGI application gets that goes on sending to nobody."""

__all__ = ["ClientDisconnected"]


class ClientDisconnected(OSError):
    """``send()`` was called after the front end aborted the request or went away.

    The subclass of ``OSError`` that ASGI's HTTP format asks for since 2.4. An application
    may catch it to clean up; when it lets it pass, that is no error of its own.
    """
