"""The instruments of a data plane, called safely."""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from trifcgi.observe.instrument import Instrument

if TYPE_CHECKING:
    from trifcgi.server.exchange import Exchange

__all__ = ["Observers"]

_log = logging.getLogger("trifcgi.server")


class Observers:
    """Calls each instrument's hooks. One that raises is logged and not called again."""

    __slots__ = ("_instruments",)

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._instruments = list(instruments)

    def _tell(self, hook: Callable[[Instrument], Any]) -> None:
        for instrument in list(self._instruments):
            try:
                hook(instrument)
            except Exception:  # noqa: BLE001 - logged, at one of the three borders
                _log.exception("the instrument %r raised and is switched off", instrument)
                self._instruments.remove(instrument)

    def connection_opened(self, peer: str) -> None:
        """Pass on to :meth:`Instrument.connection_opened`."""
        if self._instruments:
            self._tell(lambda instrument: instrument.connection_opened(peer))

    def connection_closed(self, peer: str, cause: str) -> None:
        """Pass on to :meth:`Instrument.connection_closed`."""
        if self._instruments:
            self._tell(lambda instrument: instrument.connection_closed(peer, cause))

    def request_started(self, exchange: "Exchange") -> None:
        """Pass on to :meth:`Instrument.request_started`."""
        if self._instruments:
            self._tell(lambda instrument: instrument.request_started(exchange))

    def request_ended(self, exchange: "Exchange", app_status: int, now: float) -> None:
        """Pass on to :meth:`Instrument.request_ended`."""
        if self._instruments:
            outcome = exchange.outcome(app_status, now)
            self._tell(lambda instrument: instrument.request_ended(exchange, outcome))
