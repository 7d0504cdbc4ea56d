r"""A line of the access log, as text in the combined format or as JSON; compiled.

Peers choose nearly everything in a line. In text ``"`` and ``\`` are written ``\"`` and ``\\``,
control characters and bytes that are not UTF-8 ``\xNN``. In JSON bytes that are not UTF-8 stand as
the text ``\xNN``.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from trifcgi.observe.instrument import Outcome
from trifcgi.observe.log_file import FLUSH_SIZE
from trifcgi.observe.recorder import COMPLETE, Recorder, end_of
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

    from trifcgi.observe.log_file import LogFile

__all__ = ["AccessLines", "Fields", "combined_line", "fields_in", "fields_of", "json_line"]

_log: Final = logging.getLogger("trifcgi.access_log")

Fields = list[bytes]
"""The values that a line tells, in this order: REMOTE_ADDR, REMOTE_USER, REQUEST_METHOD,
REQUEST_URI, SERVER_PROTOCOL, HTTP_REFERER, HTTP_USER_AGENT, SCRIPT_NAME, PATH_INFO, QUERY_STRING;
``b""`` for one that was not sent."""

_NAMES: Final = [
    b"REMOTE_ADDR", b"REMOTE_USER", b"REQUEST_METHOD", b"REQUEST_URI", b"SERVER_PROTOCOL",
    b"HTTP_REFERER", b"HTTP_USER_AGENT", b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING",
]  # fmt: skip
_TARGET: Final = 3
_SHORTEST: Final = 9
_LONGEST: Final = 15


def _places(names: list[bytes]) -> bytes:
    """Which of the names a name can be, by its length (above) and two of its bytes (below): its
    place and one more; 0 for none.
    """
    places = bytearray(_LONGEST + 1 << 8)
    for name in names:
        places[len(name) << 8 | name[0] ^ name[_SHORTEST - 1]] = _NAMES.index(name) + 1
    return bytes(places)


# The last three matter only where the target is not told in one piece.
_USUAL_PLACES: Final = _places(_NAMES[:7])
_PLACES: Final = _places(_NAMES)

# What stands for itself in both formats, and a byte that does not for everything else.
_PLAIN: Final = bytes(c if 0x20 <= c < 0x7F and c not in b'"\\' else c ^ 0xFF for c in range(256))
_SPACE: Final = 0x20  # as a number: bytes that hold bytes are sought by way of an exception

_RESPONDER: Final = 1
_ROLES: Final = {1: "responder", 2: "authorizer", 3: "filter"}

# Numbers are put together of these: to make one takes longer than all the rest of a line.
_THREE_DIGITS: Final = [b"%03d" % number for number in range(1000)]
_UP_TO_THREE: Final = [b"%d" % number for number in range(1000)]
_STATUSES: Final = [b'" %03d ' % number for number in range(1000)]
# Requests whose lines are formed together at most, and bytes of their params.
_MOST_UNFORMED: Final = 64
_MOST_HELD: Final = 256 * 1024

_USUAL_END: Final = b" in=0 app_status=0 end=complete\n"


def fields_in(block: bytes) -> Fields:
    """Find the fields in an encoded block of params that is known to be well-formed.

    A name that occurs twice counts as it was sent last (nginx sends REMOTE_USER twice where the
    configuration overrides its stock params).
    """
    return _fields_at(block, _PLACES)


def _needed_fields(block: bytes) -> Fields:
    fields = _fields_at(block, _USUAL_PLACES)
    return fields if fields[_TARGET] else fields_in(block)


def _fields_at(block: bytes, places: bytes) -> Fields:
    fields = [b"", b"", b"", b"", b"", b"", b"", b"", b"", b""]
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        name_length: i64 = block[at]
        value_length: i64 = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle: i64 = at + name_length
        stop: i64 = middle + value_length
        if _SHORTEST <= name_length <= _LONGEST:
            # Most names are not looked for, and two of their bytes tell.
            place: i64 = places[name_length << 8 | block[at] ^ block[at + _SHORTEST - 1]]
            if (
                place != 0
                and (value_length != 0 or fields[place - 1])
                and block[at:middle] == _NAMES[place - 1]
            ):
                fields[place - 1] = block[middle:stop]
        at = stop
    return fields


def fields_of(params: Mapping[bytes, bytes]) -> Fields:
    """The fields of params that have been decoded."""
    return [params.get(name, b"") for name in _NAMES]


class _Unformed:
    """A request whose line is still to be formed: what :meth:`AccessLines.record` is told."""

    __slots__ = (
        "app_status", "block", "body_bytes", "bytes_in", "duration", "end", "role", "stamp",
        "status",
    )  # fmt: skip

    def __init__(
        self,
        block: bytes,
        role: "i64",
        status: "i64",
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
        stamp: bytes,
    ) -> None:
        self.block = block
        self.role: i64 = role
        self.status: i64 = status
        self.body_bytes = body_bytes
        self.bytes_in = bytes_in
        self.duration = duration
        self.app_status = app_status
        self.end = end
        self.stamp = stamp


class AccessLines(Recorder):
    """Adds a line to a log for every request that ends.

    A line is formed together with those of other requests: one after the other they find the code
    and the tables in the processor's cache.

    Args:
        file: the log.
        as_json: which of the formats.
        clock: seconds since 1970.
        stamp: writes a time, given in whole seconds, as the format wants it.
        wake: called when a line comes and none was expected.

    Attributes:
        expected: whether whoever was woken still looks for lines.
    """

    __slots__ = (
        "_as_json",
        "_clock",
        "_file",
        "_held",
        "_lines",
        "_second",
        "_size",
        "_stamp",
        "_stamp_at",
        "_unformed",
        "_wake",
        "expected",
    )

    def __init__(
        self,
        file: "LogFile",
        as_json: bool,
        clock: Callable[[], float],
        stamp: Callable[[int], bytes],
        wake: Callable[[], None],
    ) -> None:
        self._file = file
        self._lines: list[bytes] = file.lines
        self._unformed: list[_Unformed] = []
        self._held: i64 = 0
        self._size: i64 = 0
        self._as_json = as_json
        self._clock = clock
        self._stamp_at = stamp
        self._wake = wake
        self._second = -1.0
        self._stamp = b""
        self.expected = False
        file.complete.append(self.form)

    def record(
        self,
        block: bytes,
        params: Mapping[bytes, bytes],
        role: int,
        status: int,
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
    ) -> None:
        """Take note of what this request's line tells."""
        now = self._clock()
        if not self._second <= now < self._second + 1.0:
            self._begin_second(now)
        unformed = _Unformed(
            block, role, status, body_bytes, bytes_in, duration, app_status, end, self._stamp
        )
        if block:
            self._unformed.append(unformed)
            self._held += len(block)
            if self._held >= _MOST_HELD or len(self._unformed) >= _MOST_UNFORMED:
                self.form()
        else:
            self.form()  # their order is that of their ends
            self._add(self._line(unformed, fields_of(params)))
        if not self.expected:
            self.expected = True
            self._wake()

    def form(self) -> None:
        """Form the lines that are still to be formed."""
        unformed = self._unformed
        if unformed:
            self._unformed = []
            self._held = 0
            for one in unformed:
                try:
                    # To decode all params, where nobody else has, costs more than the line.
                    line = self._line(one, _needed_fields(one.block))
                except Exception:  # noqa: BLE001 - logged; the file never fails its writer
                    _log.exception("a line of the access log cannot be formed; it is left out")
                else:
                    self._add(line)

    def _add(self, line: bytes) -> None:
        lines = self._lines
        if not lines:
            self._size = 0
        lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_SIZE:
            self._file.flush()

    def _line(self, one: _Unformed, fields: Fields) -> bytes:
        if self._as_json:
            return _as_json(
                fields, one.role, one.status, one.body_bytes, one.bytes_in, one.duration,
                one.app_status, one.end, one.stamp,
            )  # fmt: skip
        return _combined(
            fields, one.role, one.status, one.body_bytes, one.bytes_in, one.duration,
            one.app_status, one.end, one.stamp,
        )  # fmt: skip

    def _begin_second(self, now: float) -> None:
        second = int(now)
        self._second = float(second)
        stamp = self._stamp_at(second)
        self._stamp = stamp if self._as_json else _between(stamp)


