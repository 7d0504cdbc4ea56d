"""``Request.stdout``; compiled. What waits in it stands in :mod:`trifcgi.server.streams`."""

from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from trifcgi.attempt import DONE, Attempt
from trifcgi.protocol.pairs import COMPILED
from trifcgi.request import ResponseStream
from trifcgi.server import streams
from trifcgi.server.streams import FULL, NOT_TAKEN, SENT

if TYPE_CHECKING:
    from trifcgi.server.exchange import Exchange

__all__ = ["Stdout"]

_DONE: Final = DONE
_SENT: Final = SENT
_FULL: Final = FULL
_NOT_TAKEN: Final = NOT_TAKEN


class _Sending(Attempt):
    __slots__ = ("data", "exchange")

    exchange: "Exchange"
    data: Any

    def name(self) -> str:
        return "stdout.send_all()"

    def __await__(self) -> Any:
        if self.begun:
            raise self.reused()
        self.begun = True
        data = self.data
        exchange = self.exchange
        outcome = exchange.put(data) if type(data) is bytes else _NOT_TAKEN
        if outcome == _SENT:
            return _DONE
        if outcome == _FULL:
            return self.wait(streams.wait_for_room(exchange))
        return self.wait(streams.send_all(exchange, data))


class Stdout:
    """A request's response; see :class:`trifcgi.request.ResponseStream`."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange

    @property
    def begun(self) -> bool:
        return self._exchange.head is not None

    def send_head(self, head: bytes, *, bodyless: bool = False) -> None:
        self._exchange.send_head(head, bodyless)

    def send_all(self, data: Any) -> Awaitable[None]:
        """Send response bytes; wait while too much is unsent.

        A cancel while waiting leaves a whole number of records on the wire: other requests
        on the connection do not notice.

        Raises:
            ResponseError: what came before the first blank line is no response head.
            trio.BrokenResourceError: the request was aborted or its connection is lost.
            trio.BusyResourceError: another task is in the middle of sending a long piece.
            trio.ClosedResourceError: the stream was closed.
        """
        if not COMPILED:
            return streams.put_or_send(self._exchange, data)
        sending = _Sending()
        sending.begun = False
        sending.waiting = None
        sending.exchange = self._exchange
        sending.data = data
        return sending

    def wait_send_all_might_not_block(self) -> Coroutine[Any, Any, None]:
        """Return once a small ``send_all`` would not wait."""
        return streams.wait_to_send(self._exchange)

    def aclose(self) -> Coroutine[Any, Any, None]:
        """End the response. The handler may go on; what it sends from here on is refused.

        For a responder whose head is not whole this changes nothing: the server's own
        answer is still to come.
        """
        return streams.close_stdout(self._exchange)

    def __aenter__(self) -> Coroutine[Any, Any, "Stdout"]:
        return streams.enter(self)

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        return streams.close_stdout(self._exchange)

    def end(self) -> None:
        self._exchange.end_early()


ResponseStream.register(Stdout)
