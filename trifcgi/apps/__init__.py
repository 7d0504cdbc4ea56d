"""Applications of every kind as handlers: ASGI, and what is told apart to get there."""

from trifcgi.apps.asgi import ClientDisconnected, asgi

__all__ = ["ClientDisconnected", "asgi"]