def combined_line(fields: Fields, role: int, outcome: Outcome, stamp: bytes) -> bytes:
    """The line of one request in the combined format, with its newline.

    Args:
        fields: what the front end sent.
        role: the request's role.
        outcome: how it ended.
        stamp: when it ended, as the format writes it.
    """
    return _combined(
        fields, role, outcome.status or 0, outcome.body_bytes, outcome.bytes_in,
        outcome.duration, outcome.app_status,
        end_of(outcome.reason, outcome.failed, outcome.refused), _between(stamp),
    )  # fmt: skip


def json_line(fields: Fields, role: int, outcome: Outcome, stamp: str) -> bytes:
    """The same as a JSON object; what the front end did not send is ``null``."""
    return _as_json(
        fields, role, outcome.status or 0, outcome.body_bytes, outcome.bytes_in,
        outcome.duration, outcome.app_status,
        end_of(outcome.reason, outcome.failed, outcome.refused), stamp.encode(),
    )  # fmt: skip


def _between(stamp: bytes) -> bytes:
    """What stands between address and method where there is no user."""
    return b' - - [%b] "' % stamp


def _combined(
    fields: Fields,
    role: int,
    status: int,
    body_bytes: int,
    bytes_in: int,
    duration: float,
    app_status: int,
    end: str,
    between: bytes,
) -> bytes:
    address = _told(fields[0])
    user = fields[1]
    method = _told(fields[2])
    target = fields[_TARGET] if len(fields[_TARGET]) else _told(_target_of(fields))
    protocol = _told(fields[4])
    referer = fields[5]
    agent = _told(fields[6])
    # One pass over all that the peer chose, and a second look only where that finds
    # something. The first two fields stand outside quotes.
    told = b"".join((address, user, method, target, protocol, referer, agent))
    if not _is_plain(told) or _SPACE in address or (len(user) and _SPACE in user):
        address = _escaped(address).replace(b" ", rb"\x20")
        user = _escaped(user).replace(b" ", rb"\x20")
        method, target, protocol = _escaped(method), _escaped(target), _escaped(protocol)
        referer, agent = _escaped(referer), _escaped(agent)
    # What is usual is one piece: a line costs what its pieces do.
    if len(user):
        between = b" - %b%b" % (user, between[4:])
    from_where = b' "%b" "' % referer if len(referer) else b' "-" "'
    micros: i64 = int(duration * 1e6 + 0.5)
    millis: i64 = micros // 1000
    time = b'" time=0.' if millis < 1000 else b'" time=%d.' % (millis // 1000)
    code = _STATUSES[status] if 0 <= status < 1000 else b'" %d ' % status
    if bytes_in == 0 and app_status == 0 and end == COMPLETE and role == _RESPONDER:
        rest = _USUAL_END
    else:
        told_role = "" if role == _RESPONDER else f" role={_ROLES.get(role, str(role))}"
        rest = f" in={bytes_in} app_status={app_status} end={end}{told_role}\n".encode()
    # Joined, which takes half the time of a format.
    return b"".join((
        address, between, method, b" ", target, b" ", protocol, code, _number(body_bytes),
        from_where, agent, time, _THREE_DIGITS[millis % 1000], _THREE_DIGITS[micros % 1000], rest,
    ))  # fmt: skip


def _as_json(
    fields: Fields,
    role: int,
    status: int,
    body_bytes: int,
    bytes_in: int,
    duration: float,
    app_status: int,
    end: str,
    stamp: bytes,
) -> bytes:
    uri = fields[_TARGET] or _target_of(fields) or b"-"
    told = b"".join((
        fields[0], fields[1], fields[2], uri, fields[4], fields[5], fields[6],
    ))  # fmt: skip
    plain = _is_plain(told)
    return (
        b'{"time": "%b", "logger": "trifcgi.access", "remote_addr": %b, "remote_user": %b, '
        b'"method": %b, "uri": %b, "protocol": %b, "status": %b, "bytes": %b, "referer": %b, '
        b'"user_agent": %b, "duration": %b, "bytes_in": %b, "app_status": %b, "end": "%b", '
        b'"role": %b}\n' % (
            stamp,
            _text(fields[0], plain), _text(fields[1], plain), _text(fields[2], plain),
            _text(uri, plain), _text(fields[4], plain),
            _number(status) if status else b"null", _number(body_bytes),
            _text(fields[5], plain), _text(fields[6], plain),
            b"%.6f" % duration, _number(bytes_in), _number(app_status), end.encode(),
            b'"%b"' % _ROLES[role].encode() if role in _ROLES else _number(role),
        )
    )  # fmt: skip


def _text(value: bytes, plain: bool) -> bytes:
    if not value:
        return b"null"
    if plain:
        return b'"%b"' % value
    return json.dumps(value.decode("utf-8", "backslashreplace")).encode()


def _number(number: int) -> bytes:
    if 0 <= number < 1000:
        return _UP_TO_THREE[number]
    if 0 <= number < 1_000_000:
        return b"%b%b" % (_UP_TO_THREE[number // 1000], _THREE_DIGITS[number % 1000])
    return b"%d" % number


def _told(value: bytes) -> bytes:
    return value if len(value) else b"-"


def _target_of(fields: Fields) -> bytes:
    """The request target, where the front end sends no REQUEST_URI; ``b""`` if it is not told."""
    path = fields[7] + fields[8]
    query = fields[9]
    return path + b"?" + query if query else path


def _is_plain(value: bytes) -> bool:
    # Where nothing changes it is the same object, which is compared in no time.
    return value.translate(_PLAIN) == value


def _escaped(value: bytes) -> bytes:
    if _is_plain(value):
        return value
    value = value.replace(b"\\", rb"\\").replace(b'"', rb"\"")
    text = value.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join([c if c.isprintable() else _spelled(c) for c in text])
    return text.encode()


def _spelled(character: str) -> str:
    return "".join([f"\\x{byte:02x}" for byte in character.encode()])
