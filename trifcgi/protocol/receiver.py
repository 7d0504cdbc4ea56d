"""What a front end's records mean to an application, told by calls in place of events.

A server that takes tens of thousands of requests a second makes no object for each record:
its connection is a :class:`Receiver`, and a :class:`~trifcgi.protocol.Connection` that was
given one calls it. Everybody else gets :class:`~trifcgi.protocol.Event` objects, which
:class:`EventCollector` makes out of the same calls.
"""

from typing import TYPE_CHECKING, Any, Final

from trifcgi.protocol.constants import Role
from trifcgi.protocol.events import (
    DataEnded,
    DataReceived,
    Event,
    ParamsReceived,
    ParamsTooLarge,
    RequestAborted,
    RequestBegun,
    StdinEnded,
    StdinReceived,
    ValuesRequested,
)
from trifcgi.protocol.pairs import COMPILED, count_pairs, decode_pairs

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["EventCollector", "Receiver"]

# Any, as compiled code takes what is a Role or an int for an int.
_ROLES: Final[dict[int, Any]] = {int(role): role for role in Role}


class Receiver:
    """An application's ears: one method for each event, in the order of the records.

    A method may send, and end the request that it is told of; records of it that still follow are
    then ignored (§3.3). The classes of :mod:`trifcgi.protocol.events` say what each means.
    """

    __slots__ = ()

    def request_begun(
        self, request_id: "i64", role: "i64", keep_connection: bool, flags: "i64"
    ) -> None:
        """See :class:`~trifcgi.protocol.RequestBegun`. ``role`` is a number here."""
        raise NotImplementedError

    def take_params(self, block: bytes, most: "i64") -> "i64":
        """Look through the params of a request, which are complete, ahead of
        :meth:`params_received` or :meth:`params_too_large`: the one way through them that all
        need, and whoever wants to know more of them keeps what it comes by.

        Args:
            block: they.
            most: nothing is made of more pairs than that.

        Returns:
            How many pairs there are, or some number larger than ``most``.

        Raises:
            ProtocolError: they end inside a pair.
        """
        return count_pairs(block, most)

    def request_received(
        self,
        request_id: "i64",
        role: "i64",
        keep_connection: bool,
        flags: "i64",
        block: bytes,
    ) -> None:
        """A request has come at once and has no body: stands for :meth:`request_begun`,
        :meth:`params_received` and :meth:`stdin_ended`. A receiver that ends requests in one of
        these leaves out what follows.
        """
        self.request_begun(request_id, role, keep_connection, flags)
        self.params_received(request_id, block)
        self.stdin_ended(request_id)

    def params_received(self, request_id: "i64", block: bytes) -> None:
        """See :class:`~trifcgi.protocol.ParamsReceived`.

        Args:
            request_id: whose.
            block: what :func:`~trifcgi.protocol.decode_pairs` makes the pairs of, without an
                error: whoever needs few of them, or all in another form, need not make them.
        """
        raise NotImplementedError

    def params_too_large(self, request_id: "i64") -> None:
        """See :class:`~trifcgi.protocol.ParamsTooLarge`."""
        raise NotImplementedError

    def stdin_received(self, request_id: "i64", data: bytes) -> None:
        """See :class:`~trifcgi.protocol.StdinReceived`."""
        raise NotImplementedError

    def stdin_ended(self, request_id: "i64") -> None:
        """See :class:`~trifcgi.protocol.StdinEnded`."""
        raise NotImplementedError

    def data_received(self, request_id: "i64", data: bytes) -> None:
        """See :class:`~trifcgi.protocol.DataReceived`."""
        raise NotImplementedError

    def data_ended(self, request_id: "i64") -> None:
        """See :class:`~trifcgi.protocol.DataEnded`."""
        raise NotImplementedError

    def request_aborted(self, request_id: "i64") -> None:
        """See :class:`~trifcgi.protocol.RequestAborted`."""
        raise NotImplementedError

    def values_requested(self, names: list[bytes]) -> None:
        """See :class:`~trifcgi.protocol.ValuesRequested`."""
        raise NotImplementedError


class EventCollector(Receiver):
    """Makes an event of each call.

    Attributes:
        events: those so far; whoever takes them puts a new list there.
    """

    __slots__ = ("_pairs", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._pairs: list[tuple[bytes, bytes]] | None = None

    def request_begun(
        self, request_id: "i64", role: "i64", keep_connection: bool, flags: "i64"
    ) -> None:
        known: Any = _ROLES.get(role, role)
        self.events.append(RequestBegun(request_id, known, keep_connection, flags))

    def take_params(self, block: bytes, most: "i64") -> "i64":
        # Pairs are made once, but of a block that may have too many not before they are counted.
        if COMPILED or len(block) > 2 * most:
            return count_pairs(block, most)
        self._pairs = pairs = decode_pairs(block)
        return len(pairs)

    def params_received(self, request_id: "i64", block: bytes) -> None:
        pairs, self._pairs = self._pairs, None
        self.events.append(
            ParamsReceived(request_id, decode_pairs(block) if pairs is None else pairs)
        )

    def params_too_large(self, request_id: "i64") -> None:
        self._pairs = None
        self.events.append(ParamsTooLarge(request_id))

    def stdin_received(self, request_id: "i64", data: bytes) -> None:
        self.events.append(StdinReceived(request_id, data))

    def stdin_ended(self, request_id: "i64") -> None:
        self.events.append(StdinEnded(request_id))

    def data_received(self, request_id: "i64", data: bytes) -> None:
        self.events.append(DataReceived(request_id, data))

    def data_ended(self, request_id: "i64") -> None:
        self.events.append(DataEnded(request_id))

    def request_aborted(self, request_id: "i64") -> None:
        self.events.append(RequestAborted(request_id))

    def values_requested(self, names: list[bytes]) -> None:
        self.events.append(ValuesRequested(names))
