r"""The access log: one line per request, in the combined format and a little more.

::

    192.0.2.7 - - [31/Jan/2026:12:34:56 +0000] "GET /a?b HTTP/1.1" 200 512 "-" "curl/8"
    time=0.001234 in=0 app_status=0 end=complete

(on one line). ``time`` is in seconds, from FCGI_BEGIN_REQUEST to FCGI_END_REQUEST, ``in``
is the size of the body received, and ``end`` tells why the request ended: ``complete``,
``failed`` (the app raised), ``refused`` (the server answered by itself), or what stopped
it, such as ``connection-lost``. The status is 000 where no response was begun, because
programs that read such logs want a number there. Roles other than the responder add
``role=``.

How hostile bytes are written, :mod:`trifcgi.observe.access_line` says.
"""

import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trifcgi.observe.access_line import AccessLines, json_line
from trifcgi.observe.instrument import Instrument, Outcome
from trifcgi.observe.log_file import LogFile
from trifcgi.observe.recorder import end_of
from trifcgi.request import Request

__all__ = ["AccessLog", "Stamp", "json_line"]

_FLUSH_INTERVAL: Final = 0.2
"""Seconds that a line may wait for company: written alone it would cost more than to form."""

# Not from strftime, which speaks the locale's language.
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


@attrs.frozen
class Stamp:
    """One second of time, as both formats write it."""

    combined: bytes
    iso: str

    @classmethod
    def at(cls, second: int) -> "Stamp":
        """The local time at ``second`` seconds after 1970."""
        at = time.localtime(second)
        sign, offset = ("-", -at.tm_gmtoff) if at.tm_gmtoff < 0 else ("+", at.tm_gmtoff)
        hours, minutes = divmod(offset // 60, 60)
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        day = f"{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        date = f"{at.tm_year}-{at.tm_mon:02}-{at.tm_mday:02}"
        return cls(
            f"{day}:{clock} {sign}{hours:02}{minutes:02}".encode(),
            f"{date}T{clock}{sign}{hours:02}:{minutes:02}",
        )


class AccessLog(Instrument):
    """Writes a line for every request that ends.

    Lines are formed and written a fifth of a second later at most, several at a time, by
    :meth:`keep_flushed`, which has to run beside the server.

    Args:
        file: where the lines go; closing it is the caller's.
        format: ``text`` or ``json``.
        clock: seconds since 1970.
    """

    def __init__(
        self, file: LogFile, format: str = "text", *, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._waiting = trio.Event()
        as_json = format == "json"
        write = _iso if as_json else _combined
        self.recorder = AccessLines(file, as_json, clock, write, self._wake)

    def _wake(self) -> None:
        self._waiting.set()

    def request_ended(self, request: Request, outcome: Outcome) -> None:
        """Take note of what this request's line tells."""
        block = request.block
        self.recorder.record(
            block, {} if block else request.named, None, request.role,
            outcome.status or 0, outcome.body_bytes, outcome.bytes_in, outcome.duration,
            outcome.app_status, end_of(outcome.reason, outcome.failed, outcome.refused),
        )  # fmt: skip

    async def keep_flushed(self) -> None:
        """Write lines out soon after they came, until cancelled."""
        interval = 0 if self._file.interactive else _FLUSH_INTERVAL
        while True:
            await self._waiting.wait()
            await trio.sleep(interval)
            self._file.flush()
            if self._file.empty:
                self._waiting = trio.Event()
                self.recorder.expected = False


def _combined(second: int) -> bytes:
    return Stamp.at(second).combined


def _iso(second: int) -> bytes:
    return Stamp.at(second).iso.encode()
