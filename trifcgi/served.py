"""What compiled adapters ask of each request, where it is the server's own; compiled."""

from typing import TYPE_CHECKING

from trifcgi.cgi.reading import Reading

if TYPE_CHECKING:
    from trifcgi.request import StopSignal

__all__ = ["Served"]


class Served:
    """A :class:`~trifcgi.request.Request` that is compiled itself: an adapter that knows it for
    one gets at it in no time.

    Attributes:
        aborted_: see :attr:`trifcgi.Request.aborted`.
        block: see :attr:`trifcgi.request.Request.block`.
        reading: the same, read, where the handler wants that; or ``None``.
        stop_signal: see :attr:`trifcgi.request.Request.stop_signal`.
    """

    __slots__ = ("aborted_", "block", "reading", "stop_signal")

    aborted_: bool
    block: bytes
    reading: Reading | None
    stop_signal: "StopSignal"

    def respond(self, head: bytes, body: bytes, *, bodyless: bool = False) -> bool:
        """See :meth:`trifcgi.request.Request.respond`."""
        raise NotImplementedError
