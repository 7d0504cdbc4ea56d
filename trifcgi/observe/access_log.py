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

import json
import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trifcgi.observe.access_line import (
    Fields,
    combined_line,
    end_of,
    fields_in,
    fields_of,
    target_of,
)
from trifcgi.observe.instrument import Instrument, Outcome
from trifcgi.observe.log_file import LogFile
from trifcgi.protocol.constants import Role
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

    Lines are formed at once and written a fifth of a second later at most, several at a
    time, by :meth:`keep_flushed`, which has to run beside the server.

    Args:
        file: where the lines go; closing it is the caller's.
        format: ``text`` or ``json``.
        clock: seconds since 1970.
    """

    def __init__(
        self, file: LogFile, format: str = "text", *, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._json = format == "json"
        self._clock = clock
        self._second = -1
        self._stamp = Stamp.at(0)
        self._expected = False
        self._waiting = trio.Event()

    def request_ended(self, request: Request, outcome: Outcome) -> None:
        """Form this request's line."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._stamp = Stamp.at(second)
        block = request.block
        # To decode all params, where nobody else has, costs more than the line.
        fields = fields_in(block) if block else fields_of(request.named)
        if self._json:
            line = json_line(fields, request.role, outcome, self._stamp.iso)
        else:
            line = combined_line(fields, request.role, outcome, self._stamp.combined)
        self._file.add(line)
        if not self._expected:
            self._expected = True
            self._waiting.set()

    async def keep_flushed(self) -> None:
        """Write lines out soon after they came, until cancelled."""
        interval = 0 if self._file.interactive else _FLUSH_INTERVAL
        while True:
            await self._waiting.wait()
            await trio.sleep(interval)
            self._file.flush()
            if self._file.empty:
                self._waiting = trio.Event()
                self._expected = False


def json_line(fields: Fields, role: int, outcome: Outcome, stamp: str) -> bytes:
    r"""The same as a JSON object; what the front end did not send is ``null``.

    Bytes that are not UTF-8 stand in it as the text ``\xNN``. For the arguments see
    :func:`~trifcgi.observe.access_line.combined_line`.
    """
    address, user, method, uri, protocol, referer, agent = map(_text, fields[:7])
    values = {
        "time": stamp,
        "logger": "trifcgi.access",
        "remote_addr": address,
        "remote_user": user,
        "method": method,
        "uri": uri or _text(target_of(fields) or b"-"),
        "protocol": protocol,
        "status": outcome.status,
        "bytes": outcome.body_bytes,
        "referer": referer,
        "user_agent": agent,
        "duration": round(outcome.duration, 6),
        "bytes_in": outcome.bytes_in,
        "app_status": outcome.app_status,
        "end": end_of(outcome),
        "role": role.name.lower() if isinstance(role, Role) else role,
    }
    return json.dumps(values).encode() + b"\n"


def _text(value: bytes) -> str | None:
    return value.decode("utf-8", "backslashreplace") if value else None
