"""The instruments of a data plane, called safely."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trifcgi.observe.instrument import Instrument
from trifcgi.observe.recorder import Recorder, end_of
from trifcgi.protocol.pairs import COMPILED

if TYPE_CHECKING:
    from trifcgi.server.exchange import Exchange

__all__ = ["Observers"]

_Hook: TypeAlias = Callable[..., Any]

_log: Final = logging.getLogger("trifcgi.server")

_IN_BLOCK: Final[Mapping[bytes, bytes]] = {}


class Observers:
    """Calls the hooks that instruments override. One that raises is logged and switched off.

    Attributes:
        started: those for the start of a request.
    """

    __slots__ = ("_closed", "_ended", "_opened", "_recorders", "_recording", "started")

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        everyone = list(instruments)
        self._recording = [each for each in everyone if _recorder_of(each) is not None]
        self._recorders = _recorders_of(self._recording)
        # A request must not pay for hooks that nobody has.
        self._opened = _overridden(everyone, "connection_opened")
        self._closed = _overridden(everyone, "connection_closed")
        self.started = _overridden(everyone, "request_started")
        hooked = [each for each in everyone if _recorder_of(each) is None]
        self._ended = _overridden(hooked, "request_ended")

    def connection_opened(self, peer: str) -> None:
        """Pass on to :meth:`Instrument.connection_opened`."""
        for hook in self._opened:
            self._call(hook, peer)

    def connection_closed(self, peer: str, cause: str) -> None:
        """Pass on to :meth:`Instrument.connection_closed`."""
        for hook in self._closed:
            self._call(hook, peer, cause)

    def request_started(self, exchange: "Exchange") -> None:
        """Pass on to :meth:`Instrument.request_started`."""
        for hook in self.started:
            self._call(hook, exchange)

    def request_ended(self, exchange: "Exchange", app_status: int, now: float) -> None:
        """Tell the recorders, and pass on to :meth:`Instrument.request_ended`."""
        if self._recorders:
            self._record(exchange, app_status, now)
        if self._ended:
            outcome = exchange.outcome(app_status, now)
            for hook in self._ended:
                try:
                    hook(exchange, outcome)
                except Exception:  # noqa: BLE001 - logged, and the instrument is out
                    self._failed(hook)

    def _record(self, exchange: "Exchange", app_status: int, now: float) -> None:
        reading = exchange.reading
        if reading is not None and reading.leaf is None:
            reading = None
        # To look through a block is dear in Python itself.
        block = exchange.block if COMPILED or reading is not None else b""
        params = _IN_BLOCK if block else exchange.named
        status = exchange.status_sent()
        duration = now - exchange.begun_at
        if duration < 0.0:
            duration = 0.0
        end = end_of(exchange.reason, exchange.failed, exchange.refused)
        instruments = self._recording
        for i, recorder in enumerate(self._recorders):
            try:
                recorder.record(
                    block, params, reading, exchange.role, status, exchange.body_bytes,
                    exchange.received, duration, app_status, end,
                )  # fmt: skip
            except Exception:  # noqa: BLE001 - logged, and the instrument is out
                _log.exception("the instrument %r raised and is switched off", instruments[i])
                self._switch_off(instruments[i])

    def _call(self, hook: _Hook, *arguments: object) -> None:
        try:
            hook(*arguments)
        except Exception:  # noqa: BLE001 - logged, and the instrument is out
            self._failed(hook)

    def _failed(self, hook: _Hook) -> None:
        """An instrument has just raised."""
        instrument = getattr(hook, "__self__", hook)
        _log.exception("the instrument %r raised and is switched off", instrument)
        self._switch_off(instrument)

    def _switch_off(self, instrument: object) -> None:
        # New ones: the old may just be gone through.
        self._recording = [each for each in self._recording if each is not instrument]
        self._recorders = _recorders_of(self._recording)
        self._opened = _without(self._opened, instrument)
        self._closed = _without(self._closed, instrument)
        self.started = _without(self.started, instrument)
        self._ended = _without(self._ended, instrument)


def _recorder_of(instrument: Instrument) -> Recorder | None:
    found = getattr(instrument, "recorder", None)
    return found if isinstance(found, Recorder) else None


def _recorders_of(instruments: list[Instrument]) -> list[Recorder]:
    found = [_recorder_of(instrument) for instrument in instruments]
    return [recorder for recorder in found if recorder is not None]


def _without(hooks: tuple[_Hook, ...], instrument: object) -> tuple[_Hook, ...]:
    return tuple([h for h in hooks if getattr(h, "__self__", h) is not instrument])


def _overridden(instruments: list[Instrument], name: str) -> tuple[_Hook, ...]:
    """The hooks of that name that do something."""
    nothing = getattr(Instrument, name)
    hooks = [getattr(instrument, name) for instrument in instruments]
    return tuple([hook for hook in hooks if getattr(hook, "__func__", None) is not nothing])
